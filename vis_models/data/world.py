"""The drawn world: videos whose truth is known, because we drew them.

Shapes of six categories glide, turn and grow over textured ground; they pass behind each other and behind stones of
no category, leave the frame and come back. A category is told by silhouette alone: colour and texture are random.
The world is written as a YouTube-VIS data set (frames and truth) or as an archive of H.264 films (no truth).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vis_models import masks
from vis_models.data.world_scene import CATEGORIES, WORLD_VERSION, Scene, WorldConfig
from vis_models.types import BadConfig

__all__ = ["CATEGORIES", "WORLD_VERSION", "DrawnTrack", "DrawnVideo", "WorldConfig", "draw_video", "write_archive",
           "write_youtube_vis"]  # fmt: skip

MIN_VISIBLE_PX = 8
"""A visible rest smaller than this counts as not visible: nobody could name it."""
FIRST_INDEX = {"train": 0, "val": 1_000_000, "archive": 2_000_000}
"""Training, validation and archive never share a video, whatever their sizes."""
FRAMES_PER_SECOND = 10
JPEG_QUALITY = 92

Progress = Callable[[str, int, int, dict[str, Any]], None]


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
    with _Marker(folder, config, counts) as todo:
        for split, count in counts.items() if todo else ():
            truth = _empty_truth(config)
            for number in range(count):
                video = draw_video(config, FIRST_INDEX[split] + number)
                names = _write_frames(video, folder / split / "JPEGImages", f"{number:06d}")
                _add_truth(truth, video, names)
                if progress:
                    progress(f"draw {split}", number + 1, count, {})
            (folder / f"{split}.json").write_text(json.dumps(truth))


def write_archive(config: WorldConfig, folder: Path, videos: int, progress: Progress | None = None) -> None:
    """Write `videos` H.264 films of the world; does nothing where these very films are complete.

    Raises:
        BadConfig: the folder holds something else.
    """
    with _Marker(folder, config, {"archive": videos}) as todo:
        for number in range(videos if todo else 0):
            scene = Scene(config, FIRST_INDEX["archive"] + number)
            _write_film(folder / f"{number:06d}.mp4", (scene.frame(time)[0] for time in range(config.frames)), config)
            if progress:
                progress("draw archive", number + 1, videos, {})


class _Marker:
    """`world.json`: says which world a folder holds and whether it is complete. Gives whether there is work to do."""

    def __init__(self, folder: Path, config: WorldConfig, counts: dict[str, int]) -> None:
        self.file = folder / "world.json"
        self.plan = {"world_version": WORLD_VERSION, "config": config.model_dump(), "videos": counts}

    def __enter__(self) -> bool:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(self.file.read_text()) if self.file.exists() else None
        if found == self.plan | {"complete": True}:
            return False
        if found not in (None, self.plan | {"complete": False}) or (not found and any(self.file.parent.iterdir())):
            raise BadConfig(
                f"{self.file.parent} is not empty and holds {found or 'no drawn world'}, expected an empty folder or "
                f"{self.plan}. Name another folder, or delete this one."
            )
        self._write(complete=False)
        return True

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._write(complete=True)

    def _write(self, complete: bool) -> None:
        self.file.write_text(json.dumps(self.plan | {"complete": complete}, indent=1))


def _write_frames(video: DrawnVideo, folder: Path, name: str) -> list[str]:
    (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{name}/{time:05d}.jpg" for time in range(len(video.frames))]
    for frame, file in zip(video.frames, names, strict=True):
        Image.fromarray(frame).save(folder / file, quality=JPEG_QUALITY)
    return names


def _empty_truth(config: WorldConfig) -> dict[str, Any]:
    return {
        "info": {"description": "drawn world", "world_version": WORLD_VERSION, "config": config.model_dump()},
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
        seen = track.masks.any((1, 2))
        rles = masks.encode(track.masks)
        boxes = masks.boxes_px(rles, height, width)
        boxes[:, 2:] -= boxes[:, :2]  # the format wants (x, y, width, height)
        areas = masks.area_px(rles, height, width)
        truth["annotations"].append({
            "id": len(truth["annotations"]) + 1, "video_id": video_id, "category_id": track.category_id, "iscrowd": 0,
            **size, "length": 1,
            "segmentations": [{"size": [height, width], "counts": rle.decode()} if there else None
                              for rle, there in zip(rles, seen, strict=True)],
            "bboxes": [box.tolist() if there else None for box, there in zip(boxes, seen, strict=True)],
            "areas": [area if there else None for area, there in zip(areas, seen, strict=True)],
        })  # fmt: skip


def _write_film(file: Path, pictures: Iterator[UInt8[np.ndarray, "H W 3"]], config: WorldConfig) -> None:
    with av.open(str(file), "w") as film:
        stream = film.add_stream("libx264", FRAMES_PER_SECOND, options={"crf": "18", "preset": "veryfast"})
        stream.codec_context.thread_count = 1  # the encoder's choices depend on the number of threads
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for picture in pictures:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
