"""Greedy matching of predicted tracks with ground truth, exactly as YouTube-VIS does it.

Source: youtubevos/cocoapi @ f3f9948a, `ytvoseval.py`. What a reader would not guess is marked `Rule:`, for the numbers
must equal the reference to the last bit, odd cases included.

Axes: A area ranges, T IoU thresholds, D predictions, G ground truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vis_models.metrics.track_iou import MaskTrack, overlap_px

AREAS_PX = {"all": (0.0, 1e10), "small": (0.0, 128.0**2), "medium": (128.0**2, 256.0**2), "large": (256.0**2, 1e10)}
"""Ranges of a track's mean area. Rule: both ends belong to the range, so 128^2 is small and medium."""
THRESHOLDS = np.linspace(0.5, 0.95, 10)
ANY = -1
"""The category of everything in class-agnostic mode."""


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
class Truth(MaskTrack):
    """An annotated object of a video."""

    truth_id: int
    """Rule: a match is stored as this id and 0 means no match, so whatever matches id 0 is a false positive."""
    category: int
    mean_area_px: float
    """Rule: from the stated areas, not from the masks; over the frames where they are not zero."""
    crowd: bool = False
    """May be matched any number of times, and counts neither as found nor as missed."""


@dataclass(frozen=True)
class Prediction(MaskTrack):
    """A predicted track of a video."""

    category: int
    mean_area_px: float
    """From the masks, over the frames where they are not empty."""
    score: float
    """Any finite number; only the order counts."""
    track_id: int = 0
    """Its name among the tracks of the video, to speak of it; no figure depends on it."""


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


def mean_area_px(areas_px: Sequence[int | float | None] | Float[np.ndarray, " _"]) -> float:
    """Mean over the frames where the area is neither null nor zero; 0 if there is none."""
    if isinstance(areas_px, np.ndarray):
        seen = areas_px[areas_px != 0]
        return float(seen.mean()) if len(seen) else 0.0
    seen = [area for area in areas_px if area]
    return float(np.mean(seen)) if seen else 0.0


def match_video(
    predictions: Sequence[Prediction],
    truths: Sequence[Truth],
    categories: Sequence[int],
    class_agnostic: bool = False,
    conventions: Conventions = REFERENCE,
) -> dict[int, Matches]:
    """The matches of one video, by category; categories with neither ground truth nor predictions are left out.

    Args:
        predictions: in the order of the results file; equal scores keep it.
        truths: in the order of the ground truth file.
        categories: those that count. Rule: predictions and objects of any other are dropped.
        class_agnostic: all under the one key `ANY`.
    """
    # Rule: ordered by category; in class-agnostic mode that decides between equal scores.
    predictions = sorted((p for p in predictions if p.category in categories), key=lambda p: p.category)
    counted = (g for g in truths if g.category in categories and not (g.crowd and conventions.crowd == "drop"))
    truths = sorted(counted, key=lambda g: g.category)
    if class_agnostic:
        return {ANY: match(predictions, truths, conventions)} if predictions or truths else {}
    present = sorted({p.category for p in predictions} | {g.category for g in truths})
    return {
        c: match([p for p in predictions if p.category == c], [g for g in truths if g.category == c], conventions)
        for c in present
    }


def match(predictions: Sequence[Prediction], truths: Sequence[Truth], conventions: Conventions = REFERENCE) -> Matches:
    """Greedy matching of the predictions and ground truth of one video and category.

    By descending score, each prediction takes the free ground truth with the highest IoU that reaches the threshold.
    """
    scores = np.array([prediction.score for prediction in predictions], dtype=float)
    best_first = np.argsort(-scores, kind="stable")[: conventions.limit]
    predictions, scores = [predictions[index] for index in best_first], scores[best_first]
    intersection, union = overlap_px(predictions, truths)
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    crowd = np.array([truth.crowd for truth in truths], dtype=bool)
    passed_over = crowd | _outside([truth.mean_area_px for truth in truths])  # (A, G)
    taken = _match_greedily(
        iou, passed_over, crowd & (conventions.crowd == "many")
    )  # (A, T, D), index of the ground truth or -1
    ids = np.array([*(truth.truth_id for truth in truths), 0])  # the last one answers to index -1
    partner = ids[taken]
    outside = _outside([prediction.mean_area_px for prediction in predictions])[:, None]
    padded = np.concatenate([passed_over, np.zeros((len(AREAS_PX), 1), dtype=bool)], axis=1)
    ignored = np.take_along_axis(padded[:, None], taken % len(ids), axis=2) | ((partner == 0) & outside)
    return Matches(scores, iou, partner, ignored, (~passed_over).sum(axis=1), int((union == 0).sum()))


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
