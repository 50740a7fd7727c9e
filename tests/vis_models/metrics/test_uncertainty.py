"""Truth comes from `accumulate` on videos that are really repeated, from arithmetic, and from chance itself."""

import time
from dataclasses import replace

import numpy as np
import pytest

from tests.drawn_results import Drawing, draw
from vis_models.metrics.average_precision import accumulate
from vis_models.metrics.mask_tracks import Prediction, Truth, mean_area_px
from vis_models.metrics.scenes import scenes
from vis_models.metrics.track_matching import Matches, match_video
from vis_models.metrics.uncertainty import (
    LEAST_VIDEOS,
    compare,
    draws,
    outcomes,
    paired_difference,
    standard_error,
    weighted_ap,
)

pytestmark = pytest.mark.unit


def video(hits: list[bool], scores: list[float], objects: int = 1) -> dict[int, Matches]:
    """Objects of category 1 and predictions, each of which finds one or does not."""
    order = np.argsort(-np.array(scores), kind="stable")
    partner = np.broadcast_to(np.array(hits, int)[order], (4, 10, len(hits)))
    ignored = np.zeros((4, 10, len(hits)), dtype=bool)
    found = np.array(scores, float)[order], np.zeros((len(hits), objects)), partner, ignored
    return {1: Matches(*found, np.array([objects, 0, 0, objects]), 0)}


def one(hit: bool, score: float) -> dict[int, Matches]:
    return video([hit], [score])


def drawn(drawing: Drawing, seed: int = 0) -> list[dict[int, Matches]]:
    """The matches of drawn results."""
    size, videos = [720, 1280], []
    for _, objects, predictions in draw(drawing, seed):
        masks = [[rle and {"size": size, "counts": rle} for rle in track.rles] for track in objects + predictions]
        areas = [np.array(track.areas_px, float) for track in objects + predictions]
        made = list(zip(masks, areas, objects + predictions, strict=True))
        truths = [Truth(m, a, n + 1, t.category, mean_area_px(a)) for n, (m, a, t) in enumerate(made[: len(objects)])]
        found = [Prediction(m, a, t.category, mean_area_px(a), t.score) for m, a, t in made[len(objects) :]]
        videos.append(match_video(scenes(found, truths, range(1, drawing.categories + 1))))
    return videos


def test_a_video_with_weight_two_counts_as_two_videos():
    videos, categories = drawn(Drawing(12, 6, 3, 3, 20)), [1, 2, 3]
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, (8, 12))
    repeated = [[v for v, times in zip(videos, row, strict=True) for _ in range(times)] for row in weights]
    expected = [accumulate(each, categories).summary()["AP"] for each in repeated]
    np.testing.assert_allclose(weighted_ap(outcomes(videos), weights.astype(float)), expected, atol=1e-12)
    assert 0.05 < np.mean(expected) < 0.95


def test_draws_without_an_object_have_no_ap():
    assert weighted_ap(outcomes([video([False], [0.5], objects=0)]), np.ones((2, 1))).tolist() == [-1, -1]


def test_the_difference_is_that_of_the_scores_of_all_videos():
    rng = np.random.default_rng(0)
    good = [one(bool(rng.random() < 0.8), rng.random()) for _ in range(40)]
    bad = [one(bool(rng.random() < 0.4), rng.random()) for _ in range(40)]
    expected = accumulate(good, [1, 2]).summary()["AP"] - accumulate(bad, [1, 2]).summary()["AP"]
    found = compare(outcomes(good), outcomes(bad), replicates=200)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert 0.02 < found.error < 0.2
    assert found.p_value < 0.02


def test_a_model_does_not_differ_from_itself():
    videos = outcomes([one(n % 3 > 0, n / 40) for n in range(40)])
    assert paired_difference([(videos, videos)], replicates=20) == (0.0, 0.0)
    assert compare(videos, videos, replicates=20).p_value == 1


def test_the_p_value_counts_the_swap_that_was_seen():
    pair = outcomes([one(True, 0.5)]), outcomes([one(False, 0.5)])
    found = compare(*pair, replicates=9)  # either way round the difference is 1
    assert found.p_value == 1
    sure = [outcomes([one(hit, n / 40) for n in range(40)]) for hit in (True, False)]
    assert compare(*sure, replicates=99).p_value == 1 / 100


def test_the_p_value_does_not_depend_on_the_scale_of_the_scores():
    videos = drawn(Drawing(24, 5, 2, 2, 10))
    worse = [{c: drop_some(each, n) for c, each in found.items()} for n, found in enumerate(videos)]
    plain = compare(outcomes(videos), outcomes(worse), replicates=200)
    assert plain.value > 0.01
    assert plain.p_value < 0.05
    for scale in (lambda s: 0.1 * s, lambda s: 10 * s, lambda s: s**4, lambda s: s - 5):
        rescaled = [{c: replace(each, scores=scale(each.scores)) for c, each in found.items()} for found in worse]
        other = compare(outcomes(videos), outcomes(rescaled), replicates=200)
        assert (other.value, other.p_value) == (plain.value, plain.p_value)


def drop_some(found: Matches, n: int) -> Matches:
    """Without the best prediction, in every other video."""
    keep = slice(n % 2, None)
    cut = {"scores": found.scores[keep], "iou": found.iou[keep]}
    return replace(found, **cut, partner=found.partner[..., keep], ignored=found.ignored[..., keep])


def test_chance_alone_is_significant_as_often_as_it_says():
    """Two models that are one: p-values are spread evenly, so one in five is under 0.2."""
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(150):
        sides = [[one(bool(rng.random() < 0.5), rng.random()) for _ in range(25)] for _ in range(2)]
        p_values.append(compare(*map(outcomes, sides), replicates=60).p_value)
    assert np.mean(np.array(p_values) < 0.2) == pytest.approx(0.2, abs=0.09)
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.11)


def test_the_error_is_that_of_the_mean_where_every_video_counts_alone():
    """With perfect precision AP is the share of found objects, whose standard error is known."""
    rng = np.random.default_rng(1)
    hits = (rng.random(200) < 0.5).tolist()
    everything, some = [one(True, 0.5) for _ in hits], [video([True] * hit, [0.5] * hit) for hit in hits]
    difference, error = paired_difference([(outcomes(everything), outcomes(some))], replicates=300)
    share = np.mean(hits)
    assert difference == pytest.approx(1 - share, abs=0.01)  # 101 recall points
    assert error == pytest.approx(np.sqrt(share * (1 - share) / 200), rel=0.2)
    assert standard_error(outcomes(some), 300) == pytest.approx(error, rel=1e-6)


def test_a_few_videos_have_no_interval():
    few = outcomes([one(True, 0.5) for _ in range(LEAST_VIDEOS - 1)])
    assert standard_error(few) is None
    assert compare(few, few, replicates=9).error is None
    assert standard_error(few + few[:1]) == 0


def test_videos_without_an_object_make_nobody_surer_or_less_sure():
    rng = np.random.default_rng(0)
    videos = [one(bool(rng.random() < 0.7), rng.random()) for _ in range(LEAST_VIDEOS)]
    empty = [video([], [], objects=0)] * 200
    assert standard_error(outcomes([*videos[1:], *empty])) is None
    assert compare(outcomes([*videos[1:], *empty]), outcomes([*videos[1:], *empty])).error is None
    alone, among = (standard_error(outcomes(each)) for each in (videos, [*videos, *empty[:20]]))
    assert among == pytest.approx(alone, rel=0.15)


def test_draws_that_show_no_object_do_not_widen_the_error():
    pair = [video([True], [0.9]), video([], [], objects=0)]
    worse = [video([False], [0.9]), video([], [], objects=0)]
    assert paired_difference([(outcomes(pair), outcomes(worse))]) == pytest.approx((1.0, 0.0))


def test_as_many_videos_are_drawn_as_there_are():
    weights = draws(30, 500, seed=1)
    assert set(weights.sum(axis=1)) == {30}
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.01)


def test_a_thousand_draws_of_forty_categories_take_seconds():
    """As many videos, categories and hits as in the set of YouTube-VIS's size."""
    rng = np.random.default_rng(0)
    videos = []
    for _ in range(302):
        scores = rng.random((40, 3))
        found = {c: video((rng.random(3) < 0.02).tolist(), scores[c].tolist(), 1)[1] for c in range(40)}
        videos.append(found)
    started = time.process_time()
    standard_error(outcomes(videos))
    assert time.process_time() - started < 20
