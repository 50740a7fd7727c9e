"""From pixels to what a backbone takes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

DIVISOR = 32
"""Sides of what enters a backbone are multiples of it; frames are padded at the right and the bottom."""


def normalised(
    pixels: UInt8[Tensor, "F 3 H W"], sizes_px: Int[Tensor, "F 2"], mean: Float[Tensor, "3 1 1"],
    std: Float[Tensor, "3 1 1"],
) -> Float[Tensor, "F 3 _ _"]:  # fmt: skip
    """Padding is zero after the normalisation. `sizes_px`: (height, width) of the picture in each frame."""
    images = (pixels - mean) / std
    height, width = images.shape[-2:]
    if bool((sizes_px != sizes_px.new_tensor([height, width])).any()):
        rows = torch.arange(height, device=images.device) < sizes_px[:, :1]
        columns = torch.arange(width, device=images.device) < sizes_px[:, 1:]
        images = images * (rows[:, None, :, None] & columns[:, None, None, :])
    return F.pad(images, [0, -width % DIVISOR, 0, -height % DIVISOR])
