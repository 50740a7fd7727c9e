"""How sure AP is: the videos drawn again, and two models compared on the same draws.

Drawing videos again gives every video a weight w_v, how often it was drawn. In a ranking of all predictions, the hits
and misses up to the j-th hit are then sums over videos, so all draws of one category and threshold are two products:

    TP_j = sum over v of w_v (hits of v up to j)         FP_j = sum over v of w_v (misses of v before j)

Between hits precision only falls, so the hits are all that the curve needs.

A percentile interval of AP itself would be wrong: drawing whole videos again raises AP where categories have few
videos. The standard error does not have that bias, nor has the difference of two models on the same draws.

Axes: R draws, U units (videos, or sides of videos), D predictions, T IoU thresholds, J hits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from vis_models.metrics.average_precision import RECALLS
from vis_models.metrics.track_matching import THRESHOLDS, Matches

LEAST_VIDEOS = 20
"""With fewer videos that show an object a standard error from drawing them again means nothing."""
REPLICATES = 1000
POINTS_AT_ONCE = 2**17
"""Draws times hits: so few that the curves of thousands of objects take little memory."""


@dataclass(frozen=True)
class Outcome:
    """What AP over all sizes needs of the matches of one category in one video, best prediction first."""

    scores: Float[np.ndarray, " D"]
    hit: Bool[np.ndarray, "T D"]
    miss: Bool[np.ndarray, "T D"]
    """What is neither a hit nor a miss was matched to ignored ground truth."""
    objects: int


Videos = Sequence[Mapping[int, Outcome]]
"""The outcomes of each video by category."""


@dataclass(frozen=True)
class Difference:
    """AP of one model minus AP of another."""

    value: float
    error: float | None
    """Standard error; None: fewer than `LEAST_VIDEOS` videos show an object."""
    p_value: float
    """How often a difference as large would come if in each video it were chance whose tracks are whose."""


def outcomes(videos: Sequence[Mapping[int, Matches]]) -> list[dict[int, Outcome]]:
    """Of what `match_video` returned, video by video."""
    return [{category: _outcome(found) for category, found in video.items()} for video in videos]


def _outcome(found: Matches) -> Outcome:
    ignored, partner = found.ignored[0], found.partner[0]
    return Outcome(found.scores, (partner != 0) & ~ignored, (partner == 0) & ~ignored, int(found.objects[0]))


def standard_error(videos: Videos, replicates: int = REPLICATES, seed: int = 0) -> float | None:
    """Of AP; the 95 % interval is AP +- 1.96 errors. None: fewer than `LEAST_VIDEOS` videos show an object."""
    if not _enough(videos):
        return None
    drawn = weighted_ap(videos, draws(len(videos), replicates, seed))
    return _spread(drawn[drawn >= 0])  # where no video with an object was drawn there is no AP


def _enough(videos: Videos) -> bool:
    return sum(any(each.objects for each in video.values()) for video in videos) >= LEAST_VIDEOS


def _spread(values: Float[np.ndarray, " R"]) -> float:
    """Standard deviation; 0 of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def with_interval(value: float, error: float | None) -> str:
    """`0.308 +- 0.021`, the 95 % interval, or why there is none."""
    if error is None:
        return f"{value:.3f} (no interval: that takes {LEAST_VIDEOS} videos with objects)"
    return f"{value:.3f} +- {1.96 * error:.3f}"


def paired_difference(
    pairs: Sequence[tuple[Videos, Videos]], replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float]:
    """AP of the first of each pair minus AP of the second, mean over pairs, and its standard error.

    Args:
        pairs: two models on the same videos in the same order; several pairs are repetitions with other seeds.
        replicates: how often the videos are drawn again, with replacement.

    Returns:
        (difference, standard error), as fractions; the 95 % interval is difference +- 1.96 errors.
    """
    videos = len(pairs[0][0])
    weights = np.concatenate([np.ones((1, videos)), draws(videos, replicates, seed)])
    scores = np.array([[weighted_ap(one, weights), weighted_ap(other, weights)] for one, other in pairs])
    gaps, there = (scores[:, 0] - scores[:, 1]).mean(axis=0), scores.min(axis=(0, 1)) >= 0
    return float(gaps[0]), _spread(gaps[1:][there[1:]])


def compare(one: Videos, other: Videos, replicates: int = REPLICATES, seed: int = 0) -> Difference:
    """AP of one model minus AP of another on the same videos in the same order.

    For the p-value tracks of both models come into one ranking. Scores of two models have no common scale (AP does not
    care, for it ranks one model at a time), so ranks within the whole of each model's results take their place.
    """
    value, error = paired_difference([(one, other)], replicates, seed)
    # side by side, so that ties keep the order of the videos
    sides = [video for pair in zip(_ranked(one), _ranked(other), strict=True) for video in pair]
    swapped = np.random.default_rng(seed).random((replicates, len(one))) < 0.5
    first = np.stack([~swapped, swapped], axis=-1).reshape(replicates, -1).astype(float)
    gaps = weighted_ap(sides, first) - weighted_ap(sides, 1 - first)
    as_large = int((np.abs(gaps) >= abs(value) - 1e-12).sum())
    p_value = (1 + as_large) / (1 + replicates)
    return Difference(value, error if _enough(one) else None, p_value)


def _ranked(videos: Videos) -> list[dict[int, Outcome]]:
    """The same with the rank of each score instead: minus the number of larger scores in all videos and categories."""
    every = [each.scores for video in videos for each in video.values()]
    down = np.sort(-np.concatenate(every)) if every else np.zeros(0)
    ranks = [{c: -np.searchsorted(down, -each.scores).astype(float) for c, each in video.items()} for video in videos]
    return [
        {c: replace(each, scores=rank[c]) for c, each in video.items()}
        for video, rank in zip(videos, ranks, strict=True)
    ]


def draws(videos: int, replicates: int, seed: int) -> Float[np.ndarray, "R U"]:
    """How often each video is drawn when as many are drawn as there are, with replacement."""
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), replicates).astype(float)


def weighted_ap(units: Videos, weights: Float[np.ndarray, "R U"]) -> Float[np.ndarray, " R"]:
    """AP over all sizes as `accumulate` counts it, with unit u there `weights[:, u]` times; -1: nothing to find."""
    total, present = np.zeros(len(weights)), np.zeros(len(weights))
    for category in sorted({category for unit in units for category in unit}):
        having = [u for u, unit in enumerate(units) if category in unit]
        found = [units[u][category] for u in having]
        counted = weights[:, having]
        objects = counted @ np.array([float(each.objects) for each in found])
        there = objects > 0
        if there.any():
            total[there] += _category_ap(found, counted[there], objects[there])
            present += there
    return np.divide(total, present, out=np.full(len(weights), -1.0), where=present > 0)


def _category_ap(
    found: Sequence[Outcome], weights: Float[np.ndarray, "R U"], objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " R"]:
    ranking = np.argsort(-np.concatenate([each.scores for each in found]), kind="stable")
    owner = np.repeat(np.arange(len(found)), [len(each.scores) for each in found])[ranking]
    hit = np.concatenate([each.hit for each in found], axis=1)[:, ranking]
    miss = np.concatenate([each.miss for each in found], axis=1)[:, ranking]
    area = np.zeros(len(weights))
    for hits, misses in zip(hit, miss, strict=True):
        before = np.cumsum(hits) - hits  # hits before each prediction
        tp = _up_to_hit(before[hits], owner[hits], int(hits.sum()), len(found))
        fp = _up_to_hit(before[misses], owner[misses], int(hits.sum()), len(found))
        at_once = max(1, POINTS_AT_ONCE // max(1, tp.shape[1]))
        for start in range(0, len(weights), at_once):
            block = slice(start, start + at_once)
            area[block] += _area_under_curve(weights[block] @ tp, weights[block] @ fp, objects[block])
    return area / len(THRESHOLDS)


def _area_under_curve(
    tp: Float[np.ndarray, "R J"], fp: Float[np.ndarray, "R J"], objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, " R"]:
    """Mean of the precision at `RECALLS`; each of them is first reached at a hit, or never."""
    precision = np.maximum.accumulate((tp / (fp + tp + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, tp / objects[:, None], side="right")
    return (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)


def _up_to_hit(
    before: Int[np.ndarray, " N"], owner: Int[np.ndarray, " N"], hits: int, units: int
) -> Float[np.ndarray, "U J"]:
    """How many of these N predictions each unit has up to each hit; `before`: hits ranked before each of them."""
    counted = before < hits
    flat = np.bincount(owner[counted] * hits + before[counted], minlength=units * hits)
    return np.cumsum(flat.reshape(units, hits), axis=1, dtype=float)
