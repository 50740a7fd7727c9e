"""The graph network over tracks and detections (section 3.2, Table 3), and the gate of a track's memory, eq. (2).

Source and axes: as `model.py`.
"""

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vis_models.rgnn.config import RgnnConfig


@dataclass(frozen=True)
class Graph:
    """Tracks and detections with an edge between each two; the empty track, tau_0, has edges of its own."""

    tracks: Float[Tensor, "B M _"]
    empty: Float[Tensor, "B _"]
    detections: Float[Tensor, "B N _"]
    edges: Float[Tensor, "B M N _"]
    empty_edges: Float[Tensor, "B N _"]
    track_mask: Bool[Tensor, "B M"]
    detection_mask: Bool[Tensor, "B N"]


class GnnBlock(nn.Module):
    """Eq. (1): edges from their ends, then nodes from their updated edges, then a residual stage on each."""

    def __init__(self, config: RgnnConfig, first: bool) -> None:
        super().__init__()
        D, inner = config.embedding, config.bottleneck
        looks = config.appearance_channels if config.appearance == "embedding" else 0
        detection = config.detector.num_classes + 1 + 4 + looks if first else D
        alike = int(config.has_gaussian)
        self.edge = _edge_net(D + detection + (1 + alike if first else D), config, first)
        self.empty_edge = _edge_net(D + detection + (alike if first else D), config, first)
        self.empty = _node_net(2 * D, config)
        self.track = _node_net(2 * D, config)
        self.detection = _node_net(detection + D, config)
        names = ("empty", "track", "detection", "detection_from_empty")
        gated = config.node_update == "gated"
        self.gates = nn.ModuleDict({name: MessageGate(D, inner) if gated else nn.Identity() for name in names})
        parts = [field.name for field in fields(Graph) if "mask" not in field.name]
        self.residuals = nn.ModuleDict(
            {p: Residual(D, inner, config.bottleneck_layers) for p in parts} if config.gnn_residual else {}
        )

    def forward(self, graph: Graph) -> Graph:
        return self.settle(self.exchange(graph))

    def exchange(self, graph: Graph) -> Graph:
        """Edges read their ends, then nodes their edges."""
        there, here = graph.track_mask[:, :, None], graph.detection_mask[..., None]
        M, N = graph.edges.shape[1:3]
        tracks = graph.tracks[:, :, None].expand(-1, -1, N, -1)
        detections = graph.detections[:, None].expand(-1, M, -1, -1)
        edges = self.edge(torch.cat([tracks, detections, graph.edges], -1))
        empty = graph.empty[:, None].expand(-1, N, -1)
        empty_edges = self.empty_edge(torch.cat([empty, graph.detections, graph.empty_edges], -1))
        active = (there & here[:, None, :, 0])[..., None]
        to_empty = (self.gates["empty"](empty_edges) * here).sum(1)
        to_tracks = (self.gates["track"](edges) * active).sum(2)
        to_detections = (self.gates["detection"](edges) * active).sum(1)
        to_detections = to_detections + self.gates["detection_from_empty"](empty_edges) * here
        return replace(
            graph,
            tracks=F.relu(self.track(torch.cat([graph.tracks, to_tracks], -1))),
            empty=F.relu(self.empty(torch.cat([graph.empty, to_empty], -1))),
            detections=F.relu(self.detection(torch.cat([graph.detections, to_detections], -1))),
            edges=edges,
            empty_edges=empty_edges,
        )

    def settle(self, graph: Graph) -> Graph:
        """The residual stage: each part by itself."""
        return replace(graph, **{part: stage(getattr(graph, part)) for part, stage in self.residuals.items()})


class MessageGate(nn.Module):
    """g(e) * e: what of an edge reaches the node."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels))

    def forward(self, edges: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        return self.net(edges).sigmoid() * edges


class Residual(nn.Module):
    """ReLU(x + h(x)) with a bottleneck of two or three linears (Table 3).

    Without the final ReLU looks can be unlike: [31] compares them with a new track at 0, which behind a ReLU none is
    below, so that a detection of a class that lives could never start a track.
    """

    def __init__(self, channels: int, inner: int, layers: int, final_relu: bool = True) -> None:
        super().__init__()
        self.final_relu = final_relu
        widths = [channels] + [inner] * (layers - 1) + [channels]
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList(linears)

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        y = x
        for linear in self.layers[:-1]:
            y = F.relu(linear(y))
        y = x + self.layers[-1](y)
        return F.relu(y) if self.final_relu else y


class Gate(nn.Module):
    """Eq. (2): an LSTM's gates with the graph network in the place of its linear layer (Eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.x = nn.Linear(channels, 4 * channels)
        self.previous = nn.Linear(channels, 4 * channels)

    def forward(
        self, x: Float[Tensor, "*S D"], previous: Float[Tensor, "*S D"], cell: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
        forget, enter, leave, candidate = (self.x(x) + self.previous(previous)).chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        return leave.sigmoid() * cell.tanh(), cell


def _edge_net(in_channels: int, config: RgnnConfig, first: bool) -> nn.Sequential:
    D = config.embedding
    layers: list[nn.Module] = [nn.Linear(in_channels, D), nn.ReLU(inplace=True)]
    if config.node_update == "mlp":
        layers += [nn.Linear(D, D), nn.ReLU(inplace=True)]
    if first:
        layers.append(Residual(D, config.bottleneck, config.bottleneck_layers))
    return nn.Sequential(*layers)


def _node_net(in_channels: int, config: RgnnConfig) -> nn.Module:
    D = config.embedding
    if config.node_update == "gated":
        return nn.Linear(in_channels, D)
    return nn.Sequential(nn.Linear(in_channels, D), nn.ReLU(inplace=True), nn.Linear(D, D))
