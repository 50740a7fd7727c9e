"""Greedy matching of predicted tracks with ground truth, exactly as YouTube-VIS does it.

Source: youtubevos/cocoapi @ f3f9948a, `ytvoseval.py`. What a reader would not guess is marked `Rule:`, for the numbers
must equal the reference to the last bit, odd cases included.

Axes: A area ranges, T IoU thresholds, D predictions, G ground truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vis_models.metrics.scenes import Scene
from vis_models.metrics.track_iou import overlap_px

AREAS_PX = {"all": (0.0, 1e10), "small": (0.0, 128.0**2), "medium": (128.0**2, 256.0**2), "large": (256.0**2, 1e10)}
"""Ranges of a track's mean area. Rule: both ends belong to the range, so 128^2 is small and medium."""
THRESHOLDS = np.linspace(0.5, 0.95, 10)

Crowd = Literal["many", "once", "drop"]


@dataclass(frozen=True)
class Conventions:
    """Where evaluators differ. The defaults are the reference's, and no other choice gives comparable numbers."""

    limit: int = 100
    """How many predictions of a video take part. Rule: per category, not per video."""
    crowd: Crowd = "many"
    """A crowd track is matched any number of times, by one prediction (as TrackEval does), or is not there at all."""

    def __str__(self) -> str:
        """What differs from the reference; empty: nothing."""
        differs = [f"limit {self.limit}"] * (self.limit != 100) + [f"crowd {self.crowd}"] * (self.crowd != "many")
        return ", ".join(differs)


REFERENCE = Conventions()


@dataclass(frozen=True)
class Matches:
    """The predictions of one category in one video, best first, each with the ground truth it found."""

    scores: Float[np.ndarray, " D"]
    iou: Float[np.ndarray, "D G"]
    partner: Int[np.ndarray, "A T D"]
    """`truth_id` of the match, 0 where there is none."""
    ignored: Bool[np.ndarray, "A T D"]
    """Neither hit nor false positive: matched to ignored ground truth, or unmatched and outside the area range."""
    objects: Int[np.ndarray, " A"]
    """Ground truth to find in each area range."""
    empty_pairs: int
    """Pairs of tracks without a single pixel between them. Rule: their IoU is 0."""


def match_video(video: Mapping[int, Scene], conventions: Conventions = REFERENCE) -> dict[int, Matches]:
    """The matches of one video, by category."""
    return {category: match(scene, conventions) for category, scene in video.items()}


def match(scene: Scene, conventions: Conventions = REFERENCE) -> Matches:
    """Greedy matching of the predictions and ground truth of one video and category.

    By descending score, each prediction takes the free ground truth with the highest IoU that reaches the threshold.
    """
    scores = np.array([prediction.score for prediction in scene.predictions], dtype=float)
    best_first = np.argsort(-scores, kind="stable")[: conventions.limit]
    counted = [n for n, truth in enumerate(scene.truths) if not (truth.crowd and conventions.crowd == "drop")]
    truths = [scene.truths[n] for n in counted]
    frames = scene.frames if scene.truths else []  # most categories that a model finds: nothing to compare with
    sums = overlap_px(scene.predictions, scene.truths, frames)
    intersection, union = (each[best_first][:, counted] for each in sums)
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    crowd = np.array([truth.crowd for truth in truths], dtype=bool)
    passed_over = crowd | _outside([truth.mean_area_px for truth in truths])  # (A, G)
    taken = _match_greedily(
        iou, passed_over, crowd & (conventions.crowd == "many")
    )  # (A, T, D), index of the ground truth or -1
    ids = np.array([*(truth.truth_id for truth in truths), 0])  # the last one answers to index -1
    partner = ids[taken]
    outside = _outside([scene.predictions[n].mean_area_px for n in best_first])[:, None]
    padded = np.concatenate([passed_over, np.zeros((len(AREAS_PX), 1), dtype=bool)], axis=1)
    ignored = np.take_along_axis(padded[:, None], taken % len(ids), axis=2) | ((partner == 0) & outside)
    objects = (~passed_over).sum(axis=1)
    return Matches(scores[best_first], iou, partner, ignored, objects, int((union == 0).sum()))


def _outside(areas_px: list[float]) -> Bool[np.ndarray, "A N"]:
    low, high = np.array(list(AREAS_PX.values())).T[..., None]
    areas = np.array(areas_px, dtype=float)
    return (areas < low) | (areas > high)


def _match_greedily(
    iou: Float[np.ndarray, "D G"], passed_over: Bool[np.ndarray, "A G"], shared: Bool[np.ndarray, " G"]
) -> Int[np.ndarray, "A T D"]:
    """Index of the ground truth that each prediction takes, -1 for none, in every area range at every threshold."""
    taken = np.full((len(AREAS_PX), len(THRESHOLDS), len(iou)), -1)
    free = np.ones((len(AREAS_PX), len(THRESHOLDS), len(shared)), dtype=bool)
    needed = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for index, row in enumerate(iou):
        if row.max(initial=0) < THRESHOLDS[0]:
            continue
        open_ = free & (row >= needed)
        regular = open_ & ~passed_over[:, None]
        pool = np.where(regular.any(-1, keepdims=True), regular, open_)  # ignored ground truth comes last
        best = len(shared) - 1 - np.argmax(np.where(pool, row, -1)[..., ::-1], axis=-1)  # Rule: the last of equals
        a, t = np.nonzero(pool.any(-1))
        taken[a, t, index] = best[a, t]
        free[a, t, best[a, t]] = shared[best[a, t]]
    return taken
