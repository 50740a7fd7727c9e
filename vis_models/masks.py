"""Masks as tensors: to run-length codes, to boxes, to another size. The codes themselves are in `rle.py`."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pycocotools import mask as coco
from torch import Tensor

from vis_models.rle import area_px as area_px
from vis_models.rle import boxes_px as boxes_px
from vis_models.rle import decode as decode
from vis_models.rle import from_coco as from_coco
from vis_models.rle import run_lengths as run_lengths


def encode(masks: Bool[Tensor, "T H W"] | Bool[np.ndarray, "T H W"]) -> list[bytes]:
    """Run-length code T masks of one frame in one call."""
    array = masks.numpy(force=True) if isinstance(masks, Tensor) else masks
    if not len(array):
        return []
    column_major = np.asfortranarray(array.transpose(1, 2, 0), dtype=np.uint8)
    return [rle["counts"] for rle in coco.encode(column_major)]


def resize_logits(logits: Float[Tensor, "F N h w"], size: tuple[int, int]) -> Float[Tensor, "F N H W"]:
    """Bilinear resize; half-pixel centres, so that a mask keeps its place at any size."""
    if not logits.numel():
        return logits.new_zeros(*logits.shape[:2], *size)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def boxes_of(masks: Bool[Tensor, "*S H W"]) -> Float[Tensor, "*S 4"]:
    """(x0, y0, x1, y1) in pixels of each mask, x1 and y1 exclusive; zeros for an empty mask."""
    height, width = masks.shape[-2:]
    columns, rows = masks.any(-2).int(), masks.any(-1).int()
    x0, y0 = columns.argmax(-1), rows.argmax(-1)
    x1, y1 = width - columns.flip(-1).argmax(-1), height - rows.flip(-1).argmax(-1)
    return torch.stack([x0, y0, x1, y1], -1).float() * columns.any(-1, keepdim=True)
