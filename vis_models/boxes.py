"""Boxes: formats, overlap and suppression. A box is (x0, y0, x1, y1); its unit is part of each name."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vis_models.matching import unlike_better


def area(boxes: Float[Tensor, "*S 4"]) -> Float[Tensor, "*S"]:
    """Width times height; 0 for an inverted box."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Float[Tensor, "*S N 4"], b: Float[Tensor, "*S M 4"]) -> Float[Tensor, "*S N M"]:
    """Area shared by each pair."""
    ax0, ay0, ax1, ay1 = a[..., :, None, :].unbind(-1)
    bx0, by0, bx1, by1 = b[..., None, :, :].unbind(-1)
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    return width * height


def iou(a: Float[Tensor, "*S N 4"], b: Float[Tensor, "*S M 4"]) -> Float[Tensor, "*S N M"]:
    """Intersection over union of each pair; 0 where both are empty."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def generalised_iou(a: Float[Tensor, "*S N 4"], b: Float[Tensor, "*S M 4"]) -> Float[Tensor, "*S N M"]:
    """IoU minus the share of the smallest box around the pair that neither covers: above -1, also for boxes apart.

    Source: Rezatofighi et al., "Generalized intersection over union", CVPR 2019, Alg. 1.
    """
    low = torch.minimum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.maximum(a[..., :, None, 2:], b[..., None, :, 2:])
    around = (high - low).clamp(min=0).prod(-1).clamp(min=torch.finfo(low.dtype).tiny)
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return iou(a, b) - (around - union) / around


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


def greedy_nms(boxes: Float[Tensor, "*S K 4"], threshold: float) -> Bool[Tensor, "*S K"]:
    """Which boxes survive the classic rule, for boxes sorted by falling score: fallen boxes do not suppress."""
    return unlike_better(iou(boxes, boxes) > threshold)


def of_masks(masks: Bool[Tensor, "*S H W"]) -> Float[Tensor, "*S 4"]:
    """(x0, y0, x1, y1) in pixels of each mask, x1 and y1 exclusive; zeros for an empty mask."""
    height, width = masks.shape[-2:]
    columns, rows = masks.any(-2).int(), masks.any(-1).int()
    x0, y0 = columns.argmax(-1), rows.argmax(-1)
    x1, y1 = width - columns.flip(-1).argmax(-1), height - rows.flip(-1).argmax(-1)
    return torch.stack([x0, y0, x1, y1], -1).float() * columns.any(-1, keepdim=True)
