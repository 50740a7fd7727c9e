"""Boxes: formats, overlap and suppression. A box is (x0, y0, x1, y1); its unit is part of each name."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def area(boxes: Float[Tensor, "*S 4"]) -> Float[Tensor, "*S"]:
    """Width times height; 0 for an inverted box."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Float[Tensor, "*S N 4"], b: Float[Tensor, "*S M 4"]) -> Float[Tensor, "*S N M"]:
    """Area shared by each pair."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a: Float[Tensor, "*S N 4"], b: Float[Tensor, "*S M 4"]) -> Float[Tensor, "*S N M"]:
    """Intersection over union of each pair; 0 where both are empty."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def centre_size(boxes: Float[Tensor, "*S 4"]) -> Float[Tensor, "*S 4"]:
    """Corners to (cx, cy, width, height)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def corners(boxes: Float[Tensor, "*S 4"]) -> Float[Tensor, "*S 4"]:
    """(cx, cy, width, height) to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def fast_nms(boxes: Float[Tensor, "*S K 4"], threshold: float) -> Bool[Tensor, "*S K"]:
    """Which boxes survive Fast NMS, for boxes sorted by falling score.

    A box falls when any better one overlaps it by more than the threshold, whether that one fell or not:
    one matrix instead of a loop. Source: Bolya et al., "YOLACT", ICCV 2019, section 3.4 (Fast NMS).
    """
    overlap = iou(boxes, boxes).triu(diagonal=1)
    return ~(overlap > threshold).any(-2)


def greedy_nms(boxes: Float[Tensor, "K 4"], threshold: float) -> Bool[Tensor, " K"]:
    """Which boxes survive the classic rule, for boxes sorted by falling score: fallen boxes do not suppress."""
    overlap = (iou(boxes, boxes).triu(diagonal=1) > threshold).cpu()
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for best in range(len(boxes)):
        if kept[best]:
            kept &= ~overlap[best]
    return kept.to(boxes.device)
