"""The drawn world: videos whose truth is known, because we drew them.

Shapes of six categories glide, turn and grow over textured ground; they pass behind each other and behind stones of
no category, leave the frame and come back. A category is told by silhouette alone: colour and texture are random.
The world is written as a YouTube-VIS data set (frames and truth) or as an archive of H.264 films (no truth).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.world_scene import CATEGORIES, Scene, WorldConfig
from vis_models.progress import Progress

__all__ = ["CATEGORIES", "DrawnTrack", "DrawnVideo", "WorldConfig", "draw_video", "write_archive",
           "write_youtube_vis"]  # fmt: skip

MIN_VISIBLE_PX = 8
"""A visible rest smaller than this counts as not visible: nobody could name it."""
FIRST_INDEX = {"train": 0, "val": 1_000_000, "archive": 2_000_000}
"""Training, validation and archive never share a video, whatever their sizes."""
MARKER = "world.json"
"""Says which world a folder holds, and whether it is complete."""
FRAMES_PER_SECOND = 10
JPEG_QUALITY = 92


@dataclass(frozen=True)
class DrawnTrack:
    """One object and where it can be seen."""

    track_id: int
    """From 1, unique in its video; the same after an occlusion."""
    category_id: int
    """From 1, in the order of `CATEGORIES`."""
    masks: Bool[np.ndarray, "T H W"]
    """Visible part; a pixel belongs to the top-most object only."""


@dataclass(frozen=True)
class DrawnVideo:
    """A film and its truth."""

    frames: UInt8[np.ndarray, "T H W 3"]
    """RGB."""
    tracks: tuple[DrawnTrack, ...]
    """Objects that can be seen in at least one frame."""


def draw_video(config: WorldConfig, index: int) -> DrawnVideo:
    """Video `index` of the world. It depends on nothing else, so any video can be drawn alone."""
    scene = Scene(config, index)
    pictures, owners = zip(*(scene.frame(time) for time in range(config.frames)), strict=True)
    owner = np.stack(owners)
    tracks = []
    for track_id, thing in enumerate(scene.objects, start=1):
        visible = owner == track_id
        visible &= visible.sum((1, 2), keepdims=True) >= MIN_VISIBLE_PX
        if visible.any():
            tracks.append(DrawnTrack(track_id, thing.category_id, visible))
    return DrawnVideo(np.stack(pictures), tuple(tracks))


def write_youtube_vis(
    config: WorldConfig, folder: Path, train: int, val: int, progress: Progress | None = None
) -> None:
    """Write `train` and `val` videos as a YouTube-VIS data set; does nothing where this very world is complete.

    Raises:
        BadConfig: the folder holds something else.
    """
    counts = {"train": train, "val": val}
    if _is_complete(folder, config, counts):
        return
    for split, count in counts.items():
        truth = _empty_truth(config)
        for number in range(count):
            video = draw_video(config, FIRST_INDEX[split] + number)
            _add_truth(truth, video, _write_frames(video, folder / split / "JPEGImages", f"{number:06d}"))
            if progress:
                progress(f"draw {split}", number + 1, count, {})
        (folder / f"{split}.json").write_text(json.dumps(truth))
    _write_marker(folder, config, counts, complete=True)


def write_archive(config: WorldConfig, folder: Path, videos: int, progress: Progress | None = None) -> None:
    """Write `videos` H.264 films of the world; does nothing where these very films are complete.

    Raises:
        BadConfig: the folder holds something else.
    """
    counts = {"archive": videos}
    if _is_complete(folder, config, counts):
        return
    for number in range(videos):
        scene = Scene(config, FIRST_INDEX["archive"] + number)
        _write_film(folder / f"{number:06d}.mp4", (scene.frame(time)[0] for time in range(config.frames)), config)
        if progress:
            progress("draw archive", number + 1, videos, {})
    _write_marker(folder, config, counts, complete=True)


def _is_complete(folder: Path, config: WorldConfig, counts: dict[str, int]) -> bool:
    """Whether nothing is left to do. A folder that is new, or was left half drawn, is marked as begun."""
    file = folder / MARKER
    found = file.read_text() if file.exists() else None
    if found == _marker(config, counts, complete=True):
        return True
    if found != _marker(config, counts, complete=False) and folder.exists() and any(folder.iterdir()):
        raise BadConfig(
            f"{folder} holds {'another drawn world: ' + found if found else 'other files'}, expected an empty folder "
            f"or {_marker(config, counts, complete=True)}. Name another folder, or delete this one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_marker(folder, config, counts, complete=False)
    return False


def _write_marker(folder: Path, config: WorldConfig, counts: dict[str, int], complete: bool) -> None:
    unfinished = folder / f".{MARKER}"
    unfinished.write_text(_marker(config, counts, complete))
    unfinished.replace(folder / MARKER)


def _marker(config: WorldConfig, counts: dict[str, int], complete: bool) -> str:
    plan = {"world_version": config.version, "config": config.model_dump(), "videos": counts, "complete": complete}
    return json.dumps(plan)


def _write_frames(video: DrawnVideo, folder: Path, name: str) -> list[str]:
    (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{name}/{time:05d}.jpg" for time in range(len(video.frames))]
    for frame, file in zip(video.frames, names, strict=True):
        Image.fromarray(frame).save(folder / file, quality=JPEG_QUALITY)
    return names


def _empty_truth(config: WorldConfig) -> dict[str, Any]:
    return {
        "info": {"description": "drawn world", "world_version": config.version, "config": config.model_dump()},
        "licenses": [],
        "videos": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(CATEGORIES, start=1)
        ],
        "annotations": [],
    }


def _add_truth(truth: dict[str, Any], video: DrawnVideo, file_names: list[str]) -> None:
    length, height, width = video.frames.shape[:3]
    video_id = len(truth["videos"]) + 1
    size = {"height": height, "width": width}
    truth["videos"].append({"id": video_id, **size, "length": length, "file_names": file_names})
    for track in video.tracks:
        rles = masks.encode(track.masks)
        areas = masks.measure_px(rles)[0].tolist()
        boxes = masks.boxes_px(rles, height, width)
        boxes[:, 2:] -= boxes[:, :2]  # the format wants (x, y, width, height)
        truth["annotations"].append(
            {
                "id": len(truth["annotations"]) + 1,
                "video_id": video_id,
                "category_id": track.category_id,
                "iscrowd": 0,
                **size,
                "length": 1,
                "segmentations": [
                    {"size": [height, width], "counts": rle.decode()} if area else None
                    for rle, area in zip(rles, areas, strict=True)
                ],
                "bboxes": [box.tolist() if area else None for box, area in zip(boxes, areas, strict=True)],
                "areas": [area or None for area in areas],
            }
        )


def _write_film(file: Path, pictures: Iterator[UInt8[np.ndarray, "H W 3"]], config: WorldConfig) -> None:
    with av.open(str(file), "w") as film:
        stream = film.add_stream("libx264", FRAMES_PER_SECOND, options={"crf": "18", "preset": "veryfast"})
        stream.codec_context.thread_count = 1  # the encoder's choices depend on the number of threads
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for picture in pictures:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
