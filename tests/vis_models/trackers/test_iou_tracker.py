from math import log

import pytest
import torch

from vis_models.trackers.config import IouTrackerConfig
from vis_models.trackers.iou_tracker import IouTracker, cues, one_detection_a_track

from .scenes import ONE, OTHER, SWAPPED, Square, crossing, places, seen, tracked, verdicts

pytestmark = pytest.mark.unit


def iou_tracker(**changes) -> IouTracker:
    return IouTracker(IouTrackerConfig.model_validate(changes))


def test_a_pair_is_worth_log_s_and_twice_the_iou_and_ten_for_the_class():
    value = cues(IouTrackerConfig(), torch.tensor([0.5]), torch.tensor([[0.4, 0.9]]), torch.tensor([[True, False]]))
    assert value.tolist() == [pytest.approx([log(0.5) + 0.8 + 10, log(0.5) + 1.8])]


def test_objects_of_two_classes_keep_their_tracks_through_a_crossing_and_those_of_one_change_places():
    assert places(tracked(iou_tracker(), crossing(one=0, other=1))) == {0: ONE, 1: OTHER}
    assert places(tracked(iou_tracker(), crossing())) == dict(enumerate(SWAPPED))


@pytest.mark.parametrize(("x", "tracks"), [(10.0, 1), (11.0, 2)])
def test_a_track_goes_on_from_an_overlap_of_three_tenths(x: float, tracks: int):
    """Squares of side 20: 200 / 600 pixels shared, and 180 / 620."""
    assert len(places(tracked(iou_tracker(), [seen(Square(0.0)), seen(Square(x))]))) == tracks


def test_of_two_detections_that_take_one_track_the_worse_is_discarded_and_starts_none():
    said = tracked(iou_tracker(), [seen(Square(20.0)), seen(Square(16.0), Square(25.0)), seen(Square(16.0))])
    assert places(said) == {0: {0: 20, 1: 16, 2: 16}}


def test_a_taken_track_is_not_exchanged_for_the_next_best_one():
    """Both take the first track, though the second would be free: the better one keeps it."""
    pairs = one_detection_a_track(torch.tensor([[3.0, 1.0], [4.0, 2.0]]), slots=[5, 7])
    assert pairs.slot_of == {1: 5}
    assert pairs.discarded == [0]


def test_a_track_that_is_out_of_sight_is_never_forgotten_unless_the_config_says_so():
    film = [seen(Square(20.0)), seen(), seen(), seen(), seen(Square(22.0))]
    assert places(tracked(iou_tracker(), film)) == {0: {0: 20, 4: 22}}
    assert places(tracked(iou_tracker(keep_frames=3), film)) == {0: {0: 20, 4: 22}}
    said = tracked(iou_tracker(keep_frames=2), film)
    assert places(said) == {0: {0: 20}, 1: {4: 22}}
    assert [verdict.track_id for verdict in said[4].verdicts] == [0]


def test_class_is_what_most_frames_say_and_the_score_their_mean():
    film = [seen(Square(0.0, category=category, score=s)) for category, s in ((2, 0.95), (1, 0.5), (1, 0.5))]
    assert verdicts(tracked(iou_tracker(), film)) == {0: (1, 0.65)}
    tie = [seen(Square(0.0, category=category)) for category in (2, 1)]
    assert verdicts(tracked(iou_tracker(), tie)) == {0: (1, 0.9)}
