"""Filters of the reference frame, carried to where their objects are now.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021,
section 3.4 and Figure 4. Ours, as the paper is silent: how many convolutions find the offsets, and that attention looks
at one cell: so filters are carried to the cells that have an instance, and to no others.

Axes: F frames, C channels, P cells of all levels, K parameters of a filter, R cells of any frames, T taps.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models.layers.deformable_convolution import DeformableConvolution
from vis_models.vis_stg.grid import Grid

HIDDEN = 128
"""Channels between the two convolutions that find offsets."""
TAPS = 3
"""Along a side of the deformable convolution."""


class Propagation(nn.Module):
    """Deformable convolution of the old filters, joined with the new. At the start filters are carried unchanged, and
    both count the same."""

    def __init__(self, channels: int, parameters: int) -> None:
        super().__init__()
        self.offsets = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, 2 * TAPS**2, 3, padding=1)
        )
        self.warp = DeformableConvolution(parameters, parameters, TAPS, bias=False)
        self.attention = nn.Linear(2 * parameters, parameters)
        nn.init.dirac_(self.warp.weight)
        for each in (self.offsets[-1].weight, self.offsets[-1].bias, self.attention.bias):
            nn.init.zeros_(each)  # type: ignore[arg-type]
        nn.init.normal_(self.attention.weight, std=0.01)

    def forward(
        self,
        grid: Grid,
        now: Float[Tensor, "R K"],
        before: Float[Tensor, "F K P"],
        change: Float[Tensor, "F C P"],
        frame: Int[Tensor, " R"],
        cell: Int[Tensor, " R"],
    ) -> Float[Tensor, "R K"]:
        """
        Args:
            now: filters as told by the target frames alone, of some cells.
            before: by the reference frames.
            change: features of the targets less those of the references.
        """
        carried = self.carried(grid, before, change, frame, cell)
        share = self.attention(torch.cat([now, carried], 1)).float().sigmoid()
        return share * now + (1 - share) * carried

    def carried(
        self,
        grid: Grid,
        before: Float[Tensor, "F K P"],
        change: Float[Tensor, "F C P"],
        frame: Int[Tensor, " R"],
        cell: Int[Tensor, " R"],
    ) -> Float[Tensor, "R K"]:
        """What the deformable convolution of the reference's filters says at these cells."""
        offsets = grid.row([self.offsets(each).float() for each in grid.maps(change)])
        level, at = grid.places(cell.device)
        taps = torch.cartesian_prod(*[torch.arange(TAPS, device=cell.device) - TAPS // 2] * 2)  # (y, x) of each
        read = at[cell][:, None] + taps.flip(1) + offsets[frame, :, cell].unflatten(1, (-1, 2)).flip(2)
        samples = grid.sample(before, read, frame, level[cell])
        weight = self.warp.weight.flatten(2).permute(2, 1, 0).flatten(0, 1)  # (T * K, K)
        return (samples.flatten(1) @ weight).float()
