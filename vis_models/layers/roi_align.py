"""RoIAlign: the features under a box, as a grid of so many cells whatever the size of the box.

Source: He et al., "Mask R-CNN", ICCV 2017, section 3. Each cell is the mean of samples, s along each side, at the
middles of its parts; a sample is the bilinear mean of the four pixels around it, zero further than a pixel outside of
the map. Plain PyTorch. A cell is therefore a weighted sum of pixels whose weights are products of one along y and one
along x, which is how it is computed: as bags of rows of one table of all levels (`roi_align`), or where each box has a
map of its own, as two small matrix products (`align_own`).

Axes: F frames, R boxes, C channels, P cells along a side, S samples of a cell along a side.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Alignment = Literal["legacy", "aligned", "plus_one"]
"""Where a box begins and ends on a map: `aligned` counts half a pixel off, so that the middle of pixel 0 is at 0.5;
`legacy` does not, and no box is smaller than a pixel; `plus_one` holds the last pixel of the box to be inside."""


def roi_align(
    levels: Sequence[Float[Tensor, "F C _ _"]],
    boxes_px: Float[Tensor, "R 4"],
    frame: Int[Tensor, " R"],
    level: Int[Tensor, " R"],
    strides: Sequence[float],
    cells: int,
    alignment: Alignment = "legacy",
    samples: int | None = 2,
) -> Float[Tensor, "R C P P"]:
    """The features under boxes of any frames, each taken from its own level of a pyramid; all in one call.

    Args:
        boxes_px: (x0, y0, x1, y1) in pixels of the input.
        frame: of each box.
        level: index of the level from which each box is taken.
        strides: pixels of the input from one pixel of a level to the next.
        samples: S; None: as many as the cell has pixels, rounded up.
    """
    channels = levels[0].shape[1]
    if not len(boxes_px):
        return levels[0].new_zeros(0, channels, cells, cells, dtype=torch.float32)
    shapes = torch.tensor([map_.shape[-2:] for map_ in levels], device=boxes_px.device)
    areas = torch.tensor([map_.shape[0] * map_.shape[2] * map_.shape[3] for map_ in levels], device=boxes_px.device)
    first = areas.cumsum(0) - areas
    height, width = shapes[level].unbind(-1)
    scale = boxes_px.new_tensor([1 / stride for stride in strides])[level]
    low, length = _extent(boxes_px, scale, alignment)
    rows, row_weight = _along(low[:, 1], length[:, 1], height, cells, samples)
    columns, column_weight = _along(low[:, 0], length[:, 0], width, cells, samples)
    start = first[level] + frame * height * width
    index = (start[:, None, None] + rows * width[:, None, None])[:, :, None, :, None] + columns[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    table = torch.cat([map_.permute(0, 2, 3, 1).reshape(-1, channels) for map_ in levels]).float()
    bags = _WeightedSums.apply(table, index.flatten(0, 2).flatten(1), weight.flatten(0, 2).flatten(1))
    return bags.view(len(boxes_px), cells, cells, channels).permute(0, 3, 1, 2)


class _WeightedSums(torch.autograd.Function):
    """Of each bag the weighted sum of its rows of a table. The gradient of a row is a weighted sum as well, of the
    bags that it lies in: the same operation with rows and bags exchanged, which takes a quarter of the time that
    `embedding_bag` takes for its own gradient. Places and weights have none."""

    @staticmethod
    def forward(
        context: Any, table: Float[Tensor, "T C"], index: Int[Tensor, "G K"], weight: Float[Tensor, "G K"]
    ) -> Float[Tensor, "G C"]:
        context.save_for_backward(index, weight)
        context.rows = len(table)
        return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")

    @staticmethod
    def backward(context: Any, gradient: Float[Tensor, "G C"]) -> tuple[Float[Tensor, "T C"], None, None]:  # type: ignore[override]
        index, weight = context.saved_tensors
        row, order = index.flatten().to(torch.int32).sort(stable=True)
        first = torch.searchsorted(row, torch.arange(context.rows, dtype=torch.int32, device=row.device))
        own = weight.flatten()[order]
        return (
            F.embedding_bag(order // index.shape[1], gradient.contiguous(), first, per_sample_weights=own, mode="sum"),
            None,
            None,
        )


def align_own(
    maps: Float[Tensor, "R H W"],
    boxes_px: Float[Tensor, "R 4"],
    cells: int,
    alignment: Alignment = "legacy",
    samples: int | None = None,
) -> Float[Tensor, "R P P"]:
    """Of each map the part under its own box: what a mask is within a box."""
    height, width = maps.shape[-2:]
    low, length = _extent(boxes_px, boxes_px.new_ones(len(boxes_px)), alignment)
    sides = []
    for axis, limit in ((1, height), (0, width)):
        index, weight = _along(low[:, axis], length[:, axis], _full(boxes_px, limit), cells, samples)
        sides.append(maps.new_zeros(len(maps), cells, limit).scatter_add_(2, index, weight))
    return sides[0] @ maps @ sides[1].transpose(1, 2)


def pyramid_level(boxes_px: Float[Tensor, "R 4"], levels: int, unit_px: float, plus_one: bool) -> Int[Tensor, " R"]:
    """The level of each box by its size (Lin et al., Eq. (1)): the finest one up to twice `unit_px` on a side, in the
    mean of both, and one more with each doubling."""
    side = (boxes_px[:, 2:] - boxes_px[:, :2] + plus_one).clamp(min=0).prod(1).sqrt()
    return ((side / unit_px).log2() + 1e-6).floor().clamp(0, levels - 1).long()


def _full(like: Tensor, value: int) -> Int[Tensor, " R"]:
    return torch.full((len(like),), value, dtype=torch.long, device=like.device)


def _extent(
    boxes_px: Float[Tensor, "R 4"], scale: Float[Tensor, " R"], alignment: Alignment
) -> tuple[Float[Tensor, "R 2"], Float[Tensor, "R 2"]]:
    """Where boxes begin, and how long they are, in pixels of their maps."""
    low, high = boxes_px[:, :2], boxes_px[:, 2:] + (alignment == "plus_one")
    low, high = low * scale[:, None], high * scale[:, None]
    if alignment == "aligned":
        return low - 0.5, high - low
    return low, (high - low).clamp(min=1.0 if alignment == "legacy" else 0.0)


def _along(
    low: Float[Tensor, " R"], length: Float[Tensor, " R"], limit: Int[Tensor, " R"], cells: int, samples: int | None
) -> tuple[Int[Tensor, "R P K"], Float[Tensor, "R P K"]]:
    """Pixels along one side of the map that each cell looks at, and their weights; K is as small as it can be."""
    count = torch.full_like(limit, samples) if samples else (length / cells).ceil().clamp(min=0).long()
    most = max(int(count.max()), 1)
    step = torch.arange(most, device=low.device)
    part = (step + 0.5) / count.clamp(min=1)[:, None]  # (R, S)
    at = low[:, None, None] + (torch.arange(cells, device=low.device)[:, None] + part[:, None]) * (
        length / cells
    )[:, None, None]  # fmt: skip
    last = (limit - 1)[:, None, None]
    counts = (step < count[:, None])[:, None] & (at >= -1) & (at <= limit[:, None, None])
    at = at.clamp(min=0)
    before = at.floor().long().minimum(last)
    share = torch.where(before < last, at - before, 0.0)
    weight = torch.stack([1 - share, share], -1) * counts[..., None] / count.clamp(min=1)[:, None, None, None]
    index = torch.stack([before, (before + 1).minimum(last)], -1)
    index, weight = index.flatten(2), weight.flatten(2)
    if samples:
        return index, weight
    # Samples are at most a pixel apart: neighbours share pixels, and a cell has one more of them than samples
    first = index[..., :1]
    together = weight.new_zeros(*weight.shape[:2], most + 1)
    together.scatter_add_(2, (index - first).clamp(max=most), weight)
    return (first + torch.arange(most + 1, device=low.device)).minimum(last), together
