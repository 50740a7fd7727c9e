import numpy as np
import pytest

from vis_models.metrics.average_precision import accumulate
from vis_models.metrics.track_matching import Matches
from vis_models.metrics.uncertainty import paired_difference

pytestmark = pytest.mark.unit


def video(hit: bool, score: float) -> dict[int, Matches]:
    """One object of category 1 and one prediction, which finds it or not."""
    partner = np.full((4, 10, 1), int(hit))
    ignored = np.zeros((4, 10, 1), dtype=bool)
    return {1: Matches(np.array([score]), np.array([[float(hit)]]), partner, ignored, np.array([1, 0, 0, 1]), 0)}


def test_the_difference_is_that_of_the_scores_of_all_videos():
    rng = np.random.default_rng(0)
    good = [video(rng.random() < 0.8, rng.random()) for _ in range(40)]
    bad = [video(rng.random() < 0.4, rng.random()) for _ in range(40)]
    difference, error = paired_difference([(good, bad)], [1, 2], replicates=50)
    expected = accumulate(good, [1, 2]).summary()["AP"] - accumulate(bad, [1, 2]).summary()["AP"]
    assert difference == pytest.approx(expected, abs=1e-12)
    assert 0.02 < error < 0.2


def test_a_model_does_not_differ_from_itself():
    videos = [video(n % 3 > 0, n / 40) for n in range(40)]
    assert paired_difference([(videos, videos)], [1], replicates=20) == (0.0, 0.0)


def test_the_error_is_that_of_the_mean_difference_where_every_video_counts_alone():
    """With perfect precision AP is the share of found objects, whose standard error is known."""
    rng = np.random.default_rng(1)
    hits = rng.random(200) < 0.5
    everything = [video(True, 0.5) for _ in hits]
    some = [video(True, 0.5) if hit else {1: video(True, 0.5)[1].__class__(
        np.empty(0), np.empty((0, 1)), np.empty((4, 10, 0), int), np.empty((4, 10, 0), bool), np.array([1, 0, 0, 1]), 0
    )} for hit in hits]  # fmt: skip
    difference, error = paired_difference([(everything, some)], [1], replicates=300)
    assert difference == pytest.approx(1 - hits.mean(), abs=0.01)  # 101 recall points
    assert error == pytest.approx(np.sqrt(hits.mean() * (1 - hits.mean()) / 200), rel=0.2)
