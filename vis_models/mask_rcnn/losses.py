"""The training objective of Mask R-CNN: which proposals are trained as what, and five terms. Source: as `model.py`.

Axes: F frames, R sampled proposals of all frames, A annotated objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.layers import anchors as box_coding
from vis_models.layers.roi_align import align_own
from vis_models.layers.rpn import assign, sample
from vis_models.losses import mean_over_workers
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.truths import Truth

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class Sampled:
    """The proposals that are trained, of all frames in a row."""

    boxes_px: Float[Tensor, "R 4"]
    frame: Int[Tensor, " R"]
    target: Int[Tensor, " R"]
    """Class with background at 0."""
    object: Int[Tensor, " R"]
    """Index among the frame's objects; what it is of a negative means nothing."""

    @property
    def positive(self) -> Bool[Tensor, " R"]:
        return self.target > 0


@torch.no_grad()
def draw(config: MaskRcnnConfig, proposals: Sequence[Float[Tensor, "_ 4"]], truths: Sequence[Truth]) -> Sampled:
    """Proposals and the true boxes themselves, as what they are to be trained; objects of no known class as nothing."""
    parts = []
    for frame, (boxes, truth) in enumerate(zip(proposals, truths, strict=True)):
        boxes = torch.cat([boxes, truth.boxes_px])
        matched, state = assign(boxes, truth.boxes_px, truth.crowds_px, config.positive_iou, config.positive_iou,
                                False, config.plus_one)  # fmt: skip
        chosen = sample(state, config.box_samples, config.positive_share)
        labels = truth.labels[matched] + 1 if len(truth.labels) else torch.zeros_like(state)
        target = torch.where(state == 1, labels, 0)
        parts.append((boxes[chosen], torch.full_like(target, frame)[chosen], target[chosen], matched[chosen]))
    return Sampled(*(torch.cat(column) for column in zip(*parts, strict=True)))


def box_losses(
    config: MaskRcnnConfig,
    logits: Float[Tensor, "R C"],
    told: Float[Tensor, "R C 4"],
    sampled: Sampled,
    truths: Sequence[Truth],
) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the classes, and smooth L1 of the positives' boxes of their own class, both over all sampled."""
    count = mean_over_workers(torch.tensor(len(logits), device=logits.device)).clamp(min=1)
    positive = sampled.positive
    boxes, target = sampled.boxes_px[positive], sampled.target[positive]
    wanted = box_coding.encode(_of_objects(sampled, truths, "boxes_px"), boxes, BOX_WEIGHTS, config.plus_one)
    own = told[positive, target]
    return {
        "class": config.class_weight * F.cross_entropy(logits, sampled.target, reduction="sum") / count,
        "box": F.smooth_l1_loss(own, wanted, beta=config.box_beta, reduction="sum") / count,
    }


def mask_loss(
    config: MaskRcnnConfig, logits: Float[Tensor, "K C m m"], sampled: Sampled, truths: Sequence[Truth]
) -> Float[Tensor, ""]:
    """Cross-entropy of the K positives' pixels with the share of each that the object covers (RoIAlign of its mask),
    in the map of the object's class alone."""
    positive = sampled.positive
    count = mean_over_workers(positive.sum()).clamp(min=1)
    own = logits[torch.arange(len(logits), device=logits.device), sampled.target[positive]]
    side = logits.shape[-1]
    if not len(own):
        return logits.sum()
    with torch.no_grad():
        masks = _of_objects(sampled, truths, "masks").to(own.dtype)
        wanted = align_own(
            masks, sampled.boxes_px[positive], side, "aligned" if config.alignment == "aligned" else "legacy"
        )
    return F.binary_cross_entropy_with_logits(own, wanted, reduction="sum") / (count * side**2)


def _of_objects(sampled: Sampled, truths: Sequence[Truth], name: str) -> Tensor:
    """A field of the object of each positive."""
    positive = sampled.positive
    frame, index = sampled.frame[positive], sampled.object[positive]
    return torch.cat([getattr(truth, name)[index[frame == number]] for number, truth in enumerate(truths)])
