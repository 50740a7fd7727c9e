"""What a pair of frames teaches: Eq. (3) to (6).

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021,
sections 3.3 to 3.6.

Axes: B pairs, F = 2 B frames: all targets, then all references; A objects of a frame, R of all reference frames,
W cells around a centre, P cells of all levels, C channels, K parameters of a filter.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.layers.chunks import in_chunks
from vis_models.layers.dynamic_masks import FINER
from vis_models.losses import dice, mean_over_workers, nothing, track_loss
from vis_models.matching import columns, similarity
from vis_models.truths import Truth, masks_at_cells, shares_of_cells, truths_of
from vis_models.types import Clips
from vis_models.vis_stg import centres
from vis_models.vis_stg.centres import Targets
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.graph import Fused, Instances
from vis_models.vis_stg.grid import Grid
from vis_models.vis_stg.network import MASKS_AT_ONCE, Told, VisStgNetwork


@dataclass(frozen=True)
class Pairs:
    """What is known of B pairs."""

    grid: Grid
    truths: list[Truth]
    """Of F frames."""
    targets: list[Targets]
    """The same, as maps."""

    @property
    def count(self) -> int:
        """B."""
        return len(self.truths) // 2

    def around(self, frame: int, side: int) -> tuple[Int[Tensor, "A W"], Bool[Tensor, "A W"]]:
        """The cells around the centre of each object of a frame, and which of them learn from it: each cell from the
        object of its level to whose own it is nearest, as it has one filter, and one answer to each instance. Only
        where centres share a cell all of them do."""
        own = self.targets[frame]
        cells, there = self.grid.around(own.at, own.level, side)
        if not len(cells):
            return cells, there
        _, place = self.grid.places(cells.device)
        away = (place[cells][:, :, None] - own.at).square().sum(-1).float()
        rival = own.valid & (own.level[:, None] == own.level)
        nearest = away.masked_fill(~rival[:, None], torch.inf).argmin(-1)
        mine = nearest == torch.arange(len(cells), device=cells.device)[:, None]
        centre = (place[cells] == own.at[:, None]).all(-1)
        return cells, there & own.valid[:, None] & (mine | centre)


def loss(network: VisStgNetwork, clips: Clips, images: Float[Tensor, "F 3 H W"]) -> dict[str, Tensor]:
    """The weighted terms of a batch of pairs, each a target and its reference.

    Args:
        images: normalised, pair by pair.

    Raises:
        ValueError: clips that are no pairs.
    """
    config, length = network.config, clips.frames.shape[1]
    if length != 2:
        raise ValueError(
            f"VisSTG learns from pairs, a target and a reference frame, got clips of {length} frames: set the stage's "
            "sampling to pair"
        )
    truths = truths_of(clips)
    pairs = _pairs(config, network.grid((images.shape[-2], images.shape[-1])), truths[::2] + truths[1::2])
    features = network.features(images)
    now, before = features[::2], features[1::2]
    instances = _instances(network, pairs, before)
    fused, graph = network.fuse(pairs.grid, now, before, instances)
    plain = before if network.concat is None else network.fuse(pairs.grid, before, before, instances)[0]
    told = network.tell(pairs.grid, torch.cat([fused, plain]))
    terms = _detection(config, pairs, told)
    terms["mask"] = _masks(network, pairs, told, now - before)
    terms["link"] = config.edge_weight * _association(network, pairs, graph, fused, plain)
    return terms | {"mask": config.mask_weight * terms["mask"] + nothing(network)}


def level_of(config: VisStgConfig, boxes_px: Float[Tensor, "A 4"]) -> Int[Tensor, " A"]:
    """The level that each object is found on, by its longer side."""
    longer = (boxes_px[:, 2:] - boxes_px[:, :2]).amax(1)
    return (longer[:, None] > longer.new_tensor(config.level_px)).sum(1)


def _pairs(config: VisStgConfig, grid: Grid, truths: list[Truth]) -> Pairs:
    targets = [
        centres.targets(grid, truth.boxes_px, truth.labels, level_of(config, truth.boxes_px), config.num_classes,
                        config.least_overlap)
        for truth in truths
    ]  # fmt: skip
    return Pairs(grid, truths, targets)


def _instances(network: VisStgNetwork, pairs: Pairs, before: Float[Tensor, "B C P"]) -> Instances:
    """The true objects of the reference frames."""
    references = pairs.truths[pairs.count :]
    boxes = torch.cat([truth.boxes_px for truth in references])
    counts = torch.tensor([len(truth.boxes_px) for truth in references], device=boxes.device)
    frame = torch.arange(pairs.count, device=boxes.device).repeat_interleave(counts)
    nodes = network.nodes(pairs.grid, before, boxes, frame)
    return Instances(nodes, box_ops.centre_size(boxes)[:, :2], frame)


def _detection(config: VisStgConfig, pairs: Pairs, told: Told) -> dict[str, Tensor]:
    """Eq. (3), of the target frames, or of all."""
    learned = len(pairs.targets) if config.learn_reference else pairs.count
    own = pairs.targets[:learned]
    cells = [target.cell[target.valid] for target in own]

    def regression(said: Float[Tensor, "F 2 P"], name: str) -> Float[Tensor, ""]:
        wanted = torch.cat([getattr(target, name)[target.valid] for target in own])
        return centres.regression_loss(centres.at_cells(said[:learned], cells), wanted)

    heat = centres.heat_loss(told.heat[:learned], torch.stack([target.heat for target in own]))
    return {
        "heat": config.det_weight * heat,
        "size": config.det_weight * config.size_weight * regression(told.size, "size"),
        "offset": config.det_weight * config.offset_weight * regression(told.offset, "offset"),
    }


def _masks(network: VisStgNetwork, pairs: Pairs, told: Told, change: Float[Tensor, "B C P"]) -> Float[Tensor, ""]:
    """Dice of the masks that the cells around each centre tell, of both frames."""
    config = network.config
    cells, frames, owners, objects = list[Tensor](), list[Tensor](), list[Tensor](), 0
    for number in range(len(pairs.truths)):
        around, there = pairs.around(number, config.centre_cells)
        own, place = there.nonzero(as_tuple=True)
        cells.append(around[own, place])
        frames.append(torch.full_like(own, number))
        owners.append(objects + own)
        objects += len(around)
    frame, cell = torch.cat(frames), torch.cat(cells)
    count = mean_over_workers(torch.tensor(len(cell), device=cell.device)).clamp(min=1e-6)
    if not len(cell):
        return told.filters.sum() * 0
    target, first, before = frame < pairs.count, told[: pairs.count], told.filters[pairs.count :]
    filters = torch.cat([
        network.filters(pairs.grid, first, frame[target], cell[target], before, change),
        network.filters(pairs.grid, told, frame[~target], cell[~target]),
    ])  # fmt: skip
    height, width = told.masks.shape[2:]
    size = (FINER * height, FINER * width)
    read = shares_of_cells if config.mask_shares else masks_at_cells
    wanted = torch.cat([read(truth.masks, size, config.mask_stride) for truth in pairs.truths])

    def unlike(filters: Tensor, frame: Tensor, cell: Tensor, owner: Tensor) -> tuple[Tensor]:
        logits = network.masks(pairs.grid, told, filters, frame, cell)
        return (dice(logits.float(), wanted[owner].float(), "condinst"),)

    return in_chunks(unlike, MASKS_AT_ONCE, filters, frame, cell, torch.cat(owners))[0].sum() / count


def _association(
    network: VisStgNetwork,
    pairs: Pairs,
    graph: Fused | None,
    now: Float[Tensor, "B C P"],
    before: Float[Tensor, "B C P"],
) -> Float[Tensor, ""]:
    """Of whatever links."""
    if network.same is not None:
        assert graph is not None
        return _edge_loss(network, pairs, graph, network.same)
    if network.embedding is not None:
        return _embedding_loss(network, pairs, network.embedding, now, before)
    assert network.way_back is not None
    return _offset_loss(network, pairs, network.way_back, now)


def _edge_loss(network: VisStgNetwork, pairs: Pairs, graph: Fused, same: nn.Module) -> Float[Tensor, ""]:
    """Eq. (5): of edges that lead to cells around a centre, and to an object of the instance's class. Ours: classes
    are the true ones."""
    edges, wanted = [graph.edges.node[:0]], [torch.zeros(0, device=graph.relations.device)]
    first = 0
    for number in range(pairs.count):
        target, reference = pairs.truths[number], pairs.truths[pairs.count + number]
        cells, there = pairs.around(number, network.config.centre_cells)
        own = graph.edges.number[first : first + len(reference.labels)][:, cells]
        first += len(reference.labels)
        alike = (reference.labels[:, None] == target.labels) | (not network.config.same_class)
        kept = alike[..., None] & there & (own >= 0)
        edges.append(own[kept])
        wanted.append((reference.slots[:, None] == target.slots)[..., None].expand_as(kept)[kept].float())
    chosen, truth = torch.cat(edges), torch.cat(wanted)
    count = mean_over_workers(torch.tensor(len(chosen), device=chosen.device)).clamp(min=1e-6)
    logits = same(graph.relations[chosen]).float()[:, 0]
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / count


def _embedding_loss(
    network: VisStgNetwork,
    pairs: Pairs,
    head: nn.Module,
    now: Float[Tensor, "B C P"],
    before: Float[Tensor, "B C P"],
) -> Float[Tensor, ""]:
    """As MaskTrack R-CNN: which object of the reference each one is, or none."""
    said = network.along(head, pairs.grid, torch.cat([now, before]))
    own = [embedded[:, target.cell].T for embedded, target in zip(said, pairs.targets, strict=True)]
    logits, targets = [], []
    for number in range(pairs.count):
        target, reference = pairs.truths[number], pairs.truths[pairs.count + number]
        logits.append(similarity(own[number], own[pairs.count + number]))
        targets.append(columns(target.slots, reference.slots))
    return track_loss(logits, targets, "positives")


def _offset_loss(
    network: VisStgNetwork, pairs: Pairs, head: nn.Module, now: Float[Tensor, "B C P"]
) -> Float[Tensor, ""]:
    """As CenterTrack: the way, in cells, from the centre of each object back to where it was."""
    said = network.along(head, pairs.grid, now)
    cells: list[Tensor] = []
    wanted: list[Tensor] = []
    for number in range(pairs.count):
        target, reference = pairs.truths[number], pairs.truths[pairs.count + number]
        own, other = (target.slots[:, None] == reference.slots).nonzero(as_tuple=True)
        stride = torch.tensor(pairs.grid.strides, device=own.device)[pairs.targets[number].level[own]]
        way = box_ops.centre_size(reference.boxes_px[other]) - box_ops.centre_size(target.boxes_px[own])
        wanted.append(way[:, :2] / stride[:, None])
        cells.append(pairs.targets[number].cell[own])
    return centres.regression_loss(centres.at_cells(said, cells), torch.cat(wanted))
