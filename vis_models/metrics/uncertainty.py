"""How sure a difference of AP is: the same videos drawn again for both sides.

A percentile interval of AP itself would be wrong (drawing whole videos again raises AP where categories have few
videos); the difference of two models on the same draws does not have that bias.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vis_models.metrics.average_precision import precision_of
from vis_models.metrics.track_matching import Matches

Videos = Sequence[Mapping[int, Matches]]
"""What `match_video` returned, video by video."""


def paired_difference(
    pairs: Sequence[tuple[Videos, Videos]], categories: Sequence[int], replicates: int = 200, seed: int = 0
) -> tuple[float, float]:
    """AP of the first of each pair minus AP of the second, mean over pairs, and its standard error.

    Args:
        pairs: two models on the same videos in the same order; several pairs are repetitions with other seeds.
        categories: all of the data set.
        replicates: how often the videos are drawn again, with replacement.

    Returns:
        (difference, standard error), as fractions; the 95 % interval is difference +- 1.96 errors.
    """
    rng, videos = np.random.default_rng(seed), len(pairs[0][0])

    def difference(which: Sequence[int]) -> float:
        gaps = [_ap([a[v] for v in which], categories) - _ap([b[v] for v in which], categories) for a, b in pairs]
        return float(np.mean(gaps))

    drawn = [difference(rng.integers(0, videos, videos).tolist()) for _ in range(replicates)]
    return difference(range(videos)), float(np.std(drawn, ddof=1))


def _ap(videos: Videos, categories: Sequence[int]) -> float:
    """AP over all sizes, as `accumulate` counts it."""
    scores = []
    for category in categories:
        matches = [video[category] for video in videos if category in video]
        objects = sum(int(found.objects[0]) for found in matches)
        if objects:
            scores.append(precision_of(matches, 0, objects).mean())
    return float(np.mean(scores)) if scores else -1.0
