"""Checks of YOLACT: the whole network, box coding, suppression, masks and the four losses with their gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.yolact import losses as objective
from vis_models.yolact.config import YolactConfig
from vis_models.yolact.decisions import assemble, decode_boxes, encode_boxes, suppress
from vis_models.yolact.model import Yolact
from vis_models.yolact.output import Instances, YolactOutput

from .case import NETWORK, OPERATOR, Case
from .layers import features, load_published
from .layouts import yolact_shapes
from .weights import checkpoint, noise

PIXELS = 1e-4  # share of the pixels of a thresholded map that may differ


def forward(case: Case) -> None:
    height, width = case["in.input_size"].tolist()
    config = YolactConfig.released().model_copy(update={"image_size": (height, width)})
    model = Yolact(config).eval()
    state = checkpoint(yolact_shapes(50, config.num_classes), case.overrides)
    report = load_published(model, state)
    assert report.loaded == len(state)
    assert report.missing == report.unexpected == report.reshaped == []
    images = noise(case["in.input_seed"], (1, 3, height, width))
    with torch.no_grad():
        output = model.outputs(images)
        maps = features(model.backbone, images)
        levels = {f"p{level}": values for level, values in enumerate(model.fpn(output.features), start=3)}
    case.stats("out.input_samples", images, OPERATOR)  # in the form of stats, whatever its name
    for name in ("c2", "c3", "c4", "c5"):
        case.stats(f"out.{name}_stats", maps[name], NETWORK)
    for name, values in levels.items():
        case.stats(f"out.{name}_stats", values, NETWORK)
    case.same("out.num_priors", torch.tensor(len(model.priors)))
    rows = slice(None, None, 97)
    case.close("out.priors", model.priors[rows], NETWORK)
    decoded = box_ops.corners(decode_boxes(output.boxes[0], model.priors))
    case.close("out.decoded_box", decoded[rows], NETWORK)
    for name, values in (("box", output.boxes), ("class", output.logits), ("coef", output.coefficients)):
        case.close(f"out.{name}", values[0, rows], NETWORK)
        case.stats(f"out.{name}_stats", values, NETWORK)
    prototypes, semantic = output.prototypes[0].permute(1, 2, 0), output.semantic[0]
    case.close("out.proto", prototypes[::9, ::9], NETWORK)
    case.close("out.semantic", semantic[:, ::9, ::9], NETWORK)
    for name, values in (("proto", prototypes), ("semantic", semantic)):
        case.same(f"out.{name}_shape", torch.tensor(values.shape))
        case.stats(f"out.{name}_stats", values, NETWORK)


def box_coding(case: Case) -> None:
    priors, truth = case["in.priors"], case["in.gt"]
    encoded = encode_boxes(truth, priors)
    case.close("out.decoded", box_ops.corners(decode_boxes(case["in.loc"], priors)), OPERATOR)
    case.close("out.encoded", encoded, OPERATOR)
    case.close("out.decode_of_encoded", box_ops.corners(decode_boxes(encoded, priors)), OPERATOR)
    case.close("out.iou", box_ops.iou(truth, case["out.decoded"]), OPERATOR)


def fast_nms(case: Case) -> None:
    boxes, scores, iou = case["in.boxes"], case["in.scores"], case["in.iou_threshold"].item()
    forms = {
        "per_class": {},
        "per_class_top20": {"pool": 20},
        "cross_class": {"cross_class": True, "top": len(boxes)},
    }
    for form, options in forms.items():
        classes, index, score = suppress(boxes, scores, iou, **options)
        case.same(f"out.{form}.classes", classes)
        case.close(f"out.{form}.boxes", boxes[index], OPERATOR)
        case.close(f"out.{form}.coef", case["in.coef"][index], OPERATOR)
        case.close(f"out.{form}.scores", score, OPERATOR)


def mask_assembly(case: Case) -> None:
    kept = case["in.score"] > case["in.score_threshold"]
    boxes, prototypes = case["in.box"][kept], case["in.proto"].permute(2, 0, 1)
    masks = assemble(case["in.coef"][kept], prototypes, boxes)
    found = Instances(case["in.class"][kept], case["in.score"][kept], boxes.clamp(0, 1), masks)
    width, height = case["in.image_wh"].tolist()
    boxes_px, pixels = found.at((height, width))
    case.same("out.classes", found.classes)
    case.close("out.scores", found.scores, OPERATOR)
    case.same("out.boxes_px", boxes_px)
    case.same("out.masks", pixels, PIXELS)


def losses(case: Case) -> None:
    small = {"backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)), "channels": 8, "prototype_channels": 8}
    model = Yolact(YolactConfig.released().model_copy(update=small))  # the network is not asked, its priors are
    case.close("in.priors_full", model.priors, 1e-6)
    output = _predictions(case["in.seeds"], len(case["in.num_gt"]), model)
    truth = _annotations(case)
    terms = model.terms(output, **truth)
    for name in ("box", "class", "mask", "semantic"):
        case.close(f"out.loss_{name}", terms[name], OPERATOR)
    total = torch.stack(list(terms.values())).sum()
    case.close("out.loss_total", total, OPERATOR)

    regular, crowd = truth["visible"] & ~truth["crowd"], truth["visible"] & truth["crowd"]
    matched, state = objective.match(model.config, model.priors, truth["boxes"], regular, crowd)
    category = torch.where(state == 1, truth["labels"].gather(1, matched) + 1, state)
    case.same("out.match_class", category)
    case.same("out.match_gt", torch.where(state == 1, matched, -1))
    case.same("out.num_pos", (state == 1).sum(1))
    case.same("out.num_neutral", (state == -1).sum(1))
    image, prior = (state == 1).nonzero(as_tuple=True)
    case.same("out.pos_index", torch.stack([image, prior], 1)[: len(case["out.pos_index"])])
    image, prior = case["out.pos_index"].long().unbind(1)
    target = encode_boxes(truth["boxes"][image, matched[image, prior]], model.priors[prior])
    case.close("out.pos_box_target", target, OPERATOR)

    total.backward()
    for name, values in (("box", output.boxes), ("cls", output.logits), ("coef", output.coefficients)):
        case.close(f"out.gradnorm_{name}", values.grad.norm(), OPERATOR)
        case.close(f"out.grad_at_pos_{name}", values.grad[image, prior], OPERATOR)
    prototypes = output.prototypes.grad.permute(0, 2, 3, 1)
    case.close("out.gradnorm_proto", prototypes.norm(), OPERATOR)
    case.close("out.gradnorm_semantic", output.semantic.grad.norm(), OPERATOR)
    case.close("out.grad_proto", prototypes[:, ::13, ::13], OPERATOR)
    case.close("out.grad_semantic", output.semantic.grad[:, :, ::23, ::23], OPERATOR)


def _predictions(seeds: Tensor, images: int, model: Yolact) -> YolactOutput:
    """Stored as seeds, in this order and at these scales; P3 has an eighth of the image's size, rounded up."""
    config, priors = model.config, len(model.priors)
    rows, columns = (-(-side // 8) for side in config.image_size)
    prototypes = noise(seeds[3], (images, 2 * rows, 2 * columns, config.prototypes), 0.5).relu()
    predicted = [
        noise(seeds[0], (images, priors, 4), 0.5),
        noise(seeds[1], (images, priors, config.num_classes + 1), 1.5),
        noise(seeds[2], (images, priors, config.prototypes)).tanh(),
        prototypes.permute(0, 3, 1, 2).contiguous(),
        noise(seeds[4], (images, config.num_classes, rows, columns)),
    ]
    none = torch.zeros(images, 1, 1, 1)
    return YolactOutput(*(values.requires_grad_() for values in predicted), features=(none, none, none))


def _annotations(case: Case) -> dict[str, Tensor]:
    """Annotations of all images in one row, as slots of each image; slots without an annotation are not visible."""
    counts, crowds = case["in.num_gt"].tolist(), case["in.num_crowds"].tolist()

    def slots(values: Tensor) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(values.split(counts)), batch_first=True)

    visible = slots(torch.ones(sum(counts), dtype=torch.bool))
    crowd = torch.zeros_like(visible)
    for image, (count, last) in enumerate(zip(counts, crowds, strict=True)):
        crowd[image, count - last : count] = True
    return {
        "boxes": slots(case["in.gt_boxes"]),
        "masks": slots(case["in.gt_masks"].bool()),
        "labels": slots(case["in.gt_labels"]),
        "crowd": crowd,
        "visible": visible,
    }


CHECKS: dict[str, Callable[[Case], None]] = {
    "yolact_forward": forward,
    "yolact_box_coding": box_coding,
    "yolact_fast_nms": fast_nms,
    "yolact_mask_assembly": mask_assembly,
    "yolact_losses": losses,
}
SLOW = ("yolact_forward", "yolact_losses")
