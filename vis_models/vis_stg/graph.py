"""Instances of the reference frame and cells of the target frame, connected where they are near each other.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021,
section 3.2. An instance is a node on every level of the pyramid. What is never made is a table of all instances by all
cells: edges are a list, from which messages are added up where they belong.

Axes: F frames, P cells of all levels, Q = F * P cells of all frames, R instances of all frames, L levels, N = R * L
nodes, W cells of a window, E edges, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models.layers.chunks import in_chunks
from vis_models.layers.mlp import Mlp
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.grid import Grid

AT_ONCE = 2**15
"""Edges that are looked at together."""
SMALL = 0.1
"""Of what an iteration adds to a node at the start, against what it would by itself."""


@dataclass(frozen=True)
class Instances:
    """Those of the reference frames, in any order."""

    nodes: Float[Tensor, "R L C"]
    """What each looks like on every level."""
    centres_px: Float[Tensor, "R 2"]
    """(x, y) in the reference frame."""
    frame: Int[Tensor, " R"]
    """The target frame of each."""


@dataclass(frozen=True)
class Edges:
    """Who is connected to whom."""

    node: Int[Tensor, " E"]
    cell: Int[Tensor, " E"]
    """Among the cells of all frames."""
    away: Float[Tensor, "E 2"]
    """From the instance's centre to the middle of the cell (x, y), in halves of the window."""
    number: Int[Tensor, "R P"]
    """Of the edge between an instance and a cell of its target frame; -1: they are not connected."""

    @classmethod
    def between(cls, grid: Grid, instances: Instances, window: int) -> "Edges":
        """Each instance and the cells of a square around its centre, on every level."""
        levels = len(grid.sizes)
        level = torch.arange(levels, device=instances.frame.device).repeat(len(instances.frame))
        centres = instances.centres_px.repeat_interleave(levels, 0)
        cells, there = grid.around(grid.under(centres, level), level, window)
        node, place = there.nonzero(as_tuple=True)
        cell = cells[node, place]
        half_px = torch.tensor(grid.strides, device=cell.device)[level[node]] * window / 2
        away = (grid.centres_px(cell.device)[cell] - centres[node]) / half_px[:, None]
        number = torch.full((len(instances.frame), grid.cells), -1, device=cell.device)
        number[node // levels, cell] = torch.arange(len(cell), device=cell.device)
        return cls(node, instances.frame[node // levels] * grid.cells + cell, away, number)


def keep_loud(net: Mlp) -> None:
    """At the start what comes out varies as much as what goes in: after so many layers nothing would be left else."""
    for layer in net.layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if layer is not net.layers[-1] else "linear")
        nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class Fused:
    """What the graph makes of both frames."""

    features: Float[Tensor, "F C P"]
    """Of the target frames: F^ in the paper."""
    edges: Edges
    relations: Float[Tensor, "E C"]
    """Features of the edges."""


class InstanceGraph(nn.Module):
    """Eq. (1) and (2), `gnn_iterations` times, each with weights of its own."""

    def __init__(self, config: VisStgConfig) -> None:
        super().__init__()
        self.window, self.messages, channels = config.window, config.messages, config.channels
        count = range(config.gnn_iterations)
        self.edge_nets: Sequence[Mlp] = nn.ModuleList(Mlp(3 * channels, channels, channels) for _ in count)  # type: ignore[assignment]
        self.node_nets: Sequence[Mlp] = nn.ModuleList(Mlp(2 * channels, channels, channels) for _ in count)  # type: ignore[assignment]
        self.place = nn.Linear(2, channels) if config.relative_position else None
        for net in (*self.edge_nets, *self.node_nets):
            keep_loud(net)
        for net in self.node_nets:
            with torch.no_grad():
                net.layers[-1].weight.mul_(SMALL)

    def forward(self, grid: Grid, features: Float[Tensor, "F C P"], instances: Instances) -> Fused:
        """Ours: a node keeps what it was and adds its messages, as by Eq. (2) alone a cell without edges, and so all of
        a frame without a reference, would be nothing."""
        edges = Edges.between(grid, instances, self.window)
        cells = features.transpose(1, 2).flatten(0, 1)
        nodes = instances.nodes.flatten(0, 1).to(cells.dtype)
        relations = (nodes[edges.node] - cells[edges.cell]).abs()
        if self.place is not None:
            relations = relations + self.place(edges.away.to(relations.dtype))
        for edge_net, node_net in zip(self.edge_nets, self.node_nets, strict=True):
            say = partial(_messages, edge_net, node_net, nodes, cells)
            relations, to_node, to_cell = in_chunks(say, AT_ONCE, relations, edges.node, edges.cell)
            nodes = nodes + self._gathered(to_node, edges.node, len(nodes))
            cells = cells + self._gathered(to_cell, edges.cell, len(cells))
        return Fused(cells.unflatten(0, (len(features), grid.cells)).transpose(1, 2), edges, relations)

    def _gathered(
        self, messages: Float[Tensor, "E C"], owner: Int[Tensor, " E"], count: int
    ) -> Float[Tensor, "count C"]:
        """The messages of each of so many nodes, added up."""
        total = messages.new_zeros(count, messages.shape[1], dtype=torch.float32)
        total = total.index_add(0, owner, messages.float())
        if self.messages == "mean":
            total = total / owner.bincount(minlength=count).clamp(min=1)[:, None]
        return total


def _messages(
    edge_net: Mlp,
    node_net: Mlp,
    nodes: Float[Tensor, "N C"],
    cells: Float[Tensor, "Q C"],
    relations: Float[Tensor, "E C"],
    node: Int[Tensor, " E"],
    cell: Int[Tensor, " E"],
) -> tuple[Float[Tensor, "E C"], Float[Tensor, "E C"], Float[Tensor, "E C"]]:
    """Eq. (1) of some edges, and by Eq. (2) what each tells its node and its cell."""
    ends = nodes[node], cells[cell]
    relations = edge_net(torch.cat([relations, *ends], 1))
    return relations, *(node_net(torch.cat([relations, end], 1)) for end in ends)
