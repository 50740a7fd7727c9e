"""The parts of VisSTG's network: cells, the graph, filters that are carried, by arithmetic and slow loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_models.checkpoints import initialise
from vis_models.config import BadConfig
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.graph import Edges, InstanceGraph, Instances
from vis_models.vis_stg.grid import Grid
from vis_models.vis_stg.model import VisStg
from vis_models.vis_stg.network import VisStgNetwork
from vis_models.vis_stg.propagation import Propagation

pytestmark = pytest.mark.unit

GRID = Grid(((6, 8), (3, 4)), (4, 8))
CHANNELS = 5
OTHER_PARTS = {
    "backbone.fpn.inner_blocks.0.weight": torch.zeros(8, 8, 1, 1),
    "rpn.head.conv.weight": torch.zeros(8, 8, 3, 3),
}


def config(**changes: Any) -> VisStgConfig:
    base = {
        "num_classes": 3,
        "image_size": (32, 64),
        "backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1), stem_pool=False),
        "channels": 8,
        "level_px": (16.0, 32.0),
        "head_convs": 2,
        "norm_groups": 2,
    }
    return VisStgConfig.model_validate(base | changes)


def graph(**changes: Any) -> InstanceGraph:
    torch.manual_seed(0)
    made = InstanceGraph(config(channels=CHANNELS, norm_groups=0, window=3, **changes))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def instances(*centres_px: tuple[float, float], frame: tuple[int, ...] = ()) -> Instances:
    torch.manual_seed(1)
    nodes = torch.randn(len(centres_px), len(GRID.sizes), CHANNELS)
    return Instances(
        nodes, torch.tensor(centres_px).float().view(-1, 2), torch.tensor(frame or (0,) * len(centres_px)).long()
    )


# ---- cells -----------------------------------------------------------------------------------------------------------


def test_cells_lie_level_by_level_and_row_by_row_and_a_map_comes_back_from_them():
    level, at = GRID.places()
    assert GRID.cells == 48 + 12
    assert (level[47], at[47].tolist(), level[48], at[48].tolist()) == (0, [7, 5], 1, [0, 0])
    maps = [torch.randn(2, 3, 6, 8), torch.randn(2, 3, 3, 4)]
    back = GRID.maps(GRID.row(maps))
    assert all(torch.equal(a, b) for a, b in zip(maps, back, strict=True))
    assert GRID.centres_px()[9].tolist() == [6.0, 6.0]
    assert GRID.centres_px()[59].tolist() == [28.0, 20.0]


def test_the_grid_of_a_frame_is_that_of_the_maps_that_the_network_makes_of_it():
    net = VisStgNetwork(config(level_px=(16.0, 32.0, 64.0, 128.0))).eval()
    levels = net.pyramid(net.backbone(torch.zeros(1, 3, 96, 160)))
    assert net.grid((70, 130)).sizes == tuple((level.shape[-2], level.shape[-1]) for level in levels)


def test_at_a_corner_only_a_quarter_of_a_window_is_there_and_a_point_outside_is_at_the_border():
    level = torch.tensor([0, 1])
    at = GRID.under(torch.tensor([[-3.0, -3.0], [99.0, 99.0]]), level)
    assert at.tolist() == [[0, 0], [3, 2]]
    cells, there = GRID.around(at, level, 3)
    assert there.sum(1).tolist() == [4, 4]
    assert cells[0][there[0]].tolist() == [0, 1, 8, 9]
    assert cells[1][there[1]].tolist() == [48 + 6, 48 + 7, 48 + 10, 48 + 11]


def test_a_sample_between_cells_is_their_mean_and_outside_of_the_level_is_nothing():
    row = torch.arange(60.0).view(1, 1, 60)
    at = torch.tensor(
        [[[0.5, 0.0], [0.5, 0.5], [-0.5, 0.0], [-2.0, 0.0]], [[3.0, 2.0], [3.5, 2.0], [3.0, 2.5], [9, 9]]]
    )
    found = GRID.sample(row, at, torch.zeros(2, dtype=torch.long), torch.tensor([0, 1]))[..., 0]
    assert found[0].tolist() == [0.5, 4.5, 0.0, 0.0]
    assert found[1].tolist() == [59.0, 29.5, 29.5, 0.0]


# ---- the graph ---------------------------------------------------------------------------------------------------


def by_loops(
    made: InstanceGraph, features: Tensor, given: Instances
) -> tuple[Tensor, dict[tuple[int, int, int], Tensor]]:
    """Eq. (1) and (2), edge by edge: the cells of all frames, and the edges by instance, level and cell."""
    (level, at), centres = GRID.places(), GRID.centres_px()
    reach = made.window // 2
    cells = features.transpose(1, 2).clone()
    nodes = given.nodes.clone()
    edges = {}
    for i, frame in enumerate(given.frame.tolist()):
        for cell in range(GRID.cells):
            own = GRID.under(given.centres_px[[i]], level[[cell]])[0]
            if (at[cell] - own).abs().max() <= reach:
                key = (i, int(level[cell]), cell)
                edges[key] = (nodes[i, level[cell]] - cells[frame, cell]).abs()
                if made.place is not None:
                    half = GRID.strides[int(level[cell])] * made.window / 2
                    edges[key] += made.place((centres[cell] - given.centres_px[i]) / half)
    for edge_net, node_net in zip(made.edge_nets, made.node_nets, strict=True):
        more_cells, more_nodes = torch.zeros_like(cells), torch.zeros_like(nodes)
        count_cells, count_nodes = torch.zeros(cells.shape[:2]), torch.zeros(nodes.shape[:2])
        for (i, own, cell), relation in edges.items():
            frame = int(given.frame[i])
            edges[i, own, cell] = new = edge_net(torch.cat([relation, nodes[i, own], cells[frame, cell]]))
            more_cells[frame, cell] += node_net(torch.cat([new, cells[frame, cell]]))
            more_nodes[i, own] += node_net(torch.cat([new, nodes[i, own]]))
            count_cells[frame, cell] += 1
            count_nodes[i, own] += 1
        if made.messages == "mean":
            more_cells, more_nodes = (
                more_cells / count_cells.clamp(min=1)[..., None],
                more_nodes / count_nodes[..., None],
            )
        cells, nodes = cells + more_cells, nodes + more_nodes
    return cells.transpose(1, 2), edges


@pytest.mark.parametrize(("messages", "relative_position"), [("sum", False), ("mean", False), ("sum", True)])
def test_the_graph_is_what_its_equations_say_edge_by_edge(messages: str, relative_position: bool):
    made = graph(messages=messages, relative_position=relative_position, gnn_iterations=2)
    features = torch.randn(2, CHANNELS, GRID.cells)
    given = instances((5, 9), (9, 9), (31, 23), frame=(1, 1, 0))
    with torch.no_grad():
        found = made(GRID, features, given)
        cells, edges = by_loops(made, features, given)
    assert torch.allclose(found.features, cells, atol=1e-5)
    for (i, _, cell), relation in edges.items():
        assert torch.allclose(found.relations[found.edges.number[i, cell]], relation, atol=1e-5)
    assert int((found.edges.number >= 0).sum()) == len(edges) == len(found.relations)


def test_a_frame_without_a_reference_stays_as_it_is():
    features = torch.randn(2, CHANNELS, GRID.cells)
    found = graph()(GRID, features, instances((5, 9), frame=(1,)))
    assert torch.equal(found.features[0], features[0])
    assert not torch.equal(found.features[1], features[1])
    nothing = graph()(GRID, features, instances())
    assert torch.equal(nothing.features, features)
    assert len(nothing.relations) == 0


@pytest.mark.parametrize(("iterations", "hears"), [(1, False), (2, True)])
def test_from_two_iterations_on_cells_of_a_frame_hear_of_each_other_through_an_instance(iterations: int, hears: bool):
    made, given = graph(gnn_iterations=iterations), instances((14, 10))
    features = torch.randn(1, CHANNELS, GRID.cells)
    loud = features.clone()
    loud[0, :, 2 + 8] += 1  # column 2, row 1: in the window, beside the cell of the instance
    change = (made(GRID, loud, given).features - made(GRID, features, given).features)[0].abs().sum(0)
    assert (change[4 + 8 * 3] > 0) == hears  # two cells away: no edge leads there from it
    assert change[7 + 8 * 5] == 0  # outside of the window


def test_edges_are_as_many_as_the_windows_have_cells_whatever_the_size_of_the_maps():
    large = Grid.of((800, 1312), 8, 5)
    edges = Edges.between(large, Instances(torch.zeros(3, 5, 1), torch.full((3, 2), 400.0), torch.zeros(3).long()), 9)
    assert len(edges.node) <= 3 * 5 * 81


def test_a_node_is_the_mean_of_what_lies_under_a_box():
    net = VisStgNetwork(config()).eval()
    grid = net.grid((32, 64))
    maps = [torch.zeros(1, 8, *size) for size in grid.sizes]
    for level, each in enumerate(maps):
        each[:, level] = torch.arange(each.shape[-1]) + 0.5  # where a cell lies, in cells
    nodes = net.nodes(grid, grid.row(maps), torch.tensor([[16.0, 8.0, 48.0, 24.0]]), torch.tensor([0]))
    assert [round(float(nodes[0, level, level]), 4) for level in range(3)] == [8.0, 4.0, 2.0]  # 32 px


# ---- filters -----------------------------------------------------------------------------------------------------


def test_filters_of_some_cells_are_those_of_a_deformable_convolution_of_all():
    torch.manual_seed(0)
    made = Propagation(4, 6)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    before, change = torch.randn(2, 6, GRID.cells), torch.randn(2, 4, GRID.cells)
    pairs = zip(GRID.maps(before), GRID.maps(change), strict=True)
    dense = GRID.row([made.warp(filters, made.offsets(moved)) for filters, moved in pairs])
    frame, cell = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 13, 50, 59])
    assert torch.allclose(made.carried(GRID, before, change, frame, cell), dense[frame, :, cell], atol=1e-4)


def test_at_the_start_filters_are_carried_unchanged_and_count_one_half():
    made = Propagation(4, 6)
    nn.init.zeros_(made.attention.weight)
    before, cell = torch.randn(1, 6, GRID.cells), torch.tensor([0, 20, 59])
    frame, now = torch.zeros(3, dtype=torch.long), torch.randn(3, 6)
    found = made(GRID, now, before, torch.randn(1, 4, GRID.cells), frame, cell)
    assert torch.allclose(found, (now + before[0, :, cell].T) / 2, atol=1e-6)


# ---- choices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fusion": "none"}, r"edges link detections \(association\), but without a graph \(fusion 'none'\)"),
        ({"fusion": "concat", "association": "edge"}, "set fusion to relation"),
        ({"window": 4}, "window 4 has no cell in its middle"),
        ({"centre_cells": 2}, "centre_cells 2 has no cell in its middle"),
        ({"level_px": (32.0, 16.0)}, r"level_px: expected sides that rise, got \[32.0, 16.0\]"),
        ({"norm_groups": 3}, "channels 8 cannot be divided by norm_groups 3"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(changes: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        config(**changes)


def test_it_starts_from_the_backbone_of_a_published_file_or_from_its_own_weights(tmp_path: Path):
    donor = VisStg(config())
    backbone = {key: torch.full_like(each, 0.5) for key, each in donor.network.backbone.state_dict().items()}
    torch.save(backbone, tmp_path / "resnet.pth")
    torch.save(
        {f"backbone.body.{key}": each for key, each in backbone.items()} | OTHER_PARTS, tmp_path / "mask_rcnn.pth"
    )
    for file, layout in (("resnet.pth", "torchvision ResNet"), ("mask_rcnn.pth", "torchvision Mask R-CNN v1")):
        model = VisStg(config())
        report = initialise(model, tmp_path / file)
        assert (report.layout, report.loaded, report.unexpected) == (layout, len(backbone), [])
        assert (model.network.backbone.state_dict()["layer3.0.conv1.weight"] == 0.5).all()
    torch.save(donor.state_dict(), tmp_path / "own.pth")
    report = initialise(VisStg(config()), tmp_path / "own.pth")
    assert (report.missing, report.unexpected, report.reshaped) == ([], [], [])
    torch.save({"detr.query_embed.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(BadConfig, match=r"unknown layout, keys such as detr.*Known: torchvision Mask R-CNN"):
        initialise(VisStg(config()), tmp_path / "other.pth")
