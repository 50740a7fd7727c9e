"""Masks that were found within boxes, put where they belong in the frame.

Source: He et al., "Mask R-CNN", ICCV 2017, section 3.1 ("resized to the RoI size, and binarized at a threshold of
0.5"), with torchvision's border: a mask gets a rim of zeros and its box grows by as much, so that outlines are not cut.
Each mask is resized to its box and nothing else is touched: the cost is that of the boxes, not of the frame.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vis_models.types import Masks


def paste(probabilities: Float[Tensor, "T m m"], boxes_px: Float[Tensor, "T 4"], size_px: tuple[int, int]) -> Masks:
    """Masks of one frame: pixels with a probability above one half.

    Args:
        boxes_px: (x0, y0, x1, y1) in pixels of that frame; where they leave it, the mask is cut.
        size_px: (height, width) of the frame.
    """
    side = probabilities.shape[-1]
    padded = F.pad(probabilities.float(), [1, 1, 1, 1])
    centre, half = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2, (boxes_px[:, 2:] - boxes_px[:, :2]) / 2
    half = half * ((side + 2) / side)
    grown = torch.cat([centre - half, centre + half], 1).long().tolist()
    height, width = size_px
    corners, parts = [], []
    for mask, (x0, y0, x1, y1) in zip(padded, grown, strict=True):
        rows, columns = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + columns, width), min(y0 + rows, height)
        if left >= right or top >= bottom:
            corners.append((0, 0))
            parts.append(torch.zeros(0, 0, dtype=torch.bool))
            continue
        whole = F.interpolate(mask[None, None], (rows, columns), mode="bilinear", align_corners=False)[0, 0]
        corners.append((left, top))
        parts.append((whole[top - y0 : bottom - y0, left - x0 : right - x0] > 0.5).cpu())
    return Masks(size_px, corners, parts)
