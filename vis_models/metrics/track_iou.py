"""Track IoU: how well two tracks of masks agree over a whole video.

    IoU(p, g) = sum over frames |p and g|  /  sum over frames |p or g|

A frame where only one of the two is visible adds its area to the union. It is not the mean of the IoU of the frames.

The reference merges the masks of each pair in each frame. Here one call of pycocotools per frame compares all
predictions with all ground truth. It answers with ratios r = i / (a + b - i) of areas a, b and intersection i, so
i = r (a + b) / (1 + r), rounded to the integer that it is. Integers sum exactly: the result is the reference's, bit
for bit.

Axes: P predictions, G ground truth, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco

Rle = dict[str, Any]
"""`size` [height, width] in px and `counts`, COCO's compressed runs: what pycocotools takes."""


@dataclass(frozen=True)
class MaskTrack:
    """The masks of one object, one entry per frame; None where it is not visible."""

    rles: Sequence[Rle | None]
    areas_px: Float[np.ndarray, " T"]
    """Area of each mask, 0 where there is none."""


def overlap_px(
    predictions: Sequence[MaskTrack], truths: Sequence[MaskTrack]
) -> tuple[Float[np.ndarray, "P G"], Float[np.ndarray, "P G"]]:
    """Intersection and union of every pair, in pixels summed over the frames.

    Two rules of the reference that nobody would guess: frames are paired by position and the longer track is cut at
    the end of the shorter one; a frame in which the two masks differ in size adds nothing to either sum.
    """
    if not predictions or not truths:
        return np.zeros((len(predictions), len(truths))), np.zeros((len(predictions), len(truths)))
    frames = max(_length(predictions), _length(truths))
    areas_p, there_p = _areas(predictions, frames)
    areas_g, there_g = _areas(truths, frames)
    one_size = len(_sizes(predictions) | _sizes(truths)) == 1
    intersection = np.zeros((len(predictions), len(truths)))
    either = areas_p @ there_g.T + there_p @ areas_g.T  # both areas, over the frames that both tracks reach
    for t in range(min(_length(predictions), _length(truths))):
        rows, rles_p = _visible(predictions, t)
        columns, rles_g = _visible(truths, t)
        if not rows or not columns:
            continue
        both = areas_p[rows, t][:, None] + areas_g[columns, t]
        ratio = coco.iou(rles_p, rles_g, [0] * len(rles_g))
        pairs = np.array(rows)[:, None], columns
        if not one_size:
            same_size = np.array([[p["size"] == g["size"] for g in rles_g] for p in rles_p])
            ratio = np.where(same_size, ratio, 0)
            either[pairs] -= np.where(same_size, 0, both)
        intersection[pairs] += np.rint(ratio * both / (1 + ratio))
    return intersection, either - intersection


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


def _length(tracks: Sequence[MaskTrack]) -> int:
    return max((len(track.rles) for track in tracks), default=0)


def _visible(tracks: Sequence[MaskTrack], frame: int) -> tuple[list[int], list[Rle]]:
    """Which tracks have a mask in this frame, and the masks."""
    masks = [(row, track.rles[frame]) for row, track in enumerate(tracks) if frame < len(track.rles)]
    return [row for row, rle in masks if rle], [rle for _, rle in masks if rle]
