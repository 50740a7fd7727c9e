"""What is true of detections and tracks, given the annotations (section 3.5).

Source and axes: as `model.py`.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.rgnn.state import RgnnEncoded


def match_annotations(
    encoded: RgnnEncoded, boxes_px: Float[Tensor, "B A 4"], visible: Bool[Tensor, "B A"]
) -> Int[Tensor, "B N"]:
    """The annotation of each detection, -1 for background: overlap above one half, one detection per annotation."""
    overlap, annotation = closest_annotations(encoded, boxes_px, visible)
    detections = torch.arange(overlap.shape[1], device=overlap.device)
    mine = torch.arange(overlap.shape[-1], device=overlap.device) == annotation[..., None]
    first = torch.where(mine, overlap, -1.0).argmax(1).gather(1, annotation.clamp(min=0))
    return torch.where(first == detections, annotation, -1)


def closest_annotations(
    encoded: RgnnEncoded, boxes_px: Float[Tensor, "B A 4"], visible: Bool[Tensor, "B A"]
) -> tuple[Float[Tensor, "B N A"], Int[Tensor, "B N"]]:
    """The overlap of each pair, and the annotation that a detection overlaps most, -1 where not above one half."""
    overlap = box_ops.iou(encoded.boxes_px, boxes_px) * (encoded.valid[..., None] & visible[:, None])
    value, annotation = overlap.max(-1)
    return overlap, torch.where(value > 0.5, annotation, -1)


def first_owner(identity: Int[Tensor, "B M"], alive: Bool[Tensor, "B M"]) -> Bool[Tensor, "B M"]:
    """Tracks with an annotation that no earlier slot has."""
    known = alive & (identity >= 0)
    same = (identity[:, :, None] == identity[:, None]) & known[:, None]
    return known & ~same.tril(-1).any(2)
