"""Swin transformer with Microsoft's parameter names, so that its published weights load as they are.

Source: Liu et al., "Swin transformer: hierarchical vision transformer using shifted windows", ICCV 2021, section 3, as
a backbone of detectors: with a norm on each map, and maps of any size. Used by IDOL.

Axes: F frames, H, W cells of a stage, C channels, B windows of all frames, N cells of a window, G heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vis_models.layers.backbone_config import SwinConfig

PATCH = 4
"""Pixels along a side of a cell of the first stage."""
WIDER = 4
"""Channels between the two linear layers of a block, as a multiple of its own."""
APART = -100.0
"""Added to the logit of two cells of one window that are no neighbours in the picture."""


class WindowAttention(nn.Module):
    """Section 3.2: cells of a window look at each other, Eq. (4); how much is also a matter of how they lie."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        down, right = (place[:, None] - place + window - 1).unbind(-1)
        self.register_buffer("relative_position_index", down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Float[Tensor, "B N C"], apart: Float[Tensor, "_ N N"] | None) -> Float[Tensor, "B N C"]:
        """`apart`: of each window of a frame, what is added to the logits; None: nothing."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, G, N, C/G)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if apart is None:
            found = F.scaled_dot_product_attention(query, key, value, bias[None].to(query.dtype))
        else:
            frames = len(x) // len(apart)
            bias = (bias + apart[:, None]).repeat(frames, 1, 1, 1)
            found = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
        return self.proj(found.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers, applied to each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, WIDER * channels)
        self.fc2 = nn.Linear(WIDER * channels, channels)

    def forward(self, x: Float[Tensor, "*S C"]) -> Float[Tensor, "*S C"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Eq. (3): attention within windows, then the same for each cell. Every second block moves the windows by half."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Float[Tensor, "F H W C"]) -> Float[Tensor, "F H W C"]:
        x = x + self._dropped(self._attend(self.norm1(x)))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _attend(self, x: Float[Tensor, "F H W C"]) -> Float[Tensor, "F H W C"]:
        (height, width), side = x.shape[1:3], self.window
        x = F.pad(x, [0, 0, 0, -width % side, 0, -height % side])
        size = (x.shape[1], x.shape[2])
        apart = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            apart = cells_apart(size, side, self.shift, x.device)
        x = self.attn(windows(x, side), apart)
        x = x.view(-1, size[0] // side, size[1] // side, side, side, x.shape[2])
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _dropped(self, x: Float[Tensor, "F H W C"]) -> Float[Tensor, "F H W C"]:
        """Of some frames nothing in training, and of the others so much more (Huang et al., "Deep networks with
        stochastic depth", ECCV 2016)."""
        if not (self.training and self.drop_path):
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path)


class Merging(nn.Module):
    """Four cells become one, of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "F H W C"]) -> Float[Tensor, "F _ _ _"]:
        x = F.pad(x, [0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2])
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Stage(nn.Module):
    """Blocks, and before the next stage a merging."""

    def __init__(self, config: SwinConfig, stage: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        channels, heads, window = config.width * 2**stage, config.heads[stage], config.window
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, window // 2 if index % 2 else 0, rate)
            for index, rate in enumerate(drop_path)
        )
        self.downsample = Merging(channels) if stage < len(config.blocks) - 1 else None


class PatchEmbedding(nn.Module):
    """What a cell of the first stage is made of."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "F 3 _ _"]) -> Float[Tensor, "F H W C"]:
        x = F.pad(x, [0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH])
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """Normalised images in, C3, C4, C5 out (strides 8, 16, 32); `channels` lists their widths. `norm0` is that of C2,
    which `stages` alone gives. `recomputes`: keep only what enters each block for the backward pass."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config.width)
        numbers, last = iter(range(sum(config.blocks))), sum(config.blocks) - 1
        stages = [
            Stage(config, stage, [config.drop_path * next(numbers) / last for _ in range(count)])
            for stage, count in enumerate(config.blocks)
        ]
        self.layers: Sequence[Stage] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.stage_channels = tuple(config.width * 2**stage for stage in range(len(config.blocks)))
        """Of C2, C3, C4, C5."""
        self.channels = self.stage_channels[1:]
        for stage, channels in enumerate(self.stage_channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))
        self.recomputes = False
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, x: Float[Tensor, "F 3 H W"]
    ) -> tuple[Float[Tensor, "F _ _ _"], Float[Tensor, "F _ _ _"], Float[Tensor, "F _ _ _"]]:
        _, c3, c4, c5 = self.stages(x)
        return c3, c4, c5

    def stages(self, x: Float[Tensor, "F 3 H W"]) -> list[Float[Tensor, "F _ _ _"]]:
        """C2, C3, C4, C5: the normalised map after each stage."""
        x = self.patch_embed(x)
        maps = []
        for number, stage in enumerate(self.layers):
            for block in stage.blocks:
                again = self.recomputes and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            maps.append(self.get_submodule(f"norm{number}")(x).permute(0, 3, 1, 2).contiguous())
            x = stage.downsample(x) if stage.downsample is not None else x
        return maps


def windows(x: Float[Tensor, "F H W C"], side: int) -> Float[Tensor, "B N C"]:
    """Those of a frame row by row; sides of the map are multiples of a window's."""
    frames, height, width, channels = x.shape
    x = x.view(frames, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).reshape(-1, side * side, channels)


def cells_apart(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Float[Tensor, "_ N N"]:
    """What keeps cells of a moved window from each other that came together from two sides of the picture."""
    down, right = (torch.arange(side, device=device) for side in size)
    down, right = ((at >= len(at) - window).int() + (at >= len(at) - shift) for at in (down, right))
    region = (3 * down[:, None] + right)[None, :, :, None].float()
    region = windows(region, window)[..., 0]
    return (region[:, None] != region[:, :, None]) * APART
