"""The features that all masks of IDOL are made of, by `layers/dynamic_masks.py`.

Differs from CondInst as IDOL's code does: coordinates relative to the object are in pixels, not in shares of a size.

Axes: F frames, C channels of the memory, K = 8 channels of the mask features, h, w cells.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vis_models.layers.dynamic_masks import HIDDEN


class MaskBranch(nn.Module):
    """The three finest levels of the memory, merged top-down by 3x3 convolutions. Names are the authors', for whom
    `dcn` is a convolution like the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lay3 = _conv(channels, channels)
        self.lay4 = _conv(channels, channels)
        self.dcn = _conv(channels, channels)
        self.lay1 = _conv(channels, channels // 4)
        self.lay2 = _conv(channels // 4, HIDDEN)

    def forward(self, levels: Sequence[Float[Tensor, "F C _ _"]]) -> Float[Tensor, "F K h w"]:
        fine, middle, coarse = levels
        x = self.lay3(coarse).relu()
        x = self.lay4(middle + F.interpolate(x, size=middle.shape[-2:])).relu()
        x = self.dcn(fine + F.interpolate(x, size=fine.shape[-2:])).relu()
        return self.lay2(self.lay1(x).relu()).relu()


def _conv(inside: int, out: int) -> nn.Conv2d:
    conv = nn.Conv2d(inside, out, 3, padding=1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
