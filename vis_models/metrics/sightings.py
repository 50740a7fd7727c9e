"""What is seen in each frame of a video, on both sides, and how well it agrees: where all tracking metrics begin.

They look at frames, video AP at whole tracks. One call of pycocotools per frame compares every object with every
predicted track.

Axes: G objects and P predicted tracks that have a mask in the frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as coco

from vis_models.metrics.track_iou import MaskTrack

EPS = float(np.finfo(float).eps)
"""An IoU may fall short of a threshold by this much. Differs from video AP, where it may not."""


@dataclass(frozen=True)
class Sighting:
    """The masks of one frame. A mask without a pixel counts as one; its IoU with anything is 0."""

    objects: Int[np.ndarray, " G"]
    """Places in the list of the video's objects, ascending."""
    tracks: Int[np.ndarray, " P"]
    """Places in the list of predicted tracks, ascending."""
    iou: Float[np.ndarray, "G P"]


def sight(truths: Sequence[MaskTrack], predictions: Sequence[MaskTrack]) -> list[Sighting]:
    """One sighting for each frame of a video; a track that is shorter than the others is not visible after its end."""
    frames = max((len(track.rles) for track in (*truths, *predictions)), default=0)
    return [_sight(truths, predictions, frame) for frame in range(frames)]


def _sight(truths: Sequence[MaskTrack], predictions: Sequence[MaskTrack], frame: int) -> Sighting:
    objects = [n for n, track in enumerate(truths) if frame < len(track.rles) and track.rles[frame]]
    tracks = [n for n, track in enumerate(predictions) if frame < len(track.rles) and track.rles[frame]]
    iou = np.zeros((len(objects), len(tracks)))
    if objects and tracks:
        seen, found = [truths[n].rles[frame] for n in objects], [predictions[n].rles[frame] for n in tracks]
        iou = np.maximum(coco.iou(seen, found, [0] * len(found)), 0.0)  # -1: masks of different size
    return Sighting(np.array(objects, dtype=int), np.array(tracks, dtype=int), iou)


def frames_seen(
    sightings: Sequence[Sighting], objects: int, tracks: int
) -> tuple[Int[np.ndarray, " objects"], Int[np.ndarray, " tracks"]]:
    """In how many frames each object and each track is seen."""
    none = np.zeros(0, dtype=int)
    return (
        np.bincount(np.concatenate([none, *(frame.objects for frame in sightings)]), minlength=objects),
        np.bincount(np.concatenate([none, *(frame.tracks for frame in sightings)]), minlength=tracks),
    )
