"""The cells of all levels of a pyramid in one row: level by level, fine to coarse, each row by row.

What a cell is of, where it lies, and which cells are around it is looked up here alone; networks see maps.

Axes: F frames, C channels, P cells of all levels, R points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.layers.normalise import DIVISOR


@dataclass(frozen=True)
class Grid:
    """Levels of so many rows and columns."""

    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each level, in cells."""
    strides: tuple[int, ...]
    """Pixels along a side of a cell of each level."""

    @classmethod
    def of(cls, frame_px: tuple[int, int], stride: int, levels: int) -> "Grid":
        """Of frames of (height, width), padded as a backbone takes them; each level halves the one before."""
        size = (-(-frame_px[0] // DIVISOR) * DIVISOR // stride, -(-frame_px[1] // DIVISOR) * DIVISOR // stride)
        sizes = [size]
        for _ in range(levels - 1):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return cls(tuple(sizes), tuple(stride * 2**level for level in range(levels)))

    @property
    def areas(self) -> list[int]:
        return [height * width for height, width in self.sizes]

    @property
    def cells(self) -> int:
        """P."""
        return sum(self.areas)

    def maps(self, row: Float[Tensor, "F C P"]) -> list[Float[Tensor, "F C _ _"]]:
        """Each level as a map."""
        return [part.unflatten(2, size) for part, size in zip(row.split(self.areas, 2), self.sizes, strict=True)]

    def row(self, maps: Sequence[Float[Tensor, "F C _ _"]]) -> Float[Tensor, "F C P"]:
        """The maps of all levels in one row."""
        return torch.cat([each.flatten(2) for each in maps], 2)

    def places(self, device: torch.device | str = "cpu") -> tuple[Int[Tensor, " P"], Int[Tensor, "P 2"]]:
        """Level, and (column, row), of each cell."""
        level = torch.arange(len(self.sizes), device=device).repeat_interleave(torch.tensor(self.areas, device=device))
        within = [
            torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).flatten(0, 1)
            for h, w in self.sizes
        ]
        return level, torch.cat(within).to(device)

    def centres_px(self, device: torch.device | str = "cpu") -> Float[Tensor, "P 2"]:
        """(x, y) of the middle of each cell."""
        level, at = self.places(device)
        return (at + 0.5) * torch.tensor(self.strides, device=device)[level][:, None]

    def under(self, points_px: Float[Tensor, "R 2"], level: Int[Tensor, " R"]) -> Int[Tensor, "R 2"]:
        """(column, row) of the cell of a level under each point (x, y); at the border where it lies outside."""
        stride = torch.tensor(self.strides, device=points_px.device)[level]
        most = torch.tensor(self.sizes, device=points_px.device)[level].flip(1) - 1
        return (points_px / stride[:, None]).floor().long().clamp(min=0).minimum(most)

    def around(
        self, at: Int[Tensor, "R 2"], level: Int[Tensor, " R"], side: int
    ) -> tuple[Int[Tensor, "R W"], Bool[Tensor, "R W"]]:
        """The cells of the square of so many cells around each (column, row) of a level, row by row, and which of them
        there are: at a border some are not, and are told as cell 0."""
        steps = torch.arange(side, device=at.device) - side // 2
        step = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
        places = at[:, None] + step
        size = torch.tensor(self.sizes, device=at.device)[level].flip(1)[:, None]
        there = ((places >= 0) & (places < size)).all(-1)
        return self.number(places, level[:, None].expand(there.shape)) * there, there

    def number(self, at: Int[Tensor, "*S 2"], level: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
        """Of the cell at (column, row) of a level."""
        first = torch.tensor([0, *accumulate(self.areas)], device=at.device)[level]
        return first + at[..., 1] * torch.tensor(self.sizes, device=at.device)[level][..., 1] + at[..., 0]

    def sample(
        self,
        row: Float[Tensor, "F K P"],
        at: Float[Tensor, "R T 2"],
        frame: Int[Tensor, " R"],
        level: Int[Tensor, " R"],
    ) -> Float[Tensor, "R T K"]:
        """Bilinear samples at T places (column, row) of a level of a frame; cells that are not there are zero."""
        table, low = row.transpose(1, 2).flatten(0, 1), at.floor()
        share, first = at - low, low.long()
        size = torch.tensor(self.sizes, device=at.device)[level].flip(1)[:, None]
        index, weight = [], []
        for step in torch.cartesian_prod(torch.arange(2), torch.arange(2)).to(at.device):
            place = first + step
            there = ((place >= 0) & (place < size)).all(-1)
            place = place.clamp(min=0).minimum(size - 1)
            index.append(frame[:, None] * self.cells + self.number(place, level[:, None].expand(there.shape)))
            weight.append(torch.where(step == 1, share, 1 - share).prod(-1) * there)
        values = table[torch.stack(index, -1)]  # (R, T, 4, K)
        return (values * torch.stack(weight, -1)[..., None]).sum(2)
