"""Masks that were found within boxes, put where they belong in the frame.

Source: He et al., "Mask R-CNN", ICCV 2017, section 3.1 ("resized to the RoI size, and binarized at a threshold of
0.5"). The codes differ in what the size of a box is. `exact`: the middle of each pixel is looked up in the mask, which
spans the box and nothing else (detectron2, mmdetection since its second version). `whole_pixels`: corners are cut to
whole pixels, of which the last belongs to the box (torchvision, which gives the mask a rim of zeros first, so that
outlines are not cut). Each mask is resized to its box: the cost is that of the boxes, not of the frame.
"""

from collections.abc import Sequence
from math import ceil, floor
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vis_models.types import Masks

Pasting = Literal["exact", "whole_pixels"]


def paste(
    probabilities: Float[Tensor, "T m m"],
    boxes_px: Float[Tensor, "T 4"],
    size_px: tuple[int, int],
    pasting: Pasting = "exact",
) -> Masks:
    """Masks of one frame: pixels with a probability above one half.

    Args:
        boxes_px: (x0, y0, x1, y1) in pixels of that frame; where they leave it, the mask is cut.
        size_px: (height, width) of the frame.
    """
    place = _exact if pasting == "exact" else _whole_pixels
    parts = [place(mask, box, size_px) for mask, box in zip(probabilities.float(), boxes_px.tolist(), strict=True)]
    return Masks(size_px, [corner for corner, _ in parts], [part for _, part in parts])


Part = tuple[tuple[int, int], Bool[Tensor, "_ _"]]
"""(x, y) of the top left pixel, and the pixels."""
NOTHING: Part = ((0, 0), torch.zeros(0, 0, dtype=torch.bool))


def _exact(mask: Float[Tensor, "m m"], box: Sequence[float], size_px: tuple[int, int]) -> Part:
    x0, y0, x1, y1 = box
    left, top = max(floor(x0), 0), max(floor(y0), 0)
    right, bottom = min(ceil(x1), size_px[1]), min(ceil(y1), size_px[0])
    if left >= right or top >= bottom:
        return NOTHING
    # -1 and 1 are the box's edges
    x = (torch.arange(left, right, device=mask.device) + 0.5 - x0) * (2 / (x1 - x0)) - 1
    y = (torch.arange(top, bottom, device=mask.device) + 0.5 - y0) * (2 / (y1 - y0)) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    whole = F.grid_sample(mask[None, None], grid[None], mode="bilinear", align_corners=False)[0, 0]
    return (left, top), (whole > 0.5).cpu()


def _whole_pixels(mask: Float[Tensor, "m m"], box: Sequence[float], size_px: tuple[int, int]) -> Part:
    side, corners = mask.shape[-1], torch.tensor(box)
    centre, half = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) / 2
    half = half * ((side + 2) / side)
    x0, y0, x1, y1 = torch.cat([centre - half, centre + half]).long().tolist()
    rows, columns = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + columns, size_px[1]), min(y0 + rows, size_px[0])
    if left >= right or top >= bottom:
        return NOTHING
    padded = F.pad(mask[None, None], [1, 1, 1, 1])
    whole = F.interpolate(padded, (rows, columns), mode="bilinear", align_corners=False)[0, 0]
    return (left, top), (whole[top - y0 : bottom - y0, left - x0 : right - x0] > 0.5).cpu()
