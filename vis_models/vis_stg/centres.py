"""CenterNet: an object is the point in its middle, and what is told there.

Source: Zhou, Wang, Kraehenbuehl, "Objects as points", 2019, sections 3 and 4; where it is silent, its released code.
Differs from both: there may be several maps, each for objects of some sizes, and what is counted is shared among
workers.

Axes: F frames, S classes, P cells of all levels, A objects of a frame, N detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.losses import mean_over_workers
from vis_models.vis_stg.grid import Grid

BIAS = -2.19
"""Of heat maps at the start: a chance of one tenth."""
SURE = 1e-4
"""No heat counts as nearer to 0 or 1."""
FOCUS, SPARED = 2, 4
"""Alpha and beta of Eq. (1): how little what is right already counts, and what lies beside a centre."""
PEAK = 3
"""Cells along a side of the square in which a peak is the highest."""


@dataclass(frozen=True)
class Targets:
    """What the maps of one frame should say."""

    heat: Float[Tensor, "S P"]
    size: Float[Tensor, "A 2"]
    """(width, height) in cells of the object's level."""
    offset: Float[Tensor, "A 2"]
    """(x, y) from the corner of the cell that the centre lies in to the centre, in cells."""
    level: Int[Tensor, " A"]
    at: Int[Tensor, "A 2"]
    """(column, row) of that cell,"""
    cell: Int[Tensor, " A"]
    """and its number."""
    valid: Bool[Tensor, " A"]
    """Whether anything of the object lies on the map; nothing is asked for of the others."""


def targets(
    grid: Grid,
    boxes_px: Float[Tensor, "A 4"],
    labels: Int[Tensor, " A"],
    level: Int[Tensor, " A"],
    classes: int,
    least_overlap: float = 0.7,
) -> Targets:
    """Of the objects of one frame, each on its level; boxes are cut to the map."""
    device = boxes_px.device
    stride = torch.tensor(grid.strides, device=device)[level]
    most = torch.tensor(grid.sizes, device=device)[level].flip(1) - 1
    boxes = (boxes_px / stride[:, None]).clamp(min=0).minimum(most.repeat(1, 2).to(boxes_px.dtype))
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    at = centre.long()
    valid = (size > 0).all(1)
    cell_level, place = grid.places(device)
    heat = torch.zeros(classes, grid.cells, device=device)
    sizes = size.tolist()
    for number in valid.nonzero().flatten().tolist():
        width, height = map(ceil, sizes[number])
        reach = int(radius(height, width, least_overlap))
        away = place - at[number]
        near = (cell_level == level[number]) & (away.abs() <= reach).all(1)
        bump = (-(away**2).sum(1) / (2 * ((2 * reach + 1) / 6) ** 2)).exp() * near
        label = int(labels[number])
        heat[label] = heat[label].maximum(bump)
    whole = valid[:, None]
    return Targets(heat, size * whole, (centre - at) * whole, level, at, grid.number(at, level) * valid, valid)


def radius(height: int, width: int, least_overlap: float) -> float:
    """How far, in cells, both corners of a box can be off so that it still overlaps itself by so much, in the worst of
    three cases. Differs from the truth as the released code does: two roots of its quadratic equations are not theirs.
    """
    both, area = height + width, height * width
    outside = (both + sqrt(both**2 - 4 * area * (1 - least_overlap) / (1 + least_overlap))) / 2
    inside = (2 * both + sqrt(4 * both**2 - 16 * (1 - least_overlap) * area)) / 2
    shifted = -2 * least_overlap * both
    across = (shifted + sqrt(shifted**2 - 16 * least_overlap * (least_overlap - 1) * area)) / 2
    return min(outside, inside, across)


def heat_loss(logits: Float[Tensor, "F S P"], wanted: Float[Tensor, "F S P"]) -> Float[Tensor, ""]:
    """Eq. (1): focal loss over the number of centres; where there is none, undivided."""
    chance = logits.sigmoid().clamp(SURE, 1 - SURE)
    centre = wanted == 1
    right = chance.log() * (1 - chance) ** FOCUS
    wrong = (1 - chance).log() * chance**FOCUS * (1 - wanted) ** SPARED
    count = mean_over_workers(centre.sum())
    return -torch.where(centre, right, wrong).sum() / torch.where(count > 0, count, 1.0)


def regression_loss(said: Float[Tensor, "A 2"], wanted: Float[Tensor, "A 2"]) -> Float[Tensor, ""]:
    """Eq. (2) and (3): L1, the mean over both numbers of all objects."""
    count = mean_over_workers(torch.tensor(wanted.numel(), device=wanted.device))
    return (said - wanted).abs().sum() / (count + 1e-4)


def at_cells(maps: Float[Tensor, "F K P"], cells: Sequence[Int[Tensor, " _"]]) -> Float[Tensor, "A K"]:
    """What the maps of each frame say at some cells, those of all frames in a row."""
    return torch.cat([own[:, cell].T for own, cell in zip(maps, cells, strict=True)])


def peaks(grid: Grid, heat: Float[Tensor, "F S P"]) -> Bool[Tensor, "F S P"]:
    """Where no cell beside has more heat, on the same level."""
    highest = [F.max_pool2d(each, PEAK, stride=1, padding=PEAK // 2) for each in grid.maps(heat)]
    return grid.row(highest) == heat


@dataclass(frozen=True)
class Decoded:
    """The N highest peaks of each frame, highest first."""

    boxes_px: Float[Tensor, "F N 4"]
    scores: Float[Tensor, "F N"]
    labels: Int[Tensor, "F N"]
    cells: Int[Tensor, "F N"]


def decode(
    grid: Grid,
    heat: Float[Tensor, "F S P"],
    size: Float[Tensor, "F 2 P"],
    offset: Float[Tensor, "F 2 P"] | None,
    count: int,
) -> Decoded:
    """The objects that the maps show, `count` at most. Without offsets a centre is in the middle of its cell."""
    found = (heat * peaks(grid, heat)).flatten(1)
    scores, index = found.topk(min(count, found.shape[1]), dim=1)
    labels, cells = index // grid.cells, index % grid.cells
    level, place = grid.places(heat.device)
    stride = torch.tensor(grid.strides, device=heat.device)[level][cells][..., None]
    chosen = cells[:, None].expand(-1, 2, -1)
    inside = offset.gather(2, chosen).transpose(1, 2) if offset is not None else 0.5
    centre = place[cells] + inside
    boxes = box_ops.corners(torch.cat([centre, size.gather(2, chosen).transpose(1, 2)], -1))
    return Decoded(boxes * stride, scores, labels, cells)
