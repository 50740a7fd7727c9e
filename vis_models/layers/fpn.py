"""Feature pyramid in YOLACT's variant: bilinear top-down path, ReLU after each output, strided extra levels.

Source: Lin et al., "Feature pyramid networks", CVPR 2017; variant of Bolya et al., "YOLACT", ICCV 2019.
Module lists are stored coarsest level first, as in YOLACT's published weights.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
