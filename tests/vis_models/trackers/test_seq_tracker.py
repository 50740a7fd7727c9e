from collections.abc import Iterator
from itertools import pairwise, product
from math import log

import numpy as np
import pytest

from vis_models.trackers.config import SeqTrackerConfig
from vis_models.trackers.seq_tracker import Path, SeqTracker, best_path, paths_of

from .scenes import ONE, OTHER, SWAPPED, Square, crossing, places, seen, tracked, verdicts

pytestmark = pytest.mark.unit


def seq_tracker(**changes) -> SeqTracker:
    return SeqTracker(SeqTrackerConfig.model_validate(changes))


# ---- the search ------------------------------------------------------------------------------------------------------


def worth(path: Path, start: np.ndarray, step: np.ndarray) -> float:
    onward = sum(step[frame, n, after] for (frame, n), (_, after) in pairwise(path))
    return float(start[path[0]] + onward)


def every_path(frames: int, slots: int, used: set[tuple[int, int]]) -> Iterator[Path]:
    for first in range(frames):
        for last in range(first, frames):
            for choice in product(range(slots), repeat=last - first + 1):
                path = [*zip(range(first, last + 1), choice, strict=True)]
                if not used & {*path}:
                    yield path


@pytest.mark.parametrize("seed", range(12))
def test_paths_are_those_that_trying_all_finds(seed: int):
    random = np.random.default_rng(seed)
    frames, slots = 4, 3
    start, step = random.normal(-1, 1, (frames, slots)), random.normal(1, 2, (frames - 1, slots, slots))
    start[random.random(start.shape) < 0.2] = -np.inf
    step[random.random(step.shape) < 0.3] = -np.inf
    step[np.broadcast_to((start[1:] == -np.inf)[:, None], step.shape)] = -np.inf
    found = paths_of(start, step, lambda path: len(path) >= 2)
    used: set[tuple[int, int]] = set()
    for path in found:
        best = max(every_path(frames, slots, used), key=lambda each: worth(each, start, step))
        assert path == best
        used |= {*path}
    left = [path for path in every_path(frames, slots, used) if worth(path, start, step) > -np.inf]
    assert not left or len(max(left, key=lambda path: worth(path, start, step))) < 2


def test_where_no_detection_is_left_there_is_no_path():
    assert best_path(np.full((3, 2), -np.inf), np.full((2, 2, 2), -np.inf)) == []
    assert best_path(np.zeros((0, 2)), np.zeros((0, 2, 2))) == []


# ---- on films --------------------------------------------------------------------------------------------------------


def test_objects_of_two_classes_keep_their_tracks_through_a_crossing_and_those_of_one_change_places():
    said = tracked(seq_tracker(), crossing(one=0, other=1))
    assert sorted(places(said).values(), key=lambda way: way[0]) == [ONE, OTHER]
    assert sorted(places(tracked(seq_tracker(), crossing())).values(), key=lambda way: way[0]) == [*SWAPPED]


def test_nothing_is_said_before_the_end_and_then_every_frame_in_order():
    said = tracked(seq_tracker(), crossing())
    assert [len(tracks.sightings) for tracks in said] == [0] * 12 + [12]
    assert [sighting.frame for sighting in said[-1].sightings] == [*range(12)]


@pytest.mark.parametrize(("frames", "found"), [(7, 0), (8, 1)])
def test_a_track_has_eight_frames_at_least(frames: int, found: int):
    said = tracked(seq_tracker(), [seen(Square(20.0 + t)) for t in range(frames)] + [seen()] * 3)
    assert len(places(said)) == len(verdicts(said)) == found


def test_the_first_path_that_is_too_short_ends_the_search():
    """Seven frames of one class are worth more than eight of which each changes its class."""
    short = [Square(20.0, score=0.9)] * 7
    mixed = [Square(100.0, category=t % 2, score=0.9) for t in range(8)]
    assert 7 * log(0.9) + 6 * 12 > 8 * log(0.9) + 7 * 2
    film = [seen(*pair) for pair in zip(short, mixed, strict=False)] + [seen(mixed[7])]
    assert places(tracked(seq_tracker(), film)) == {}
    assert len(places(tracked(seq_tracker(least_frames=7), film))) == 2


def test_a_weak_detection_in_between_costs_less_than_an_interrupted_track():
    film = [seen(Square(20.0 + t, score=0.06 if t == 5 else 0.9)) for t in range(10)]
    said = tracked(seq_tracker(), film)
    assert places(said) == {0: {t: 20 + t for t in range(10)}}
    assert verdicts(said) == {0: (0, 0.816)}


@pytest.mark.parametrize("window_frames", [2, 5, 11])
def test_windows_give_the_tracks_of_the_whole_film(window_frames: int):
    film = crossing(one=0, other=1) + [seen(Square(150.0 - t, y=35, category=2)) for t in range(8)] + [seen()]
    whole = tracked(seq_tracker(least_frames=1), film)
    parts = tracked(seq_tracker(least_frames=1, window_frames=window_frames), film)
    assert [sighting.frame for tracks in parts for sighting in tracks.sightings] == [*range(21)]
    order = lambda way: sorted(way.items())  # noqa: E731
    assert sorted(map(order, places(parts).values())) == sorted(map(order, places(whole).values()))
    assert sorted(verdicts(parts).values()) == sorted(verdicts(whole).values())


def test_a_track_that_a_window_has_known_goes_on_in_the_next_for_less_than_eight_frames():
    film = [seen(Square(20.0 + t)) for t in range(12)]
    said = tracked(seq_tracker(window_frames=9), film)
    assert places(said) == {0: {t: 20 + t for t in range(12)}}
    assert verdicts(said) == {0: (0, 0.9)}


def test_a_pixel_of_two_objects_goes_to_the_one_with_the_larger_score():
    film = [seen(Square(20.0), Square(30.0, score=0.5, category=1))] * 8
    masks = tracked(seq_tracker(), film)[-1].sightings[3].masks
    assert masks.areas_px() == [400, 200]
    assert not masks.whole().all(0).any()
