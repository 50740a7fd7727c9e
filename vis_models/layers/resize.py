"""Maps to another size."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize_logits(logits: Float[Tensor, "F N h w"], size: tuple[int, int]) -> Float[Tensor, "F N H W"]:
    """Bilinear resize; half-pixel centres, so that a mask keeps its place at any size."""
    if not logits.numel():
        return logits.new_zeros(*logits.shape[:2], *size)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
