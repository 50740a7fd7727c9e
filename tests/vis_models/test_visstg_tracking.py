"""What VisSTG remembers: films drawn as features, so that what is found in each frame is known, and who it is.

Weights are set by hand: some channels are the heat of a class, the size of an object and its place in a cell, the
others say who it is. Two edges' ends are the same where these agree.
"""

from dataclasses import dataclass, replace
from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_models.layers.backbone_config import ResNetConfig
from vis_models.types import Tracks, VideoInfo
from vis_models.vis_stg import association
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.model import VisStg
from vis_models.vis_stg.state import VisStgEncoded, VisStgState

pytestmark = pytest.mark.unit

HEIGHT, WIDTH, STRIDE = 64, 128, 4
HEAT, SIZE, WHO = slice(0, 3), slice(3, 5), slice(5, 12)
"""Channels."""


@dataclass(frozen=True)
class Drawn:
    """An object in a frame."""

    who: int
    column: int
    row: int
    label: int = 0
    side: int = 4
    """In cells."""


def model(**changes: Any) -> VisStg:
    base = {
        "num_classes": 3,
        "image_size": (HEIGHT, WIDTH),
        "backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1), stem_pool=False),
        "channels": 12,
        "level_px": (100.0, 200.0),
        "head_convs": 1,
        "norm_groups": 0,
        "gnn_iterations": 1,
        "tracks": 4,
    }
    made = VisStg(VisStgConfig.model_validate(base | changes)).eval()
    net = made.network
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        for head, channels, gain in ((net.heat, HEAT, 10.0), (net.size, SIZE, 1.0)):
            own = head.layers[0].weight[:, :, 0, 0]  # type: ignore[union-attr, index, operator]
            own[torch.arange(len(own)), torch.arange(12)[channels]] = gain
        net.heat.layers[0].bias.fill_(-5.0)  # type: ignore[union-attr, operator]
        net.offset.layers[0].bias.fill_(0.5)  # type: ignore[union-attr, operator]
        net.controller.layers[0].bias[-1] = 1.0  # type: ignore[union-attr, index, operator]
        if net.graph is not None:
            for layer in net.graph.edge_nets[0].layers:
                layer.weight[:, :12] = torch.eye(12)  # what differs, and no more
        if net.same is not None:
            net.same.layers[0].weight.copy_(torch.eye(12))
            net.same.layers[1].weight[0, WHO] = -10.0
            net.same.layers[1].bias.fill_(8.0)
        if net.embedding is not None:
            own = net.embedding.layers[0].weight[:, :, 0, 0]  # type: ignore[union-attr, index, operator]
            own[torch.arange(7), torch.arange(12)[WHO]] = 10.0
    return made


def picture(*objects: Drawn) -> Tensor:
    """Features of a frame."""
    fine = torch.zeros(12, HEIGHT // STRIDE, WIDTH // STRIDE)
    for each in objects:
        reach = each.side // 2 + 1
        rows, columns = (slice(max(0, at - reach), at + reach + 1) for at in (each.row, each.column))
        fine[WHO, rows, columns] = 0
        fine[5 + each.who, rows, columns] = 1
    for each in objects:
        fine[HEAT, each.row, each.column] = 0
        fine[each.label, each.row, each.column] = 0.8 - each.who / 100  # so that their order is known
        fine[SIZE, each.row, each.column] = each.side
    return fine


def encoded(made: VisStg, *frames: tuple[Drawn, ...]) -> VisStgEncoded:
    grid = made.network.grid((HEIGHT, WIDTH))
    maps = [torch.zeros(len(frames), 12, *size) for size in grid.sizes]
    maps[0] = torch.stack([picture(*objects) for objects in frames])
    return VisStgEncoded(grid.row(maps), torch.tensor([[HEIGHT, WIDTH]]).expand(len(frames), 2).clone())


def play(made: VisStg, *frames: tuple[Drawn, ...]) -> tuple[list[Tracks], VisStgState]:
    state = made.start([VideoInfo("drawn", HEIGHT, WIDTH)])
    said = []
    for objects in frames:
        tracks, state = made.step(encoded(made, objects), state)
        said += tracks
    return said, state


def ids(said: list[Tracks]) -> list[list[int]]:
    return [tracks.sightings[0].track_ids for tracks in said]


# ---- films ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"association": "embedding", "embedding": 7}], ids=["edges", "embedding"])
def test_identities_survive_a_crossing(changes: dict[str, Any]):
    film = [(Drawn(0, 4 + 2 * t, 4), Drawn(1, 24 - 2 * t, 10)) for t in range(10)]
    said, state = play(model(**changes), *film)
    first = ids(said)[0]
    assert first == [0, 1]
    assert all(sorted(own) == [0, 1] for own in ids(said))
    for row, who in ((4, 0), (10, 1)):
        slot = (state.cell[0] // (WIDTH // STRIDE) == row).logical_and(state.track_id[0] >= 0).nonzero().item()
        assert state.track_id[0, int(slot)] == first[who]


def test_one_that_looks_otherwise_in_the_same_place_is_a_new_object():
    said, _ = play(model(), (Drawn(0, 8, 8),), (Drawn(1, 8, 8),), (Drawn(1, 8, 8),))
    assert ids(said) == [[0], [1], [1]]


@pytest.mark.parametrize(("same_class", "count"), [(True, 2), (False, 1)])
def test_two_classes_in_one_place_are_two_objects_unless_class_decides_nothing(same_class: bool, count: int):
    said, _ = play(model(same_class=same_class), (Drawn(0, 8, 8, 0, side=8), Drawn(1, 9, 8, 1, side=8)))
    assert len(ids(said)[0]) == count


@pytest.mark.parametrize(("same_class", "names"), [(True, [[0], [1]]), (False, [[0], [0]])])
def test_no_instance_changes_its_class_unless_one_may_be_mistaken(same_class: bool, names: list[list[int]]):
    said, _ = play(model(same_class=same_class), (Drawn(0, 8, 8, label=0),), (Drawn(0, 8, 8, label=1),))
    assert ids(said) == names


@pytest.mark.parametrize(("columns", "same"), [(4, True), (5, False)])
def test_an_object_is_followed_as_far_as_its_window_reaches(columns: int, same: bool):
    said, _ = play(model(window=9), (Drawn(0, 8, 8),), (Drawn(0, 8 + columns, 8),))
    assert (ids(said)[0] == ids(said)[1]) == same


@pytest.mark.parametrize(("hidden", "same"), [(6, True), (7, False)])
def test_what_is_hidden_comes_back_under_its_identity_within_the_time_that_is_kept(hidden: int, same: bool):
    film = [(Drawn(0, 8, 8),), *[()] * hidden, (Drawn(0, 9, 8),)]
    said, state = play(model(keep_frames=7), *film)
    assert (ids(said)[0] == ids(said)[-1]) == same
    ended = [verdict for tracks in said for verdict in tracks.verdicts]
    assert len(ended) == (0 if same else 1)
    assert state.frame.item() == len(film)


def test_of_a_track_out_of_sight_the_old_filter_stands_where_it_was_seen():
    made = model()
    with torch.no_grad():
        made.network.controller.layers[0].weight[0, 5 + 2, 0, 0] = 3.0  # type: ignore[union-attr, index, operator]
    said, state = play(made, (Drawn(1, 20, 8), Drawn(2, 8, 8)), (Drawn(1, 20, 8),))
    assert ids(said) == [[0, 1], [0]]
    cell = 8 * (WIDTH // STRIDE) + 8
    assert state.filters[0, 0, cell] == 3.0
    assert state.filters[0, 0].count_nonzero() == 1  # the new frame by itself shows nothing of it


def test_the_way_back_finds_the_track_whose_last_box_it_leads_to():
    made = model(association="offset")
    assert made.network.way_back is not None
    with torch.no_grad():
        made.network.way_back.layers[0].bias.copy_(torch.tensor([-6.0, 0.0]))  # type: ignore[operator]
    said, _ = play(made, (Drawn(0, 4, 8), Drawn(1, 16, 8)), (Drawn(5, 10, 8), Drawn(6, 22, 8)), (Drawn(0, 10, 8),))
    assert ids(said)[0] == ids(said)[1]
    assert ids(said)[2] == [2]  # it stood still


def test_births_without_a_slot_are_counted_and_with_recycling_take_that_of_the_longest_lost():
    film = [(Drawn(0, 4, 4),), (Drawn(1, 20, 4),), (Drawn(2, 4, 12),), (Drawn(3, 20, 12),)]
    said, _ = play(model(tracks=2), *film)
    assert [tracks.dropped_births for tracks in said] == [0, 0, 1, 1]
    said, state = play(model(tracks=2, slot_recycling=True), *film)
    assert ids(said) == [[0], [1], [2], [3]]
    assert [v.track_id for tracks in said for v in tracks.verdicts] == [0, 1]
    assert sorted(state.track_id[0].tolist()) == [2, 3]


def test_a_track_is_of_the_class_that_is_likeliest_in_all_its_sightings_or_each_class_has_a_track_of_its_own():
    film = [(Drawn(0, 8, 8, label),) for label in (2, 1, 1)]
    seen, other = (1 / (1 + exp(5 - gain)) for gain in (8.0, 0.0))  # where the heat of a class is, and where it is not
    made = model(same_class=False)
    (verdict,) = made.finish(play(made, *film)[1])[0].verdicts
    assert (verdict.category, verdict.score) == (1, pytest.approx((2 * seen + other) / 3))
    made = model(same_class=True)
    verdicts = made.finish(play(made, *film)[1])[0].verdicts
    assert [verdict.category for verdict in verdicts] == [2, 1]
    assert [verdict.score for verdict in verdicts] == pytest.approx([seen, seen])


def test_an_object_that_two_levels_see_is_found_once():
    made = model(level_px=(14.0, 200.0))
    frame = encoded(made, (Drawn(0, 8, 8),))
    grid = made.network.grid((HEIGHT, WIDTH))
    maps = grid.maps(frame.features)
    maps[1][0, :, 4, 4] = maps[0][0, :, 8, 8] * 0.9
    maps[1][0, SIZE, 4, 4] = 2.0
    said, _ = made.step(replace(frame, features=grid.row(maps)), made.start([VideoInfo("drawn", HEIGHT, WIDTH)]))
    assert ids(said) == [[0]]


def test_a_frame_smaller_than_what_it_is_padded_to_gives_masks_of_its_own_size():
    made = model(image_size=(60, 100))
    said, _ = made.step(
        replace(encoded(made, (Drawn(0, 8, 8),)), frame_px=torch.tensor([[60, 100]])),
        made.start([VideoInfo("drawn", 30, 50)]),
    )
    masks = said[0].sightings[0].masks
    assert masks.whole().shape == (1, 30, 50)
    assert masks.areas_px() == [30 * 50]  # a filter that says yes everywhere


# ---- who gets whom -----------------------------------------------------------------------------------------------


def test_a_track_keeps_its_best_detection_and_a_detection_its_best_track():
    scores = torch.tensor([[0.9, 0.8, 0.0], [0.7, 0.2, 0.6], [0.0, 0.0, 0.4]])
    assert association.assign(scores, 0.5).tolist() == [0, 2, association.NEW]


def test_a_track_whose_best_detection_is_another_s_has_none():
    assert association.assign(torch.tensor([[0.9, 0.8], [0.1, 0.7]]), 0.5).tolist() == [0, association.NEW]


def test_without_tracks_or_detections_nothing_is_linked():
    assert association.assign(torch.zeros(2, 0), 0.5).tolist() == [association.NEW] * 2
    assert association.assign(torch.zeros(0, 2), 0.5).tolist() == []


def test_by_embedding_only_the_likeliest_track_counts_and_none_where_a_new_object_is_likelier():
    now, before = torch.tensor([[2.0, 0], [-1, -1]]), torch.tensor([[2.0, 0], [1, 1]])
    found = association.by_embedding(now, before)
    assert found[0].tolist() == pytest.approx([float(torch.tensor([0.0, 4, 2]).softmax(0)[1]), 0.0])
    assert found[1].tolist() == [0.0, 0.0]
