"""ResNet with torchvision's parameter names, so that its published weights load as they are.

Source: He et al., "Deep residual learning for image recognition", CVPR 2016, with the stride in the
3x3 convolution of a bottleneck (torchvision's "v1.5"). Used by every model of the house.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vis_models.layers.backbone_config import ResNetConfig, SwinConfig
from vis_models.layers.norm import BatchNorm
from vis_models.layers.swin import Swin

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = BatchNorm(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = BatchNorm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Float[Tensor, "F _ _ _"]) -> Float[Tensor, "F _ _ _"]:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; four times as many channels come out. The 3x3 one has the stride."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        inner = channels * config.group_width // 64 * config.groups
        first, second = (stride, 1) if config.stride_first else (1, stride)
        self.conv1 = _conv(in_channels, inner, 1, first)
        self.bn1 = BatchNorm(inner)
        self.conv2 = _conv(inner, inner, 3, second, config.groups)
        self.bn2 = BatchNorm(inner)
        self.conv3 = _conv(inner, 4 * channels, 1)
        self.bn3 = BatchNorm(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Float[Tensor, "F _ _ _"]) -> Float[Tensor, "F _ _ _"]:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Normalised images in, C3, C4, C5 out (strides 8, 16, 32 as published); `channels` lists their widths."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        block = BasicBlock if config.depth in (18, 34) else Bottleneck
        width = config.width
        self.conv1 = _conv(3, width, 7, stride=2)
        self.bn1 = BatchNorm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if config.stem_pool else nn.Identity()
        self.layer1: nn.Sequential
        self.layer2: nn.Sequential
        self.layer3: nn.Sequential
        self.layer4: nn.Sequential
        self.recomputes = False
        in_channels = width
        for stage, count in enumerate(config.blocks or BLOCKS[config.depth]):
            out = width * 2**stage
            layers = []
            for index in range(count):
                layers.append(block(in_channels, out, stride=2 if stage and not index else 1, config=config))
                in_channels = out * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stage_channels = tuple(width * 2**stage * block.expansion for stage in range(4))
        """Of C2, C3, C4, C5."""
        self.channels = self.stage_channels[1:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, x: Float[Tensor, "F 3 H W"]
    ) -> tuple[Float[Tensor, "F _ _ _"], Float[Tensor, "F _ _ _"], Float[Tensor, "F _ _ _"]]:
        _, c3, c4, c5 = self.stages(x)
        return c3, c4, c5

    def stages(self, x: Float[Tensor, "F 3 H W"]) -> list[Float[Tensor, "F _ _ _"]]:
        """C2, C3, C4, C5: the map after each stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for layers in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = self._stage(layers, x)
            maps.append(x)
        return maps

    def _stage(self, layers: nn.Sequential, x: Float[Tensor, "F _ _ _"]) -> Float[Tensor, "F _ _ _"]:
        if not (self.recomputes and torch.is_grad_enabled()):
            return layers(x)
        return checkpoint(layers, x, use_reentrant=False)


def backbone(config: ResNetConfig | SwinConfig) -> ResNet | Swin:
    """What the config names: normalised images in, three maps out, whose widths are its `channels`."""
    return Swin(config) if isinstance(config, SwinConfig) else ResNet(config)


def freeze(net: ResNet | Swin, stages: int) -> None:
    """Do not train the first stages of a residual network, and if there are any its stem; of a Swin transformer the
    norm of a map that nobody takes."""
    frozen: list[nn.Module]
    if isinstance(net, ResNet):
        frozen = [net.conv1, net.bn1, net.layer1, net.layer2, net.layer3, net.layer4][: stages and stages + 2]
    else:
        frozen = [net.get_submodule("norm0")]
    for module in frozen:
        module.requires_grad_(False).eval()


def recompute(module: nn.Module) -> None:
    """Let every part inside that can (`recomputes`) keep only what enters its stages or layers for the backward pass,
    and compute the rest again: a third more time for a fraction of the memory (Chen et al., "Training deep nets with
    sublinear memory cost", 2016). Statistics of batch norms would be taken twice, so their norms must be frozen."""
    part: Any
    for part in module.modules():
        if hasattr(part, "recomputes"):
            part.recomputes = True


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), BatchNorm(out_channels))
