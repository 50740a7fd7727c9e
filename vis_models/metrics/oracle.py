"""What would be left to gain if one thing were perfect, from finished tracks: no model is run.

Masks as predicted, identities true:

* Identity oracle of Yang et al., "Video instance segmentation", ICCV 2019: each predicted mask takes the identity of
  the object that it covers best in its frame. It is also the frame oracle of Wu et al., "In defense of online models
  for video instance segmentation", ECCV 2022.
* Clip oracle of Wu et al.: the same for pieces of tracks, cut every few frames. Within a clip the identities are still
  those predicted, so the gap between the two is what a model loses inside of clips.

An object and a mask belong together at an IoU of `LEAST_IOU` or more. Crowds are no objects here.

Axes: G objects, P tracks.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vis_models.metrics.mask_tracks import MaskTrack, Prediction, Rle, Truth, mean_area_px
from vis_models.metrics.track_iou import overlap_px

LEAST_IOU = 0.5
"""An object whose best mask overlaps less is not seen in that frame."""
CLIP_FRAMES = 5
"""Length of the clips of the clip oracle, as in the offline models of that paper."""


def true_identities(
    predictions: Sequence[Prediction], truths: Sequence[Truth], clip_frames: int = 1
) -> list[Prediction]:
    """The predicted masks of one video, re-linked: a track for each object that was seen.

    Class and score: the mean over the masks of their tracks' scores by category, and the largest of these. Where
    several pieces cover one object best, the one with the largest IoU counts.

    Args:
        clip_frames: 1: each mask alone, the identity and frame oracle; more: pieces of so many frames.
    """
    objects = [truth for truth in truths if not truth.crowd]
    frames = max((len(track.rles) for track in (*objects, *predictions)), default=0)
    pieces: list[list[tuple[int, Prediction]]] = [[] for _ in objects]
    for start in range(0, frames, clip_frames):
        cut = slice(start, start + clip_frames)
        for object_, track in _covered([_cut(p, cut) for p in predictions], [_cut(o, cut) for o in objects]):
            pieces[object_].append((start, predictions[track]))
    return [_joined(own, truth.truth_id, clip_frames) for own, truth in zip(pieces, objects, strict=True) if own]


def _cut(track: MaskTrack, cut: slice) -> MaskTrack:
    return MaskTrack(track.rles[cut], track.areas_px[cut])


def _covered(pieces: Sequence[MaskTrack], objects: Sequence[MaskTrack]) -> list[tuple[int, int]]:
    """(object, piece) of each object that a piece covers best; the first of equals."""
    intersection, union = overlap_px(pieces, objects)
    if not intersection.size:
        return []
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    own = np.where(np.arange(len(objects))[None] == iou.argmax(axis=1)[:, None], iou, 0.0)
    return [(n, int(own[:, n].argmax())) for n in range(len(objects)) if own[:, n].max() >= LEAST_IOU]


def _joined(pieces: Sequence[tuple[int, Prediction]], truth_id: int, clip_frames: int) -> Prediction:
    """One track of the pieces (first frame, track that it is cut from)."""
    length = max(len(track.rles) for _, track in pieces)
    rles: list[Rle | None] = [None] * length
    areas = np.zeros(length)
    weight: dict[int, float] = defaultdict(float)
    for start, track in pieces:
        for frame in range(start, min(start + clip_frames, len(track.rles))):
            rles[frame], areas[frame] = track.rles[frame], track.areas_px[frame]
            weight[track.category] += track.score if track.rles[frame] else 0.0
    category = max(weight, key=lambda c: (weight[c], -c))
    score = weight[category] / max(1, sum(rle is not None for rle in rles))
    return Prediction(rles, areas, category, mean_area_px(areas), score, truth_id)
