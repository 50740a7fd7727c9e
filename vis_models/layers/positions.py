"""Where a cell of a map is, in sines and cosines of many wavelengths.

Source: Carion et al., "End-to-end object detection with transformers", ECCV 2020, appendix A.4. Differs from it as
Deformable DETR's code does: positions are those of the cells' middles, hence minus one half. Used by IDOL.
"""

from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TEMPERATURE = 10_000.0
"""Ratio of the longest wavelength to the shortest, all but."""
LEAST = 1e-6
"""Against division by zero, of a map that is nothing but padding."""


def sine_positions(padding: Bool[Tensor, "F h w"], channels: int) -> Float[Tensor, "F C h w"]:
    """The first half of the channels says y, the second x; each runs from 0 to one turn over the cells that are no
    padding, so that padding changes nothing."""
    half = channels // 2
    wavelength = TEMPERATURE ** (2 * torch.arange(half, device=padding.device).div(2, rounding_mode="floor") / half)
    axes = []
    for axis in (1, 2):
        count = (~padding).cumsum(axis, dtype=torch.float32)
        last = count.narrow(axis, -1, 1)
        angle = ((count - 0.5) / (last + LEAST) * 2 * pi)[..., None] / wavelength
        axes.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(3))
    return torch.cat(axes, 3).permute(0, 3, 1, 2)
