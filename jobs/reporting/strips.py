"""A video as a strip of frames: what the model saw, and under it what the labels say.

A colour is one identity. An object of the labels takes the colour of the track that covers it, so that a change of
colour between the two rows is a mistake that the eye finds; what no track covers stays pale.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image

from jobs.archives.archive import VideoSource
from jobs.archives.frames import frames_in_time
from jobs.archives.video import DecodedFrame
from jobs.evaluation.predictions import MASK_COLUMNS, mask_tracks
from jobs.reporting.painting import PALE, Colour, colour_of, paint
from jobs.segmentation.plans import find_sources
from jobs.store import Store
from vis_models import masks
from vis_models.config import BadVideo
from vis_models.data.dialects import VideoId
from vis_models.metrics.mask_tracks import MaskTrack
from vis_models.metrics.track_iou import overlap_px
from vis_models.metrics.youtube_vis import GroundTruth

LONG_SIDE_PX = 360
"""Of a picture in the page."""
MUTED = 0.65
"""Share of grey in a frame under its masks."""
TAG_PX = 22
"""Height of a line of text in a picture."""
FIRST_FRAMES = 900
"""Strips show the beginning of a long film: decoding all of it for five pictures would take minutes."""
COVERS = 0.5
"""Track IoU from which a track counts as covering an object."""


@dataclass(frozen=True)
class Tag:
    """A name on a picture, beside its mask."""

    text: str
    x_px: float
    y_px: float


@dataclass(frozen=True)
class Picture:
    """One frame with masks."""

    frame: int
    time_s: float | None
    uri: str
    """A JPEG as `data:` URI."""
    width: int
    height: int
    tags: list[Tag]


@dataclass(frozen=True)
class Track:
    """An entry of the legend under a row of pictures."""

    name: str
    colour: str
    category: str
    score: float | None
    """The video score of a predicted track."""
    iou: float | None
    """Of an object with the track that covers it best."""


@dataclass(frozen=True)
class Strip:
    """The two rows of a video; `labels` are empty where there are none."""

    video_id: str
    pictures: list[Picture]
    tracks: list[Track]
    hidden: int
    """Tracks that are not drawn because their score is low."""
    labels: list[Picture]
    objects: list[Track]
    trouble: str
    """Why there are fewer pictures than asked for; empty if there are not."""


@dataclass(frozen=True)
class Layer:
    """A track that is drawn: `rles` by frame."""

    legend: Track
    colour: Colour
    rles: Mapping[int, tuple[bytes, int, int]]


def draw_strips(
    store: Store,
    plan_id: str,
    opened: Mapping[str, ds.Dataset],
    video_ids: Sequence[str],
    truth: GroundTruth | None,
    *,
    pictures: int,
    min_score: float,
) -> Iterator[Strip]:
    """The strips of some videos of a plan.

    Args:
        opened: the tables of the plan.
        truth: labels whose video ids are the plan's.
        pictures: frames in a strip.
        min_score: tracks under this video score are left out.
    """
    sources = find_sources(store, plan_id, video_ids)
    for video_id in video_ids:
        this_video = pc.field("video_id") == video_id
        (video,) = opened["videos"].to_table(filter=this_video).to_pylist()
        chosen = sorted(
            set(np.linspace(0, min(video["sampled_frames"], FIRST_FRAMES) - 1, pictures).round().astype(int).tolist())
        )
        rows = opened["tracks"].to_table(filter=this_video).sort_by([("score", "descending")]).to_pylist()
        shown = [row for row in rows if row["score"] >= min_score]
        seen = this_video if truth else this_video & pc.field("frame_idx").isin(chosen)
        found = opened["masks"].to_table(columns=MASK_COLUMNS, filter=seen).sort_by([("track_id", "ascending")])
        tracks = mask_tracks(found, video["sampled_frames"])
        layers = [_layer_of_track(row, tracks[row["track_id"]]) for row in shown if row["track_id"] in tracks]
        objects = _layers_of_objects(truth, truth.id_of(video_id), layers, tracks) if truth else []
        frames, trouble = read_frames(store, sources[video_id], (video["height"], video["width"]), chosen)
        yield Strip(
            video_id=video_id,
            pictures=[picture_of(frame, layers) for frame in frames],
            tracks=[layer.legend for layer in layers],
            hidden=len(rows) - len(shown),
            labels=[picture_of(frame, objects) for frame in frames] if truth else [],
            objects=[layer.legend for layer in objects],
            trouble=trouble,
        )


def _layer_of_track(row: Mapping[str, Any], track: MaskTrack) -> Layer:
    colour = colour_of(row["track_id"])
    legend = Track(str(row["track_id"]), hex_of(colour), row["category"], row["score"], None)
    return Layer(legend, colour, _by_frame(track))


def _layers_of_objects(
    truth: GroundTruth, video_id: VideoId, layers: Sequence[Layer], tracks: Mapping[int, MaskTrack]
) -> list[Layer]:
    """The objects of the labels in the colour of the track that covers them best, pale where none does."""
    truths = truth.truths(video_id)
    intersection, union = overlap_px([tracks[int(layer.legend.name)] for layer in layers], truths)
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    objects = []
    for n, each in enumerate(truths):
        best = layers[int(iou[:, n].argmax())] if layers and iou[:, n].max() >= COVERS else None
        legend = Track(
            name=best.legend.name if best else "",
            colour=best.legend.colour if best else hex_of(PALE),
            category=truth.categories.get(each.category, "?"),
            score=None,
            iou=float(iou[:, n].max(initial=0)),
        )
        objects.append(Layer(legend, best.colour if best else PALE, _by_frame(each)))
    return objects


def _by_frame(track: MaskTrack) -> dict[int, tuple[bytes, int, int]]:
    return {frame: (rle["counts"], *rle["size"]) for frame, rle in enumerate(track.rles) if rle}


def read_frames(
    store: Store, source: VideoSource, size: tuple[int, int], chosen: Sequence[int]
) -> tuple[list[DecodedFrame], str]:
    """The chosen frames at the size of a picture, and what went wrong on the way to them."""
    scale = LONG_SIDE_PX / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    frames: list[DecodedFrame] = []
    try:
        for frame in frames_in_time(source, store, (height, width)):
            if frame.index in chosen:
                frames.append(frame)
            if frame.index >= chosen[-1]:
                break
    except BadVideo as error:
        return frames, str(error)
    return frames, ""


def picture_of(frame: DecodedFrame, layers: Sequence[Layer]) -> Picture:
    """One frame with its layers painted in, the first on top."""
    height, width = frame.pixels.shape[:2]
    painted, tags = [], []
    for layer in reversed(layers):
        if frame.index in layer.rles:
            mask = Image.fromarray(masks.decode(*layer.rles[frame.index])).resize((width, height))
            bitmap = np.asarray(mask, dtype=bool)
            painted.append((layer.colour, bitmap))
            if layer.legend.name and bitmap.any():
                tags.append(_tag(layer.legend.name, bitmap))
    jpeg = io.BytesIO()
    Image.fromarray(paint(_muted(frame.pixels), painted)).save(jpeg, "JPEG", quality=82)
    uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    return Picture(frame.index, frame.time_s, uri, width, height, tags)


def _muted(pixels: np.ndarray) -> np.ndarray:
    """A frame with less colour, so that the colours of identities are told from those of things."""
    grey = pixels.mean(axis=2, keepdims=True)
    return ((1 - MUTED) * pixels + MUTED * grey).round().astype(np.uint8)


def _tag(text: str, bitmap: np.ndarray) -> Tag:
    """Above the mask, or under it where there is no room."""
    rows, columns = np.nonzero(bitmap)
    above, below = rows.min() - TAG_PX / 2, rows.max() + 1 + TAG_PX / 2
    side = TAG_PX * 0.3 * len(text)
    x = np.clip((columns.min() + columns.max() + 1) / 2, side, bitmap.shape[1] - side)
    return Tag(text, float(x), float(above if above >= TAG_PX / 2 else min(below, bitmap.shape[0] - TAG_PX / 2)))


def hex_of(colour: Colour) -> str:
    """As CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
