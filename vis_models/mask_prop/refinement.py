"""Finer masks: the pixels around an object are looked at again, together with the mask that the head gave.

Source: Bertasius, Torresani, "Mask propagation", CVPR 2020, section 4.4, "High-Resolution Mask Refinement". Ours, where
the paper is silent: the square holds the box with a margin and is resized to `side_px`; what the blocks say is added to
the logit of the mask, so that it begins as it came.

Axes: R objects of all frames, r pixels along a side of the square.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models.mask_prop.config import RefinementConfig
from vis_models.mask_prop.propagation import ResidualBlock

SURE = (0.01, 0.99)
"""What a mask says at least and at most of a pixel before it is refined: logits of -4.6 to 4.6."""
COLOURS = 3


class Refinement(nn.Module):
    def __init__(self, config: RefinementConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [COLOURS + 1, *[config.channels] * (config.blocks - 1)]
        self.blocks = nn.Sequential(*(ResidualBlock(count, config.channels) for count in inputs))
        self.change = nn.Conv2d(config.channels, 1, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)  # type: ignore[arg-type]

    def forward(self, pixels: Float[Tensor, "R 3 r r"], masks: Float[Tensor, "R r r"]) -> Float[Tensor, "R r r"]:
        """Logits of the finer masks.

        Args:
            masks: 0 to 1, as the head gave them.
        """
        before = masks.clamp(*SURE).logit()[:, None]
        return (before + self.change(self.blocks(torch.cat([pixels, before], 1))))[:, 0].float()

    def squares(self, boxes_px: Float[Tensor, "R 4"]) -> Float[Tensor, "R 4"]:
        """Around the middle of each box."""
        middle = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
        side = (boxes_px[:, 2:] - boxes_px[:, :2]).amax(1, keepdim=True)
        half = side * ((1 + self.config.margin) / 2)
        return torch.cat([middle - half, middle + half], 1)


def cut_out(
    maps: Float[Tensor, "F C H W"], frame: Int[Tensor, " R"], places: Float[Tensor, "R 4"], side: int
) -> Float[Tensor, "R C r r"]:
    """What lies in each place of its frame, resized to `side` pixels; zero beyond the frame.

    Args:
        places: (x0, y0, x1, y1) in pixels of the maps.
    """
    size = places.new_tensor([maps.shape[-1], maps.shape[-2]]).repeat(2)
    corner, extent = places[:, :2], places[:, 2:] - places[:, :2]
    step = (torch.arange(side, device=places.device) + 0.5) / side
    at = (corner[:, None] + step[:, None] * extent[:, None]) * (2 / size[:2]) - 1  # (R, r, 2)
    found = [
        F.grid_sample(maps[n][None], _grid(one)[None], align_corners=False)[0]
        for n, one in zip(frame.tolist(), at, strict=True)
    ]
    return torch.stack(found) if found else maps.new_zeros(0, maps.shape[1], side, side)


def _grid(at: Float[Tensor, "r 2"]) -> Float[Tensor, "r r 2"]:
    return torch.stack(torch.meshgrid(at[:, 0], at[:, 1], indexing="xy"), -1)


def spread(
    masks: Float[Tensor, "R m m"], boxes_px: Float[Tensor, "R 4"], places: Float[Tensor, "R 4"], size: tuple[int, int]
) -> Float[Tensor, "R h w"]:
    """Masks that fill their boxes as seen in other places, at `size` cells of them; zero outside of the boxes."""
    extent = (boxes_px[:, 2:] - boxes_px[:, :2]).clamp(min=1e-6)
    height, width = size
    along = []
    for axis, count in ((0, width), (1, height)):
        step = (torch.arange(count, device=masks.device) + 0.5) / count
        at = places[:, axis, None] + step * (places[:, axis + 2] - places[:, axis])[:, None]
        along.append((at - boxes_px[:, axis, None]) * (2 / extent[:, axis, None]) - 1)  # (R, count)
    x, y = along[0][:, None].expand(-1, height, -1), along[1][:, :, None].expand(-1, -1, width)
    return F.grid_sample(masks[:, None], torch.stack([x, y], -1), align_corners=False)[:, 0]
