"""Checks of Mask R-CNN and of the tracking head over it: the whole network, its five losses, association."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers import rpn
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.layers.roi_align import align_own, roi_align
from vis_models.losses import track_loss
from vis_models.mask_rcnn import losses
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.mask_rcnn.model import MaskRcnn
from vis_models.masktrack_rcnn import association
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.masktrack_rcnn.model import MaskTrackEncoded, MaskTrackRcnn, MaskTrackState, TrackHead
from vis_models.matching import NEW, similarity
from vis_models.truths import Truth
from vis_models.types import VideoInfo

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
        encoded = model.in_slots(found, model.masks_under(levels, found), sizes)
    case.close("out.mask_probability_first_12", encoded.mask_logits[0, :12].sigmoid(), 1e-3)  # stored in 16 bits
    original = (int(case["in.original_size"][0]), int(case["in.original_size"][1]))
    scale = torch.tensor(original) / sizes[0]
    case.close("out.original_boxes", found.boxes_px * scale.flip(0).repeat(2), NETWORK)
    masks = model.masks_of(encoded, 0, range(len(found.boxes_px)), original)
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


TRACK_SHAPES = {
    "track_head.fcs.0.weight": (1024, 256 * 7 * 7),
    "track_head.fcs.0.bias": (1024,),
    "track_head.fcs.1.weight": (1024, 1024),
    "track_head.fcs.1.bias": (1024,),
}


def track_head(case: Case, final_relu: bool) -> TrackHead:
    head = TrackHead(256, 1024, final_relu)
    state = checkpoint(TRACK_SHAPES, case.overrides)
    head.load_state_dict({key.removeprefix("track_head."): value for key, value in state.items()})
    return head.eval()


def tracking_head(case: Case) -> None:
    counts, references = case["in.num_x"].tolist(), case["in.num_ref"].tolist()
    x = noise(case["in.seed_x"], (sum(counts), 256, 7, 7), 0.25).requires_grad_()
    reference = noise(case["in.seed_ref"], (sum(references), 256, 7, 7), 0.25)
    targets, weights = case["in.targets"].split(counts), case["in.weights"].split(counts)
    for suffix, final_relu in (("", False), ("_final_relu", True)):
        head = track_head(case, final_relu)
        pairs = zip(head(x).split(counts), head(reference).split(references), strict=True)
        logits = [similarity(own, memory) for own, memory in pairs]
        for number, values in enumerate(logits):
            case.close(f"out.logits{suffix}_{number}", values, NETWORK)
        if not final_relu:
            loss = track_loss(logits, targets, "positives", weights)
            case.close("out.loss_original", loss, OPERATOR)
            case.close("out.loss_mmtracking", track_loss(logits, targets, "known", weights), OPERATOR)
            (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
            case.close("out.grad_x_norm", gradient.norm(), SEQUENCE_GRADIENT)


def tracker(classes: int, **changes: Any) -> MaskTrackRcnn:
    """The tracking head of the published size over a detector that is not asked."""
    backbone = ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1))
    plus_one = changes.pop("plus_one", False)
    detector = MaskRcnnConfig(
        num_classes=classes, backbone=backbone, box_width=8, mask_convs=1, image_size=(SIDE_PX, SIDE_PX), detections=16,
        plus_one=plus_one,
    )  # fmt: skip
    return MaskTrackRcnn(MaskTrackConfig(detector=detector, **changes)).eval()


SIDE_PX = 4096


def detections(boxes: Tensor, labels: Tensor, classes: int, embedding: Tensor) -> MaskTrackEncoded:
    """One frame of given detections: (x0, y0, x1, y1, score) each."""
    scores = F.one_hot(labels, classes) * boxes[:, 4:]
    return MaskTrackEncoded(
        boxes_px=boxes[None, :, :4],
        scores=boxes[None, :, 4],
        labels=labels[None],
        class_scores=scores[None],
        mask_logits=torch.ones(1, len(boxes), 28, 28),
        valid=torch.ones(1, len(boxes), dtype=torch.bool),
        frame_px=torch.tensor([[SIDE_PX, SIDE_PX]]),
        embedding=embedding[None],
    )


def sequence(case: Case) -> None:
    counts = case["in.num_det"].tolist()
    classes = int(case["in.labels"].max()) + 1
    head = track_head(case, final_relu=False)
    model, faulty = tracker(classes), tracker(classes, plus_one=True, duplicate_ids=True)
    state, released = (each.start([VideoInfo("golden", SIDE_PX, SIDE_PX)]) for each in (model, faulty))
    for t, count in enumerate(counts):
        shapes = [(256, 7, 7)] * count
        seeds = zip(case["in.roi_object_seed"][t], case["in.roi_noise_seed"][t], shapes, strict=False)
        pooled = [noise(one, shape, 0.25) + noise(other, shape, 0.08) for one, other, shape in seeds]
        with torch.no_grad():
            embedding = head(torch.stack(pooled)) if pooled else torch.zeros(0, 1024)
        boxes, labels = case["in.boxes"][t, :count], case["in.labels"][t, :count]
        encoded, out = detections(boxes, labels, classes, embedding), f"out.f{t}."
        if f"{out}embedding" in case:
            case.close(f"{out}embedding", embedding[:, ::16], NETWORK)
        live, released_live = state.live(0), released.live(0)
        if f"{out}logits" in case:
            _cues(case, out, model, faulty, encoded, state, released)
        own = association.assign(model.config, model.scores(encoded, state, live))
        other = association.assign(faulty.config, faulty.scores(encoded, released, released_live))
        for name, track, before, of in (("ids", own, state, live), ("released_ids", other, released, released_live)):
            if f"{out}{name}" in case:
                case.same(f"{out}{name}", _ids(track, before, of))
        (said,), state = model.step(encoded, state)
        _, released = faulty.step(encoded, released)
        shown = sorted(int(id_) for id_ in _ids(own, state, live, int(state.births)) if id_ >= 0) if count else []
        assert len(said.sightings[0].track_ids) == len(shown)


def _ids(track: Tensor, state: MaskTrackState, live: list[int], births: int | None = None) -> Tensor:
    """Ids of detections before the frame's births; new ones count on from there, in the detections' order."""
    births = int(state.births) if births is None else births
    ids = []
    for column in track.tolist():
        if column == NEW:
            ids.append(births)
            births += 1
        else:
            ids.append(int(state.track_id[0, live[column]]) if column >= 0 else -1)
    return torch.tensor(ids, dtype=torch.long)


def _cues(
    case: Case,
    out: str,
    model: MaskTrackRcnn,
    faulty: MaskTrackRcnn,
    encoded: MaskTrackEncoded,
    state: MaskTrackState,
    released: MaskTrackState,
) -> None:
    """Each cue alone, and every set of them that the case has."""
    live = state.live(0)
    logits = similarity(encoded.embedding[0], state.embedding[0, live])
    case.close(f"{out}logits", logits, NETWORK)
    case.close(f"{out}log_prob", logits.log_softmax(1), NETWORK)
    case.close(f"{out}iou", model.overlap(encoded, state, live), OPERATOR)
    case.close(f"{out}iou_legacy", faulty.overlap(encoded, released, released.live(0)), OPERATOR)
    case.close(f"{out}same_label", (encoded.labels[0][:, None] == state.label[0, live]).float(), OPERATOR)
    score = model.scores(encoded, state, live)
    case.close(f"{out}score", score, NETWORK)
    legacy = faulty.scores(encoded, released, released.live(0))
    case.close(f"{out}score_legacy_iou", legacy, NETWORK)
    best = legacy.topk(2, dim=1).values
    case.close(f"{out}margin", best[:, 0] - best[:, 1], NETWORK)
    for key in (key for key in case.outputs if key.startswith(f"{out}score_cues_")):
        cues = key.removeprefix(f"{out}score_cues_").split("_")
        switches = {f"{cue}_cue": word in cues for cue, word in (("det", "det"), ("iou", "iou"), ("category", "cat"))}
        config = model.config.model_copy(update=switches)
        same = encoded.labels[0][:, None] == state.label[0, live]
        overlap = model.overlap(encoded, state, live)
        case.close(key, association.score(config, logits, encoded.scores[0], overlap, same), NETWORK)


def match_score(case: Case) -> None:
    boxes, before = case["in.boxes"], case["in.prev_boxes"]
    same = case["in.labels"][:, None] == case["in.prev_labels"]
    score = association.score(
        MaskTrackConfig(), case["in.logits"], boxes[:, 4], box_ops.iou(boxes[:, :4], before[:, :4]), same
    )
    case.close("out.score", score, OPERATOR)
    case.same("out.argmax", score.argmax(1))
    for name, config in (("ids", MaskTrackConfig()), ("released_ids", MaskTrackConfig(duplicate_ids=True))):
        births, ids = int(case["in.num_tracks"]), []
        for column in association.assign(config, score).tolist():
            ids.append(births if column == NEW else int(case["in.track_ids"][column]) if column >= 0 else -1)
            births += column == NEW
        case.same(f"out.{name}", torch.tensor(ids))


CHECKS: dict[str, Callable[[Case], None]] = {
    "roi_align": align,
    "masktrack_track_head": tracking_head,
    "masktrack_sequence": sequence,
    "masktrack_match_score": match_score,
    "maskrcnn_v1_forward": forward,
    "maskrcnn_v2_forward": forward,
    "maskrcnn_v1_losses": five_losses,
    "maskrcnn_v2_losses": five_losses,
}
SLOW = ("maskrcnn_",)
