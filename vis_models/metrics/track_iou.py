"""Track IoU: how well two tracks of masks agree over a whole video.

    IoU(p, g) = sum over frames |p and g|  /  sum over frames |p or g|

A frame where only one of the two is visible adds its area to the union. It is not the mean of the IoU of the frames.

The reference merges the masks of each pair in each frame. Here the frames have been compared already: their ratios
are r = i / (a + b - i) of areas a, b and intersection i, so i = r (a + b) / (1 + r), rounded to the integer that it is.
Integers sum exactly: the result is the reference's, bit for bit.

Axes: P predictions, G ground truth, T frames.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from vis_models.metrics.mask_tracks import MaskTrack
from vis_models.metrics.scenes import FrameIou, compare_frames


def overlap_px(
    predictions: Sequence[MaskTrack], truths: Sequence[MaskTrack], frames: Sequence[FrameIou] | None = None
) -> tuple[Float[np.ndarray, "P G"], Float[np.ndarray, "P G"]]:
    """Intersection and union of every pair, in pixels summed over the frames.

    Two rules of the reference that nobody would guess: frames are paired by position and the longer track is cut at
    the end of the shorter one; a frame in which the two masks differ in size adds nothing to either sum.

    Args:
        frames: what `compare_frames` says of them, where somebody has asked it before.
    """
    if not predictions or not truths:
        return np.zeros((len(predictions), len(truths))), np.zeros((len(predictions), len(truths)))
    length = max(len(track.rles) for track in (*predictions, *truths))
    areas_p, there_p = _areas(predictions, length)
    areas_g, there_g = _areas(truths, length)
    one_size = len(_sizes(predictions) | _sizes(truths)) == 1
    intersection = np.zeros((len(predictions), len(truths)))
    either = areas_p @ there_g.T + there_p @ areas_g.T  # both areas, over the frames that both tracks reach
    for t, frame in enumerate(compare_frames(truths, predictions) if frames is None else frames):
        if not frame.iou.size:
            continue
        pairs = frame.tracks[:, None], frame.objects
        ratio, both = frame.iou.T, areas_p[frame.tracks, t][:, None] + areas_g[frame.objects, t]
        if not one_size:
            either[pairs] -= np.where(_differ(predictions, truths, frame, t), both, 0)
        intersection[pairs] += np.rint(ratio * both / (1 + ratio))
    return intersection, either - intersection


def _differ(
    predictions: Sequence[MaskTrack], truths: Sequence[MaskTrack], frame: FrameIou, t: int
) -> Bool[np.ndarray, "P G"]:
    """Which masks of a frame have different sizes."""
    sizes_p = np.array([predictions[n].rles[t]["size"] for n in frame.tracks])  # type: ignore[index]  # they are there
    sizes_g = np.array([truths[n].rles[t]["size"] for n in frame.objects])  # type: ignore[index]
    return (sizes_p[:, None] != sizes_g).any(axis=-1)


def _sizes(tracks: Sequence[MaskTrack]) -> set[tuple[int, ...]]:
    """Sizes in use. Masks mostly share the list that says it, so lists are told apart before they are read."""
    lists = {id(rle["size"]): rle["size"] for track in tracks for rle in track.rles if rle}
    return {tuple(size) for size in lists.values()}


def _areas(tracks: Sequence[MaskTrack], frames: int) -> tuple[Float[np.ndarray, "N T"], Float[np.ndarray, "N T"]]:
    """Areas padded to a common length, and 1 where a track still runs."""
    areas, runs = np.zeros((len(tracks), frames)), np.zeros((len(tracks), frames))
    for row, track in enumerate(tracks):
        areas[row, : len(track.rles)] = track.areas_px
        runs[row, : len(track.rles)] = 1
    return areas, runs
