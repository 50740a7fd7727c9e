import numpy as np
import pytest
import torch

from vis_models.trackers import deep_sort
from vis_models.trackers.config import DeepSortConfig
from vis_models.trackers.deep_sort import DeepSort

from .scenes import ONE, OTHER, Square, crossing, places, seen, tracked

pytestmark = pytest.mark.unit

RED, BLUE = (1.0, 0.0), (0.0, 1.0)


def test_objects_alike_in_all_keep_their_tracks_through_a_crossing_as_each_goes_on_as_it_went():
    assert places(tracked(DeepSort(DeepSortConfig()), crossing())) == {0: ONE, 1: OTHER}


@pytest.mark.parametrize(("other", "first"), [(BLUE, 26), (RED, 20)])
def test_objects_that_change_places_are_told_apart_by_their_looks_and_only_by_them(other: tuple, first: int):
    one = {"colour": RED, "strip": 0}
    two = {"colour": other, "strip": 1}
    film = [seen(Square(20.0, **one), Square(26.0, **two)), seen(Square(20.0, **two), Square(26.0, **one))]
    assert places(tracked(DeepSort(DeepSortConfig()), film)) == {0: {0: 20, 1: first}, 1: {0: 26, 1: 46 - first}}


def test_what_looks_different_or_lies_beyond_the_gate_starts_a_track():
    tracker = DeepSort(DeepSortConfig())
    assert places(tracked(tracker, [seen(Square(20.0, colour=RED)), seen(Square(20.0, colour=BLUE))])).keys() == {0, 1}
    # at rest, after one detection of height 20: variance (2 * 1)^2 + (10 * 20/160)^2 + 1^2 of the prediction, 1^2 of
    # the measurement; so the gate of 9.4877 ends at sqrt(9.4877 * 7.5625) = 8.47 pixels
    assert places(tracked(tracker, [seen(Square(20.0)), seen(Square(28.4))])).keys() == {0}
    assert places(tracked(tracker, [seen(Square(20.0)), seen(Square(28.6))])).keys() == {0, 1}


def test_a_track_ends_when_it_is_out_of_sight_for_too_long():
    film = [seen(Square(20.0)), seen(), seen(), seen(Square(20.0))]
    assert places(tracked(DeepSort(DeepSortConfig(keep_frames=2)), film)).keys() == {0}
    assert places(tracked(DeepSort(DeepSortConfig(keep_frames=1)), film)).keys() == {0, 1}


def test_the_four_small_filters_are_the_one_of_eight_dimensions():
    """Against the matrices of the authors' filter: 4 positions, then 4 velocities."""
    config, z = DeepSortConfig(), np.array([[50.0, 30, 0.5, 20], [53, 31, 0.52, 21], [57, 31, 0.49, 22]])
    p, v = config.position_std, config.velocity_std

    def noise(height: float, positions: float, velocities: float) -> np.ndarray:
        a, b = positions * p * height, velocities * v * height
        return np.diag(np.square([a, a, 1e-2, a, b, b, 1e-5, b]))

    move, look = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    x, covariance = np.r_[z[0], np.zeros(4)], noise(z[0, 3], 2, 10)
    mean, spread = deep_sort.initial(config, torch.tensor(z[:1]))
    for measured in z[1:]:
        covariance = move @ covariance @ move.T + noise(x[3], 1, 1)
        x = move @ x
        mean, spread = deep_sort.predict(config, mean, spread)
        s = look @ covariance @ look.T + np.diag(np.square([p * x[3], p * x[3], 1e-1, p * x[3]]))
        off = measured - look @ x
        given = torch.tensor(measured)[None]
        assert deep_sort.distance(config, mean, spread, given).item() == pytest.approx(off @ np.linalg.solve(s, off))
        gain = covariance @ look.T @ np.linalg.inv(s)
        x, covariance = x + gain @ off, covariance - gain @ s @ gain.T
        mean, spread = deep_sort.update(config, mean, spread, given)
        assert mean[0].T.flatten().numpy() == pytest.approx(x)
        positions, velocities = covariance[:4, :4].diagonal(), covariance[4:, 4:].diagonal()
        assert spread[0, :, 0, 0].numpy() == pytest.approx(positions)
        assert spread[0, :, 1, 1].numpy() == pytest.approx(velocities)
        assert spread[0, :, 0, 1].numpy() == pytest.approx(covariance[:4, 4:].diagonal())
        assert np.count_nonzero(np.abs(covariance) > 1e-9) <= 16
