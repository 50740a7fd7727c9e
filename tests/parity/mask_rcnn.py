"""Checks of Mask R-CNN and of the tracking head over it: the whole network, its five losses, association."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vis_models.layers import rpn
from vis_models.layers.roi_align import align_own, roi_align
from vis_models.mask_rcnn import losses
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.mask_rcnn.losses import Truth
from vis_models.mask_rcnn.model import MaskRcnn, masks_of

from .case import NETWORK, OPERATOR, SEQUENCE_GRADIENT, Case
from .layers import load_published
from .layouts import mask_rcnn_shapes
from .weights import checkpoint, noise, rule

PIXELS = 1e-4  # share of the pixels of a thresholded map that may differ
AREA_PX = 2


def align(case: Case) -> None:
    boxes, frame = case["in.rois"][:, 1:], case["in.rois"][:, 0].long()
    cells, stride = int(case["in.output_size"]), 1 / case["in.spatial_scale"].item()
    for key in (key for key in case.outputs if not key.endswith("_grad")):
        alignment, _, samples = key.removeprefix("out.").rpartition("_")
        count = None if samples == "adaptive" else int(samples.removeprefix("samples"))
        features = case["in.features"].clone().requires_grad_()
        level = torch.zeros_like(frame)
        found = roi_align([features], boxes, frame, level, [stride], cells, alignment, count)  # type: ignore[arg-type]
        case.close(key, found, OPERATOR)
        if f"{key}_grad" in case:
            found.backward(case["in.grad_output"])
            case.close(f"{key}_grad", features.grad, OPERATOR)
        for channel, values in enumerate(features.detach().unbind(1)):  # the other way to compute it
            alone = align_own(values[frame], boxes / stride, cells, alignment, count)  # type: ignore[arg-type]
            if alignment != "plus_one":  # whose last pixel is one of the input
                assert torch.allclose(alone, found[:, channel].detach(), atol=1e-5)


def detector(case: Case, **changes: Any) -> MaskRcnn:
    """torchvision's model, from a file with its keys."""
    version = int(case.name.split("maskrcnn_v")[1][0])
    scales = {key.removeprefix("scale."): value for key, value in case.inputs.items() if key.startswith("scale.")}
    shapes = mask_rcnn_shapes(version)
    state = checkpoint(shapes, {key: rule(key, shapes[key]) * factor for key, factor in scales.items()})
    config = MaskRcnnConfig.torchvision(version).model_copy(update=changes)  # type: ignore[arg-type]
    model = MaskRcnn(config).eval()
    report = load_published(model, state)
    assert report.loaded == len(state)
    assert report.missing == report.unexpected == report.reshaped == []
    return model


def forward(case: Case) -> None:
    height, width = (int(side) for side in case["in.image_size"])
    model = detector(
        case,
        proposals_per_level=int(case["in.pre_nms_top_n"]),
        proposals=int(case["in.post_nms_top_n"]),
        detections=int(case["in.detections"]),
    )
    images, sizes = noise(case["in.input_seed"], (1, 3, height, width)), torch.tensor([[height, width]])
    with torch.no_grad():
        levels = model.pyramid(images)
        for name, values in zip(("0", "1", "2", "3", "pool"), levels, strict=True):
            case.stats(f"out.fpn_{name}_stats", values, NETWORK)
        for number, (logits, told) in enumerate(model.rpn(levels)):
            case.stats(f"out.rpn{number}.objectness_stats", logits, NETWORK)
            case.stats(f"out.rpn{number}.deltas_stats", told, NETWORK)
        regions = model.regions(levels, (height, width))
        anchors = torch.cat(regions.anchors)
        case.same("out.num_anchors", torch.tensor(len(anchors)))
        case.close("out.anchors_every_97", anchors[::97], NETWORK)
        (proposals,) = model.propose(regions, sizes)
        case.same("out.num_proposals", torch.tensor(len(proposals)))
        case.close("out.proposals", proposals, NETWORK)
        first = torch.zeros(len(proposals), dtype=torch.long)
        pooled = model.pooled(levels, proposals, first)
        case.stats("out.pooled_stats", pooled, NETWORK)
        logits, told = model.classify(pooled)
        case.close("out.class_logits_every_9", logits[::9], NETWORK)
        case.stats("out.box_deltas_stats", told.flatten(1), NETWORK)
        found = model.decide(logits, told, proposals, first, sizes)
        case.close("out.boxes", found.boxes_px, NETWORK)
        case.close("out.scores", found.scores, NETWORK)
        case.same("out.labels", found.labels + 1)
        encoded = model.in_slots(found, model.masks(levels, found), sizes)
    case.close("out.mask_probability_first_12", encoded.mask_logits[0, :12].sigmoid(), 1e-3)  # stored in 16 bits
    original = (int(case["in.original_size"][0]), int(case["in.original_size"][1]))
    scale = torch.tensor(original) / sizes[0]
    case.close("out.original_boxes", found.boxes_px * scale.flip(0).repeat(2), NETWORK)
    masks = masks_of(encoded, 0, range(len(found.boxes_px)), original)
    off = (torch.tensor(masks.areas_px()) - case["out.mask_area_px"]).abs().max()
    assert off <= AREA_PX, f"{case.name}: the area of a mask is {off} px off"
    packed = case["out.masks_first_6_packed"]
    whole = np.unpackbits(packed.numpy(), axis=1, count=original[0] * original[1]).astype(bool)
    differ = masks.whole()[: len(whole)].flatten(1) != torch.from_numpy(whole)
    assert differ.double().mean() <= PIXELS, f"{case.name}: {differ.double().mean():.2%} of the masks' pixels differ"


def five_losses(case: Case) -> None:
    height, width = (int(side) for side in case["in.image_size"])
    model = detector(case, region_samples=10**6, region_positive_share=1.0, box_samples=10**6, positive_share=1.0)
    images = sum(key.startswith("in.boxes_") for key in (f"in.{name}" for name in case.inputs))
    truths = [_truth(case, number, (height, width)) for number in range(images)]
    levels = model.pyramid(noise(case["in.input_seed"], (images, 3, height, width)))
    found = model.regions(levels, (height, width))
    anchors = torch.cat(found.anchors)
    config = model.config
    for number, truth in enumerate(truths):
        _, state = rpn.assign(anchors, truth.boxes_px, truth.crowds_px, config.region_positive_iou,
                              config.region_negative_iou, True)  # fmt: skip
        counts = torch.stack([(state == kind).sum() for kind in (-1, 0, 1)])
        case.same(f"out.rpn_labels_{number}_counts", counts)
        case.same(f"out.rpn_positive_{number}", (state == 1).nonzero().squeeze(1))
    sampled = losses.draw(config, [case[f"in.proposals_{number}"] for number in range(images)], truths)
    for number in range(images):
        own = sampled.frame == number
        case.same(f"out.num_sampled_{number}", own.sum())
        case.same(f"out.num_positive_{number}", (own & sampled.positive).sum())
    pooled = model.pooled(levels, sampled.boxes_px, sampled.frame)
    terms = model.region_losses(found, truths) | model.head_losses(levels, pooled, sampled, truths)
    names = {
        "objectness": "objectness",
        "rpn_box_reg": "region",
        "classifier": "class",
        "box_reg": "box",
        "mask": "mask",
    }
    for theirs, ours in names.items():
        case.close(f"out.loss_{theirs}", terms[ours], NETWORK)
    torch.stack(list(terms.values())).sum().backward()
    parameters = dict(model.named_parameters())
    for key in [key for key in case.outputs if key.startswith("out.grad.")]:
        name = key.removeprefix("out.grad.").removesuffix("_stats")
        (ours,) = (model.from_published({name: torch.zeros(0), MARK: torch.zeros(0)}) or ("", {}))[1].keys() - {
            OWN_MARK
        }
        case.stats(key, parameters[ours].grad, SEQUENCE_GRADIENT)


MARK, OWN_MARK = "backbone.body.layer1.0.conv1.weight", "backbone.layer1.0.conv1.weight"
"""The key by which torchvision's layout is known, and ours for it."""


def _truth(case: Case, number: int, size: tuple[int, int]) -> Truth:
    boxes, packed = case[f"in.boxes_{number}"], case[f"in.masks_{number}_packed"].numpy()
    masks = np.unpackbits(packed, axis=1, count=size[0] * size[1]).reshape(-1, *size).astype(bool)
    labels = case[f"in.labels_{number}"] - 1
    return Truth(boxes, labels, torch.from_numpy(masks), torch.arange(len(boxes)), torch.zeros(0, 4))


CHECKS: dict[str, Callable[[Case], None]] = {
    "roi_align": align,
    "maskrcnn_v1_forward": forward,
    "maskrcnn_v2_forward": forward,
    "maskrcnn_v1_losses": five_losses,
    "maskrcnn_v2_losses": five_losses,
}
SLOW = ("maskrcnn_",)
