"""Maps to another size."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SMALL = 128
"""PyTorch resizes to so few rows and columns by other code, which rounds otherwise."""
COLOURS = 3
"""So many maps it takes for a picture, and resizes that on one thread by other code too."""

Place = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""


def resize_logits(logits: Float[Tensor, "F N h w"], size: tuple[int, int]) -> Float[Tensor, "F N H W"]:
    """Bilinear resize; half-pixel centres, so that a mask keeps its place at any size."""
    if not logits.numel():
        return logits.new_zeros(*logits.shape[:2], *size)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def resize_parts(
    logits: Float[Tensor, "T h w"], size: tuple[int, int], places: Sequence[Place]
) -> Iterator[Float[Tensor, "_ _"]]:
    """Of each map one part of what `resize_logits` makes of it, equal to the last bit.

    A bilinear resize goes along the rows first. A second resize that leaves the rows as they are and goes along the
    columns is the rest of it, and columns do not depend on each other: only those of the part are resized.
    """
    height, width = size
    apart = min(size) > SMALL and not (len(logits) == COLOURS and torch.get_num_threads() == 1)
    wide = resize_logits(logits[None], (logits.shape[1], width) if apart else size)[0]
    for rows, (x0, y0, x1, y1) in zip(wide, places, strict=True):
        columns = rows[:, x0:x1]
        whole = resize_logits(columns[None, None], (height, x1 - x0))[0, 0] if apart else columns
        yield whole[y0:y1]


def keeping_aspect(size_px: tuple[int, int], shorter_px: int, longer_most_px: int) -> tuple[int, int]:
    """(height, width) of a picture whose shorter side becomes `shorter_px`, or less where the longer one would become
    more than `longer_most_px`."""
    scale = min(shorter_px / min(size_px), longer_most_px / max(size_px))
    return max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale))
