"""The training objective of YOLACT: priors matched with annotations, and four weighted terms.

Source and axes: as `model.py`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers.resize import resize_logits
from vis_models.losses import mean_over_workers
from vis_models.yolact.config import YolactConfig
from vis_models.yolact.decisions import crop, encode_boxes, take
from vis_models.yolact.output import YolactOutput


def terms(
    config: YolactConfig,
    priors: Float[Tensor, "P 4"],
    output: YolactOutput,
    boxes: Float[Tensor, "F A 4"],
    masks: Bool[Tensor, "F A H W"],
    labels: Int[Tensor, "F A"],
    crowd: Bool[Tensor, "F A"],
    visible: Bool[Tensor, "F A"],
) -> dict[str, Tensor]:
    """Loss terms for annotated boxes as fractions of the image; annotations that are not visible are padding."""
    matched, state = match(config, priors, boxes, visible & ~crowd, visible & crowd)
    positive = state == 1
    # Differs from the authors' code, which divides by zero where a batch has no positives
    count = mean_over_workers(positive.sum()).clamp(min=1)
    target = torch.where(positive, labels.gather(1, matched) + 1, 0)
    weights = config
    return {
        "class": weights.class_weight * class_term(config, output.logits, target, state) / count,
        "box": weights.box_weight * box_term(config, priors, output.boxes, boxes, matched, positive) / count,
        "mask": weights.mask_weight * mask_term(config, output, boxes, masks, matched, positive) / count,
        "semantic": weights.semantic_weight * semantic_term(config, output.semantic, masks, labels, visible & ~crowd),
    }


@torch.no_grad()
def match(
    config: YolactConfig,
    priors: Float[Tensor, "P 4"],
    boxes: Float[Tensor, "F A 4"],
    regular: Bool[Tensor, "F A"],
    crowd: Bool[Tensor, "F A"],
) -> tuple[Int[Tensor, "F P"], Int[Tensor, "F P"]]:
    """The annotation of each prior, and its state: 1 positive, 0 background, -1 neither.

    Every annotation first claims its best prior, the best pair of all first and each prior once.
    """
    priors = box_ops.corners(priors)
    overlap = box_ops.iou(boxes, priors.expand(len(boxes), -1, -1)).masked_fill(~regular[..., None], -1.0)
    best, matched = overlap.max(1)  # (F, P)
    claims, rows = overlap.clone(), torch.arange(len(boxes), device=boxes.device)
    for _ in range(boxes.shape[1]):
        value, flat = claims.flatten(1).max(1)
        annotation, prior = flat // claims.shape[2], flat % claims.shape[2]
        won = value >= 0
        best[rows[won], prior[won]] = 2.0
        matched[rows[won], prior[won]] = annotation[won]
        claims[rows, annotation] = -1.0
        claims[rows, :, prior] = -1.0
    state = torch.where(best >= config.positive_iou, 1, torch.where(best < config.negative_iou, 0, -1))
    covered = box_ops.intersection(priors.expand(len(boxes), -1, -1), boxes) / box_ops.area(priors)[:, None]
    in_crowd = (covered.masked_fill(~crowd[:, None], 0.0) > config.crowd_iou).any(-1)
    return matched, torch.where((state == 0) & in_crowd, -1, state)


def class_term(
    config: YolactConfig, logits: Float[Tensor, "F P C"], target: Int[Tensor, "F P"], state: Int[Tensor, "F P"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the positives and the hardest negatives, three for each positive of the image (OHEM)."""
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    negative, positive = state == 0, state == 1
    hardness = loss.detach().masked_fill(~negative, -1.0)
    rank = hardness.argsort(1, descending=True).argsort(1)
    wanted = config.negatives_per_positive * positive.sum(1, keepdim=True)
    return loss[positive | (negative & (rank < wanted))].sum()


def box_term(
    config: YolactConfig,
    priors: Float[Tensor, "P 4"],
    encoded: Float[Tensor, "F P 4"],
    boxes: Float[Tensor, "F A 4"],
    matched: Int[Tensor, "F P"],
    positive: Bool[Tensor, "F P"],
) -> Float[Tensor, ""]:
    frame, prior = positive.nonzero(as_tuple=True)
    target = encode_boxes(boxes[frame, matched[frame, prior]], priors[prior])
    return F.smooth_l1_loss(encoded[frame, prior], target, reduction="sum")


def mask_term(
    config: YolactConfig,
    output: YolactOutput,
    boxes: Float[Tensor, "F A 4"],
    masks: Bool[Tensor, "F A H W"],
    matched: Int[Tensor, "F P"],
    positive: Bool[Tensor, "F P"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy inside the annotated box, divided by the box's area, summed over positives."""
    per_frame = positive.sum(1)
    slots = min(int(per_frame.max()), config.masks_per_image)
    if not slots:
        return (output.prototypes.sum() + output.coefficients.sum()) * 0  # nothing to learn, for all that learns
    lottery = torch.rand_like(positive, dtype=torch.float32).masked_fill(~positive, -1.0)
    ticket, prior = lottery.topk(slots, dim=1)  # (F, slots): a random subset where there are too many
    drawn = ticket >= 0
    annotation = matched.gather(1, prior)
    box = take(boxes, annotation)
    size = (output.prototypes.shape[-2], output.prototypes.shape[-1])
    small = resize_logits(masks.to(output.prototypes.dtype), size)
    target = take(small if config.soft_masks else (small > 0.5).to(small.dtype), annotation)
    logits = torch.einsum("fnk,fkhw->fnhw", take(output.coefficients, prior), output.prototypes)
    pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * crop(box, size)
    wh = (box[..., 2:] - box[..., :2]) * box.new_tensor([size[1], size[0]])
    per_mask = pixel.sum((-2, -1)) / wh.prod(-1).clamp(min=1e-4)
    share = (per_frame / drawn.sum(1).clamp(min=1))[:, None]  # a subset stands for all
    return (per_mask * drawn * share).sum()


def semantic_term(
    config: YolactConfig,
    semantic: Float[Tensor, "F S h w"],
    masks: Bool[Tensor, "F A H W"],
    labels: Int[Tensor, "F A"],
    regular: Bool[Tensor, "F A"],
) -> Float[Tensor, ""]:
    """Per-pixel sigmoid cross-entropy of each class against the union of its objects."""
    small = resize_logits(masks.to(semantic.dtype), (semantic.shape[-2], semantic.shape[-1])) > 0.5
    one_hot = F.one_hot(labels.clamp(min=0), semantic.shape[1]) * regular[..., None]  # (F, A, S)
    target = torch.einsum("fas,fahw->fshw", one_hot.to(semantic.dtype), small.to(semantic.dtype)).clamp(max=1)
    loss = F.binary_cross_entropy_with_logits(semantic, target, reduction="sum")
    return loss / (semantic.shape[-1] * semantic.shape[-2] * len(semantic))
