"""What a video shows of a category on both sides, compared frame by frame once: where all metrics begin.

    tracks of a video -> scenes -> AP: overlap of whole tracks, greedy matches
                                -> HOTA, CLEAR, IDF1: assignments frame by frame

Comparing masks is nearly all the work there is, and what both roads need of it is the same: one call of pycocotools per
frame compares every object with every predicted track.

Axes: T frames; G objects and P predicted tracks of the scene, or those of them that have a mask in a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as coco

from vis_models.metrics.mask_tracks import MaskTrack, Prediction, Truth

ANY = -1
"""The category of everything in class-agnostic mode."""


@dataclass(frozen=True)
class FrameIou:
    """The masks of one frame. A mask without a pixel counts as one; its IoU with anything is 0."""

    objects: Int[np.ndarray, " G"]
    """Places in the list of objects, ascending."""
    tracks: Int[np.ndarray, " P"]
    """Places in the list of predicted tracks, ascending."""
    iou: Float[np.ndarray, "G P"]
    """0 where the two masks have different sizes."""


@dataclass(frozen=True)
class Scene:
    """One category of one video. Masks are compared when somebody asks for it first."""

    truths: Sequence[Truth]
    predictions: Sequence[Prediction]

    @cached_property
    def frames(self) -> list[FrameIou]:
        """One for each frame."""
        return compare_frames(self.truths, self.predictions)

    def between(self, objects: Sequence[int], tracks: Sequence[int]) -> list[FrameIou]:
        """The frames with these objects and tracks alone (places, ascending), numbered by their order here."""
        if len(objects) == len(self.truths) and len(tracks) == len(self.predictions):
            return self.frames
        new_object, new_track = _numbers(objects, len(self.truths)), _numbers(tracks, len(self.predictions))
        kept = []
        for frame in self.frames:
            row, column = new_object[frame.objects], new_track[frame.tracks]
            iou = frame.iou[row >= 0][:, column >= 0]
            kept.append(FrameIou(row[row >= 0], column[column >= 0], iou))
        return kept


def _numbers(chosen: Sequence[int], count: int) -> Int[np.ndarray, " N"]:
    """Of each of `count` places, its number among the chosen ones, or -1."""
    numbers = np.full(count, -1)
    numbers[chosen] = np.arange(len(chosen))
    return numbers


def scenes(
    predictions: Sequence[Prediction],
    truths: Sequence[Truth],
    categories: Sequence[int],
    class_agnostic: bool = False,
) -> dict[int, Scene]:
    """A video by category; categories with neither objects nor predictions are left out.

    Args:
        predictions: in the order of the results file, which decides between equal scores and equally good matches.
        truths: in the order of the ground truth file.
        categories: those that count. Rule: predictions and objects of any other are dropped.
        class_agnostic: all under the one key `ANY`. Rule: then the order is by category first.
    """
    found = sorted((p for p in predictions if p.category in categories), key=lambda p: p.category)
    shown = sorted((g for g in truths if g.category in categories), key=lambda g: g.category)
    if class_agnostic:
        return {ANY: Scene(shown, found)} if found or shown else {}
    return {
        kind: Scene([g for g in shown if g.category == kind], [p for p in found if p.category == kind])
        for kind in sorted({p.category for p in found} | {g.category for g in shown})
    }


def compare_frames(truths: Sequence[MaskTrack], predictions: Sequence[MaskTrack]) -> list[FrameIou]:
    """One for each frame of a video; a track that is shorter than the others is not visible after its end."""
    frames = max((len(track.rles) for track in (*truths, *predictions)), default=0)
    return [_compare(truths, predictions, frame) for frame in range(frames)]


def _compare(truths: Sequence[MaskTrack], predictions: Sequence[MaskTrack], frame: int) -> FrameIou:
    objects = [n for n, track in enumerate(truths) if frame < len(track.rles) and track.rles[frame]]
    tracks = [n for n, track in enumerate(predictions) if frame < len(track.rles) and track.rles[frame]]
    iou = np.zeros((len(objects), len(tracks)))
    if objects and tracks:
        seen, found = [truths[n].rles[frame] for n in objects], [predictions[n].rles[frame] for n in tracks]
        iou = np.maximum(coco.iou(seen, found, [0] * len(found)), 0.0)  # -1: masks of different size
    return FrameIou(np.array(objects, dtype=int), np.array(tracks, dtype=int), iou)


def frames_seen(
    frames: Sequence[FrameIou], objects: int, tracks: int
) -> tuple[Int[np.ndarray, " objects"], Int[np.ndarray, " tracks"]]:
    """In how many frames each object and each track is seen."""
    none = np.zeros(0, dtype=int)
    return (
        np.bincount(np.concatenate([none, *(frame.objects for frame in frames)]), minlength=objects),
        np.bincount(np.concatenate([none, *(frame.tracks for frame in frames)]), minlength=tracks),
    )
