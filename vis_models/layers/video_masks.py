"""Mask logits at the model's size -> masks at the video's own size, worked out only where an object can be.

A frame of 4K has 8 million pixels and a mask of the model some thousands; a pixel between four points of the model's
map is a mean of them, so it can beat the background only beside a point that does.

Axes: T tracks of all videos, those of one video in a row.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil, floor

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers.resize import Place, resize_parts
from vis_models.types import Masks

ROUNDING = 1e-3
"""By how much less than that, at most, a mean of four logits is rounded above the largest of them."""


def video_masks(
    logits: Float[Tensor, "T h w"],
    counts: Sequence[int],
    sizes_px: Sequence[tuple[int, int]],
    background: float,
    exclusive: bool = True,
) -> list[Masks]:
    """The masks of each video: pixels where a track's logit is above the background's.

    What crosses from the device to the host are the places of the masks, at once, and their pixels, at once.

    Args:
        counts: tracks of each video.
        sizes_px: (height, width) of each video.
        exclusive: a pixel belongs to the track with the largest logit alone, to the first of equals.
    """
    points = logits.shape[1], logits.shape[2]
    boxes = box_ops.of_masks(logits > background - ROUNDING).int().tolist()
    parts: list[Bool[Tensor, "_ _"]] = []
    places: list[Place] = []
    firsts = [0, *accumulate(counts)]
    for (first, last), size in zip(pairwise(firsts), sizes_px, strict=True):
        own = [_reach(x0, y0, x1, y1, points, size) for x0, y0, x1, y1 in boxes[first:last]]
        if exclusive:
            parts += _compete(logits[first:last], size, own, background)
        else:
            parts += (part > background for part in resize_parts(logits[first:last], size, own))
        places += own
    parts = _to_host(parts)
    corners = [(x0, y0) for x0, y0, _, _ in places]
    return [
        Masks(size, corners[first:last], parts[first:last])
        for (first, last), size in zip(pairwise(firsts), sizes_px, strict=True)
    ]


def _reach(x0: int, y0: int, x1: int, y1: int, points: tuple[int, int], size_px: tuple[int, int]) -> Place:
    """The pixels in whose value the points of a box have a share."""
    if x0 == x1:
        return (0, 0, 0, 0)
    left, right = _reach_along(x0, x1, points[1], size_px[1])
    top, bottom = _reach_along(y0, y1, points[0], size_px[0])
    return left, top, right, bottom


def _reach_along(first: int, last: int, points: int, pixels: int) -> tuple[int, int]:
    """Along one side of the frame; one pixel more at each end, for what the resize rounds."""
    scale = pixels / points
    low, high = floor((first - 0.5) * scale - 0.5) - 1, ceil((last + 0.5) * scale - 0.5) + 1
    return max(0, low), min(pixels, high)


def _compete(
    logits: Float[Tensor, "T h w"], size_px: tuple[int, int], places: Sequence[Place], background: float
) -> list[Bool[Tensor, "_ _"]]:
    """The pixels that each track wins, in its own place: a running maximum over the part of the frame with tracks."""
    shown = [place for place in places if place[0] < place[2]] or [(0, 0, 0, 0)]
    lefts, tops, rights, bottoms = zip(*shown, strict=True)
    left, top = min(lefts), min(tops)
    best = logits.new_full((max(bottoms) - top, max(rights) - left), background)
    owner = torch.full_like(best, -1, dtype=torch.int16)
    windows = [(slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)) for x0, y0, x1, y1 in places]
    for number, (window, part) in enumerate(zip(windows, resize_parts(logits, size_px, places), strict=True)):
        wins = part > best[window]
        best[window] = torch.where(wins, part, best[window])
        owner[window].masked_fill_(wins, number)
    return [owner[window] == number for number, window in enumerate(windows)]


def _to_host(parts: list[Bool[Tensor, "_ _"]]) -> list[Bool[Tensor, "_ _"]]:
    """In one transfer."""
    if not parts or parts[0].device.type == "cpu":
        return parts
    pixels = torch.cat([part.flatten() for part in parts]).cpu().split([part.numel() for part in parts])
    return [own.view(part.shape) for own, part in zip(pixels, parts, strict=True)]
