"""HOTA: how well objects are found and how well their identity is kept, with equal weight.

Source: Luiten et al., "HOTA: a higher order metric for evaluating multi-object tracking", IJCV 2021; the numbers are
those of TrackEval @ 12c8791b. At each of 19 IoU thresholds alpha:

    DetA = TP / (TP + FN + FP)                                  masks matched, missed, superfluous
    AssA = mean over TP of  TPA / (TPA + FNA + FPA)             frames that the matched object and track share
    HOTA = sqrt(DetA AssA),  OWTA = sqrt(DetRe AssA)            the figure is the mean over alpha

Masks are matched once per frame, for all alpha: the assignment with the largest sum of alignment x IoU, where the
alignment of an object and a track says how much of their time they spend together.

Axes: A thresholds, G objects, P tracks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vis_models.metrics.assignment import assign
from vis_models.metrics.clear import EPS
from vis_models.metrics.scenes import FrameIou, frames_seen

ALPHAS = np.arange(0.05, 0.99, 0.05)


@dataclass(frozen=True)
class Hota:
    """Counts that add up over videos and categories."""

    tp: Float[np.ndarray, " A"]
    fn: Float[np.ndarray, " A"]
    fp: Float[np.ndarray, " A"]
    iou: Float[np.ndarray, " A"]
    """Sum over TP."""
    association: Float[np.ndarray, " A"]
    """Sum over TP of TPA / (TPA + FNA + FPA)."""
    association_recall: Float[np.ndarray, " A"]
    """Sum over TP of TPA / (TPA + FNA)."""
    association_precision: Float[np.ndarray, " A"]
    """Sum over TP of TPA / (TPA + FPA)."""

    def __add__(self, other: "Hota") -> "Hota":
        return Hota(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    def curves(self) -> dict[str, Float[np.ndarray, " A"]]:
        """Each figure at each of `ALPHAS`. 0/0 is 0, but LocA, the mean IoU of the matches, is 1 without a match."""
        found = np.maximum(1, self.tp)
        recall = self.tp / np.maximum(1, self.tp + self.fn)
        precision = self.tp / np.maximum(1, self.tp + self.fp)
        detection = self.tp / np.maximum(1, self.tp + self.fn + self.fp)
        association = self.association / found
        return {
            "HOTA": np.sqrt(detection * association),
            "DetA": detection,
            "AssA": association,
            "DetRe": recall,
            "DetPr": precision,
            "AssRe": self.association_recall / found,
            "AssPr": self.association_precision / found,
            "LocA": np.where(self.tp > 0, self.iou / found, 1.0),
            "OWTA": np.sqrt(recall * association),
        }

    def figures(self) -> dict[str, float]:
        """Mean of each curve."""
        return {name: float(curve.mean()) for name, curve in self.curves().items()}


NOTHING = Hota(*np.zeros((7, len(ALPHAS))))


def hota(frames: Sequence[FrameIou], objects: int, tracks: int) -> Hota:
    """Count one video, one category. `objects`, `tracks`: how many there are."""
    seen, found = frames_seen(frames, objects, tracks)
    both = [frame for frame in frames if frame.iou.size]
    alignment = _alignment(both, seen[:, None] + found[None])
    together = np.zeros((len(ALPHAS), objects, tracks))
    tp, iou = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    for frame in both:
        rows, columns = assign(alignment[np.ix_(frame.objects, frame.tracks)] * frame.iou)
        matched = frame.iou[rows, columns]
        good = matched >= ALPHAS[:, None] - EPS
        tp += good.sum(axis=1)
        iou += good @ matched
        together[:, frame.objects[rows], frame.tracks[columns]] += good
    return Hota(
        tp,
        seen.sum() - tp,
        found.sum() - tp,
        iou,
        _sum(together * together / np.maximum(1, seen[:, None] + found[None] - together)),
        _sum(together * together / np.maximum(1, seen[:, None])),
        _sum(together * together / np.maximum(1, found[None])),
    )


def _alignment(frames: Sequence[FrameIou], masks: Int[np.ndarray, "G P"]) -> Float[np.ndarray, "G P"]:
    """IoU of object and track as sets of frames; where masks compete, a frame belongs to a pair in part.

    Args:
        masks: of the object plus those of the track.
    """
    shared = np.zeros(masks.shape)
    for frame in frames:
        either = frame.iou.sum(axis=0)[None] + frame.iou.sum(axis=1)[:, None] - frame.iou
        part = np.divide(frame.iou, either, out=np.zeros_like(frame.iou), where=either > EPS)
        shared[np.ix_(frame.objects, frame.tracks)] += part
    return shared / np.maximum(masks - shared, 1)


def _sum(per_pair: Float[np.ndarray, "A G P"]) -> Float[np.ndarray, " A"]:
    return per_pair.sum(axis=(1, 2))
