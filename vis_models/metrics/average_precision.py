"""Video AP and AR, exactly as YouTube-VIS counts them.

Source: youtubevos/cocoapi @ f3f9948a, `ytvoseval.py`; `Rule:` marks what a reader would not guess.

One road: scenes of a video -> `match_video` -> matches (small: no masks) -> `accumulate` -> `AveragePrecision`.
Masks are needed for one video at a time only.

Axes: A area ranges, T IoU thresholds, R recall points, K categories, M limits, D predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vis_models.metrics.scenes import ANY, scenes
from vis_models.metrics.track_matching import AREAS_PX, REFERENCE, THRESHOLDS, Conventions, Matches, match_video
from vis_models.metrics.youtube_vis import Entry, GroundTruth, as_tracks, results_by_video

RULES = "youtubevos/cocoapi@f3f9948a"
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class AveragePrecision:
    """Precision and recall of a data set; -1 where there is nothing to find."""

    categories: tuple[int, ...]
    precision: Float[np.ndarray, "T R K A"]
    """With the last of `limits`, at the recalls `RECALLS`."""
    recall: Float[np.ndarray, "T K A M"]
    """With each of `limits`."""
    objects: Int[np.ndarray, "K A"]
    empty_pairs: int
    limits: tuple[int, ...]
    """Predictions of a video and category."""

    def summary(self, category: int | None = None) -> dict[str, float]:
        """The twelve figures of the reference, of one category or of all, as fractions; -1: nothing to find."""
        k = slice(None) if category is None else [self.categories.index(category)]
        figures = {
            "AP": _mean(self.precision[:, :, k, 0]),
            "AP50": _mean(self.precision[:1, :, k, 0]),
            "AP75": _mean(self.precision[5:6, :, k, 0]),
        }
        figures |= {f"AP{size[0]}": _mean(self.precision[:, :, k, a]) for a, size in enumerate(AREAS_PX) if a}
        figures |= {f"AR{limit}": _mean(self.recall[:, k, 0, m]) for m, limit in enumerate(self.limits)}
        return figures | {f"AR{size[0]}": _mean(self.recall[:, k, a, -1]) for a, size in enumerate(AREAS_PX) if a}

    def curve(self, category: int | None = None, threshold: int = 0) -> Float[np.ndarray, " R"]:
        """Precision at `RECALLS` for `THRESHOLDS[threshold]`; of all categories: their mean. -1: nothing to find."""
        points = self.precision[threshold, :, :, 0]
        if category is not None:
            return points[:, self.categories.index(category)]
        present = points[:, self.objects[:, 0] > 0]
        return present.mean(axis=1) if present.size else np.full(len(RECALLS), -1.0)


def _mean(entries: Float[np.ndarray, "*axes"]) -> float:
    counted = entries[entries > -1]
    return float(np.mean(counted)) if counted.size else -1.0


def accumulate(
    videos: Sequence[Mapping[int, Matches]], categories: Sequence[int], conventions: Conventions = REFERENCE
) -> AveragePrecision:
    """Average precision over videos.

    Args:
        videos: what `match_video` returned. Rule: in the order of their ids, which decides between equal scores.
        categories: all of the data set, or `(ANY,)`.
    """
    categories, limits = tuple(sorted(categories)), (1, 10, conventions.limit)
    precision = np.full((len(THRESHOLDS), len(RECALLS), len(categories), len(AREAS_PX)), -1.0)
    recall = np.full((len(THRESHOLDS), len(categories), len(AREAS_PX), len(limits)), -1.0)
    objects = np.zeros((len(categories), len(AREAS_PX)), dtype=int)
    empty_pairs = 0
    for k, category in enumerate(categories):
        matches = [video[category] for video in videos if category in video]
        objects[k] = sum(found.objects for found in matches)
        empty_pairs += sum(found.empty_pairs for found in matches)
        for a in np.nonzero(objects[k])[0].tolist():
            precision[:, :, k, a] = precision_of(matches, a, int(objects[k, a]))
            for m, limit in enumerate(limits):
                hits = sum(_hits(found, a)[:, :limit].sum(axis=1) for found in matches)
                recall[:, k, a, m] = hits / objects[k, a]
    return AveragePrecision(categories, precision, recall, objects, empty_pairs, limits)


def _hits(matches: Matches, area: int) -> Bool[np.ndarray, "T D"]:
    return (matches.partner[area] != 0) & ~matches.ignored[area]


def precision_of(matches: list[Matches], area: int, objects: int) -> Float[np.ndarray, "T R"]:
    """Precision at `RECALLS`: the highest that any later point of the ranking reaches, 0 beyond the last recall."""
    ranking = np.argsort(-np.concatenate([found.scores for found in matches]), kind="stable")
    hit = np.concatenate([_hits(found, area) for found in matches], axis=1)[:, ranking]
    ignored = np.concatenate([found.ignored[area] for found in matches], axis=1)[:, ranking]
    hits, misses = np.cumsum(hit, axis=1, dtype=float), np.cumsum(~hit & ~ignored, axis=1, dtype=float)
    precision = np.maximum.accumulate((hits / (misses + hits + np.spacing(1)))[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for t, recall in enumerate(hits / objects):
        at = np.searchsorted(recall, RECALLS, side="left")
        reached = at < len(ranking)
        sampled[t, reached] = precision[t, at[reached]]
    return sampled


def average_precision(
    ground_truth: Entry,
    results: Sequence[Entry],
    class_agnostic: bool = False,
    conventions: Conventions = REFERENCE,
) -> AveragePrecision:
    """Score a results file: `{video_id, category_id, score, segmentations}` per track, as the reference does.

    Raises:
        BadConfig: no annotations, a missing key, or results of videos that the ground truth does not have.
    """
    truth = GroundTruth(ground_truth)
    categories = [*truth.categories]
    grouped = results_by_video(truth, as_tracks(truth, results)[0])
    videos = [
        match_video(
            scenes(truth.predictions(grouped.get(video, [])), truth.truths(video), categories, class_agnostic),
            conventions,
        )
        for video in truth.video_ids()
    ]
    return accumulate(videos, (ANY,) if class_agnostic else categories, conventions)
