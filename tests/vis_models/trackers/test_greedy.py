import pytest

from vis_models.trackers.config import GreedyConfig
from vis_models.trackers.greedy import Greedy

from .scenes import ONE, OTHER, SWAPPED, Square, crossing, places, seen, tracked, verdicts

pytestmark = pytest.mark.unit


def greedy(slot_recycling: bool = False, **changes) -> Greedy:
    return Greedy(GreedyConfig.model_validate(changes), slot_recycling)


def test_objects_of_two_classes_keep_their_tracks_through_a_crossing_and_those_of_one_change_places():
    said = tracked(greedy(), crossing(one=0, other=1))
    assert places(said) == {0: ONE, 1: OTHER}
    assert verdicts(said) == {0: (0, 0.9), 1: (1, 0.9)}
    assert places(tracked(greedy(), crossing())) == dict(enumerate(SWAPPED))


def test_a_jump_further_than_the_object_is_wide_starts_a_new_track():
    said = tracked(greedy(), [seen(Square(5.0)), seen(Square(35.0))])
    assert places(said) == {0: {0: 5}, 1: {1: 35}}


def test_a_frame_without_detections_is_empty_and_costs_score():
    said = tracked(greedy(), [seen(Square(5.0)), seen()])
    assert said[1].sightings[0].masks.whole().shape == (0, 60, 160)
    assert verdicts(said) == {0: (0, 0.45)}


@pytest.mark.parametrize("slot_recycling", [False, True])
def test_after_as_many_objects_as_slots_new_ones_are_seen_if_slots_are_recycled(slot_recycling: bool):
    film = [seen(Square(30.0 * shot, category=shot % 3)) for shot in range(4) for _ in range(3)]
    said = tracked(greedy(slot_recycling, tracks=2), film)
    ids = [tracks.sightings[0].track_ids for tracks in said[:-1]]
    dropped = sum(tracks.dropped_births for tracks in said)
    shots = [[0]] * 3 + [[1]] * 3
    if not slot_recycling:
        assert (ids, dropped) == (shots + [[]] * 6, 6)
        assert list(verdicts(said)) == [0, 1]
        return
    assert (ids, dropped) == (shots + [[2]] * 3 + [[3]] * 3, 0)
    # unseen for as long as seen, but for the last
    assert verdicts(said) == {0: (0, 0.45), 1: (1, 0.45), 2: (2, 0.45), 3: (0, 0.9)}


def test_the_slot_of_the_track_with_the_lowest_score_out_of_sight_goes_first_and_none_in_sight():
    both, stays = [seen(Square(5.0), Square(60.0, category=1))], [seen(Square(60.0, category=1))] * 3
    said = tracked(greedy(True, tracks=2), [*both, *stays, seen(Square(30.0, category=2))])
    assert said[-2].sightings[0].track_ids == [2]
    assert [verdict.track_id for verdict in said[-2].verdicts] == [0]
    assert [verdict.track_id for verdict in said[-1].verdicts] == [2, 1]
