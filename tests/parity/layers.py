"""Checks of what models share: residual networks, boxes and losses; and of the rule for weights itself."""

from collections.abc import Callable
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.checkpoints import LoadReport, initialise
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.layers.deformable_convolution import deformable_convolution
from vis_models.losses import lovasz_gradient, lovasz_hinge, lovasz_softmax
from vis_models.yolact.config import YolactConfig
from vis_models.yolact.decisions import suppress
from vis_models.yolact.model import Yolact

from .case import NETWORK, OPERATOR, Case, stats
from .layouts import resnet_shapes, yolact_shapes
from .weights import checkpoint, noise, rule

# Tensors of models that are not built here, which the samples of the rule mention
OTHER_SHAPES = {
    "track_descriptor.init_var": (512,),
    "detr.detr.query_embed.weight": (300, 512),
    "detr.detr.transformer.encoder.layers.0.norm1.weight": (256,),
    "track_head.fcs.0.bias": (1024,),
}


def load_published(model: Yolact, state: dict[str, Tensor]) -> LoadReport:
    """Write a checkpoint in its published layout and start the model from the file."""
    with TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "published.pth")
        return initialise(model, Path(folder) / "published.pth")


def fill_rule(case: Case) -> None:
    shapes = resnet_shapes(101) | yolact_shapes(50, 80) | OTHER_SHAPES
    for key in case.outputs:
        name = key.removeprefix("out.")
        samples = len(case[key])
        case.close(key, stats(rule(name, shapes[name]), samples)[2:].float(), 1e-7)


def resnet(case: Case) -> None:
    depth = int(case["in.depth"])
    # The backbone of a detector is the product's way into a ResNet checkpoint; the rest of it can be small
    small = {"channels": 8, "prototypes": 2, "prototype_channels": 8, "image_size": (64, 64)}
    model = Yolact(YolactConfig(backbone=ResNetConfig(depth=depth), **small)).eval()
    state = checkpoint(resnet_shapes(depth), case.overrides)
    report = load_published(model, state)
    assert report.unexpected == report.reshaped == []
    assert not [key for key in report.missing if key.startswith("backbone.")]
    images = noise(case["in.input_seed"], (case["in.batch"], 3, *case["in.input_size"]))
    with torch.no_grad():
        maps = features(model.backbone, images)
        pooled = maps["c5"].mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    for name, values in maps.items():
        case.stats(f"out.{name}_stats", values, NETWORK)
        if f"out.{name}_shape" in case:
            case.same(f"out.{name}_shape", torch.tensor(values.shape))
            case.close(f"out.{name}_channel_mean", values.double().mean((0, 2, 3)), NETWORK)
    case.close("out.fc", pooled, NETWORK)


def features(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Every map of a ResNet by its usual name, the ones that it keeps to itself as well."""
    maps: dict[str, Tensor] = {}
    hooks = [
        backbone.maxpool.register_forward_hook(lambda _, x, y: maps.update(stem=x[0].clone(), pool=y.clone())),
        backbone.layer1.register_forward_hook(lambda _, x, y: maps.update(c2=y.clone())),
    ]
    maps |= dict(zip(("c3", "c4", "c5"), backbone(images), strict=True))
    for hook in hooks:
        hook.remove()
    return maps


def box_nms(case: Case) -> None:
    boxes, scores, labels = case["in.boxes"], case["in.scores"], case["in.labels"]
    order = scores.argsort(descending=True)
    per_class = torch.where(labels == labels.unique()[:, None], scores, -inf)
    everything = {"pool": len(boxes), "top": len(boxes), "rule": "greedy", "min_score": -inf}
    for key in case.outputs:
        kind, _, percent = key.removeprefix("out.").partition("_")
        threshold = int(percent or 0) / 100
        if kind == "nms":
            case.same(key, order[box_ops.greedy_nms(boxes[order], threshold)])
        elif kind == "batched":
            case.same(key, suppress(boxes, per_class, threshold, cross_class=False, **everything)[1])
    case.close("out.iou", box_ops.iou(boxes, boxes), OPERATOR)
    case.close("out.giou", box_ops.generalised_iou(boxes, boxes), OPERATOR)


def deform_conv(case: Case) -> None:
    stride, padding, dilation = case["in.stride_pad_dilation"].tolist()
    for version, names in (("v1", ("x", "weight", "offset")), ("v2", ("x", "weight", "offset", "mask"))):
        given = {name: case[f"in.{name}"].clone().requires_grad_() for name in names}
        found = deformable_convolution(
            given["x"], given["offset"], given["weight"], case["in.bias"], given.get("mask"), stride, padding, dilation
        )
        case.close(f"out.{version}.output", found, OPERATOR)
        found.backward(case["in.grad_output"])
        for name in names:
            case.close(f"out.{version}.grad_{name}", given[name].grad, OPERATOR)


def lovasz(case: Case) -> None:
    ignore = int(case["in.ignore"])
    for images in ("per_image", "batch"):
        for classes in ("present", "all"):
            logits = case["in.logits"].clone().requires_grad_()
            probabilities = logits.softmax(1)
            probabilities.retain_grad()
            value = lovasz_softmax(probabilities, case["in.labels"], classes, images == "per_image", ignore)
            value.backward()
            form = f"out.{images}_{classes}"
            case.close(f"{form}.value", value, OPERATOR)
            case.close(f"{form}.grad_logits", logits.grad, OPERATOR)
            case.close(f"{form}.grad_probs", probabilities.grad, OPERATOR)


def lovasz_of_hinges(case: Case) -> None:
    logits = case["in.logits"].clone().requires_grad_()
    value = lovasz_hinge(logits, case["in.labels"])
    value.backward()
    case.close("out.value", value, OPERATOR)
    case.close("out.grad", logits.grad, OPERATOR)


def lovasz_gradient_vector(case: Case) -> None:
    for name, truth in case.inputs.items():
        case.close(f"out.{name}", lovasz_gradient(truth), OPERATOR)


CHECKS: dict[str, Callable[[Case], None]] = {
    "fill_rule": fill_rule,
    "resnet": resnet,
    "box_nms": box_nms,
    "deform_conv_": deform_conv,
    "lovasz_": lovasz,
    "lovasz_hinge": lovasz_of_hinges,
    "lovasz_gradient_vector": lovasz_gradient_vector,
}
SLOW = ("resnet",)
