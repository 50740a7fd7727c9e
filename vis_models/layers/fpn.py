"""Feature pyramids: `TopDownPyramid` as published, and `FeaturePyramid` in YOLACT's variant.

Source: Lin et al., "Feature pyramid networks", CVPR 2017. The variant, of Bolya et al., "YOLACT", ICCV 2019, has a
bilinear top-down path, ReLU after each output and strided extra levels; its module lists are stored coarsest level
first, as in YOLACT's published weights.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vis_models.layers.norm import BatchNorm


class FeaturePyramid(nn.Module):
    """C3, C4, C5 in; P3, P4, ... out, `levels` of them, each with `channels` channels."""

    def __init__(self, in_channels: tuple[int, ...], channels: int, levels: int) -> None:
        super().__init__()
        self.lat_layers = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in reversed(in_channels))
        self.pred_layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        extra = levels - len(in_channels)
        self.downsample_layers = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra)
        )

    def forward(self, features: tuple[Float[Tensor, "F _ _ _"], ...]) -> list[Float[Tensor, "F _ _ _"]]:
        merged: list[Tensor] = []
        for lateral, feature in zip(self.lat_layers, reversed(features), strict=True):
            x = lateral(feature)
            if merged:
                x = x + F.interpolate(merged[-1], size=x.shape[-2:], mode="bilinear", align_corners=False)
            merged.append(x)
        pyramid = [F.relu(pred(x)) for pred, x in zip(self.pred_layers, merged, strict=True)][::-1]
        for downsample in self.downsample_layers:
            pyramid.append(downsample(pyramid[-1]))
        return pyramid


class TopDownPyramid(nn.Module):
    """Lateral 1x1 convolutions, a top-down path of nearest neighbours, a 3x3 convolution on each sum. Extra levels are
    every second pixel of the one before. Names are torchvision's, finest level first."""

    def __init__(self, in_channels: Sequence[int], channels: int, levels: int, norm: bool = False) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(conv_block(c, channels, 1, norm, relu=False) for c in in_channels)
        self.layer_blocks = nn.ModuleList(conv_block(channels, channels, 3, norm, relu=False) for _ in in_channels)
        self.extra = levels - len(in_channels)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, features: Sequence[Float[Tensor, "F _ _ _"]]) -> list[Float[Tensor, "F _ _ _"]]:
        laterals = [block(feature) for block, feature in zip(self.inner_blocks, features, strict=True)]
        merged = [laterals[-1]]
        for lateral in laterals[-2::-1]:
            merged.append(lateral + F.interpolate(merged[-1], size=lateral.shape[-2:], mode="nearest"))
        pyramid = [block(x) for block, x in zip(self.layer_blocks, merged[::-1], strict=True)]
        for _ in range(self.extra):
            pyramid.append(F.max_pool2d(pyramid[-1], 1, stride=2))
        return pyramid


def conv_block(in_channels: int, out_channels: int, kernel: int, norm: bool, relu: bool = True) -> nn.Sequential:
    """A convolution, then where asked for a batch norm in the place of its bias, and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=not norm)]
    if layers[0].bias is not None:
        nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    layers += [BatchNorm(out_channels)] if norm else []
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))
