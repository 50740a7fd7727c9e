"""Reader of the YouTube-VIS format: 2019, 2021 and OVIS differ by what their JSON says, and only that is believed.

Format: `videos {id, height, width, file_names}`, `categories {id, name}`, `annotations {id, video_id, category_id,
iscrowd, segmentations[T]}`, T = len(file_names). A segmentation is null where the object is not visible, else
compressed RLE, RLE with a list of counts, or polygons. Sizes come from the video, never from the annotation. What
other tools write for it is brought to this form first, see `dialects.py`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vis_models import masks
from vis_models.config import Config
from vis_models.data.dialects import VideoId, one_form
from vis_models.data.frame_names import places, stays_inside
from vis_models.data.holdout import HoldOut, require_sides, split, split_name
from vis_models.data.json_entries import FORMAT_REMEDY, Entry, complaint, load_json, unique
from vis_models.data.pictures import FORMATS, upright_rgb


class Category(Config):
    """What the data set calls a kind of object. Ids are the data set's own: they need not count from 1."""

    id: int
    name: str


@dataclass(frozen=True)
class TrackLabel:
    """One object through one video."""

    track_id: int
    """The annotation's id, unique in the data set."""
    category_id: int
    crowd: bool
    rles: Sequence[bytes | None]
    """One per frame at the video's size (COCO compressed counts); None where it is not visible. A tuple, or what reads
    a mask when it is asked for."""


@dataclass(frozen=True)
class AnnotatedVideo:
    """One video: where its frames are and what is in them."""

    video_id: VideoId
    height: int
    width: int
    file_names: tuple[str, ...]
    """One per frame, in order, below `frames_dir`. The frames need not be consecutive frames of the film."""
    frames_dir: Path
    tracks: tuple[TrackLabel, ...]

    def read_frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame `index` as RGB.

        Raises:
            BadConfig: the file is missing, is no picture, or has another size than the video.
        """
        file = self.frames_dir / self.file_names[index]
        where = f"{file} (video {self.video_id}, frame {index})"
        remedy = "Copy the frames of the data set again, or name the folder that has those of this release."
        size = (self.width, self.height)
        try:
            with Image.open(file, formats=FORMATS) as picture:
                got = picture.size
                if size in (got, got[::-1]):  # before anything of another size is allocated
                    rgb = upright_rgb(picture, (self.height, self.width))
                    got = rgb.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise complaint(where, "a picture", str(error), remedy) from error
        if got != size:
            raise complaint(where, f"{self.width}x{self.height} px", f"{got[0]}x{got[1]}", remedy)
        return np.asarray(rgb)


@dataclass(frozen=True)
class VideoSet:
    """A data set, or one side of a split of it."""

    categories: tuple[Category, ...]
    """In the order of the JSON; a model's class index is the place in this order."""
    videos: tuple[AnnotatedVideo, ...]
    source: str = ""
    """The file it was read from, for messages and provenance."""
    notes: tuple[str, ...] = ()
    """What was taken as something else than the file says, a sentence each."""

    @property
    def has_labels(self) -> bool:
        """False for `valid.json` and `test.json` as published: their labels are not public."""
        return any(video.tracks for video in self.videos)

    def require_labels(self) -> None:
        """Raises BadConfig when there is nothing to learn from or to score against."""
        if not self.has_labels:
            remedy = (
                "YouTube-VIS and OVIS publish no labels of valid and test: hold out a part of train instead, "
                "or send results.json to the server of the benchmark."
            )
            raise complaint(self.source, "annotations", f"{len(self.videos)} videos without any", remedy)

    def check_frames(self) -> None:
        """Raises BadConfig when a frame file is missing or empty, before any expensive work."""
        files = ((video, video.frames_dir / name) for video in self.videos for name in video.file_names)
        missing = [(video, file) for video, file in files if not file.is_file() or not file.stat().st_size]
        if missing:
            video, file = missing[0]
            total = sum(len(video.file_names) for video in self.videos)
            raise complaint(
                f"{self.source}: video {video.video_id}",
                f"a frame at {file}",
                f"no file, or an empty one; so for {len(missing)} of {total} frames",
                "Copy the frames of the data set again, or name the folder that has them (`frames`).",
            )


def read_youtube_vis(json_path: Path | str, frames_dir: Path | str | None = None) -> VideoSet:
    """Read and check a JSON (or .json.gz) of the YouTube-VIS format or one of its dialects.

    Args:
        json_path: with or without annotations, see `VideoSet.has_labels`.
        frames_dir: what `file_names` are relative to; by default `JPEGImages` where the releases have it, beside
            the JSON or in the folder beside it that has its name.

    Raises:
        BadConfig: no such file, broken JSON, another format, or an entry that contradicts the format or another entry.
    """
    path = Path(json_path)
    form = one_form(load_json(path, "a YouTube-VIS JSON", "videos and categories"), str(path))
    whole = Entry(form.content, str(path))
    names = {number: entry.text("name") for number, entry in unique(whole.entries("categories")).items()}
    videos = {number: _video(number, entry) for number, entry in unique(whole.entries("videos")).items()}
    tracks: dict[VideoId, list[TrackLabel]] = {number: [] for number in videos}
    labels = whole.entries("annotations") if whole.value.get("annotations") else []
    for number, entry in unique(labels).items():
        video = videos[entry.reference("video_id", videos)]
        tracks[video.video_id].append(
            TrackLabel(
                track_id=number,
                category_id=entry.reference("category_id", names),
                crowd=bool(entry.value.get("iscrowd")),
                rles=_rles(entry, video),
            )
        )
    folders = [Path(frames_dir), Path(frames_dir) / form.root] if frames_dir else places(path.as_posix(), form.root)
    root = first_with_frame([*map(Path, folders)], [*videos.values()])
    return VideoSet(
        categories=tuple(Category(id=number, name=name) for number, name in names.items()),
        videos=tuple(replace(video, frames_dir=root, tracks=tuple(tracks[number])) for number, video in videos.items()),
        source=str(path),
        notes=form.notes,
    )


def _video(number: VideoId, entry: Entry) -> AnnotatedVideo:
    """A checked entry of `videos`, still without its frames and tracks."""
    height, width, names = entry.integer("height"), entry.integer("width"), entry.list("file_names")
    if min(height, width) < 1:
        raise complaint(entry.where, "a size in pixels", f"{width}x{height}", FORMAT_REMEDY)
    if not names or not all(isinstance(name, str) and stays_inside(name) for name in names):
        raise complaint(f"{entry.where}, file_names", "relative paths, at least one", f"{names[:3]}", FORMAT_REMEDY)
    if entry.value.get("length", len(names)) != len(names):
        got = f"{len(names)} of them"
        raise complaint(entry.where, f"{entry.value['length']} file_names (its length)", got, FORMAT_REMEDY)
    return AnnotatedVideo(number, height, width, tuple(names), frames_dir=Path(), tracks=())


def _rles(entry: Entry, video: AnnotatedVideo) -> tuple[bytes | None, ...]:
    """The masks of one annotation; every list that has one item per frame must have exactly that many."""
    where = f"{entry.where} of video {video.video_id}"
    for key in ("segmentations", "bboxes", "areas"):
        if key == "segmentations" or entry.value.get(key):  # the other two are not needed, but must not contradict
            items = len(entry.list(key))
            if items != len(video.file_names):
                expected = f"{len(video.file_names)} {key}, one per frame"
                raise complaint(where, expected, str(items), "Mend the list: its items cannot be given to frames.")
    rles = []
    for frame, segmentation in enumerate(entry.list("segmentations")):
        try:
            rles.append(masks.from_coco(segmentation, video.height, video.width))
        except Exception as error:  # pycocotools raises bare Exception for what it does not understand
            expected = f"null or a mask of {video.width}x{video.height} px"
            remedy = "Give the video and its masks the size of the frames, or convert the masks to it."
            raise complaint(f"{where}, frame {frame}", expected, str(error), remedy) from error
    return tuple(rles)


def first_with_frame(folders: Sequence[Path], videos: Sequence[AnnotatedVideo]) -> Path:
    """The first folder that has the first frame; else the first folder, for `check_frames` to complain about."""
    first = next((video.file_names[0] for video in videos), "")
    return next((folder for folder in folders if (folder / first).is_file()), folders[0])


def as_youtube_vis(videos: VideoSet) -> dict[str, Any]:
    """The content of a JSON that says what the set says, `areas` left to the masks."""
    annotations = [
        {
            "id": track.track_id,
            "video_id": video.video_id,
            "category_id": track.category_id,
            "iscrowd": int(track.crowd),
            "segmentations": [
                rle and {"size": [video.height, video.width], "counts": rle.decode()} for rle in track.rles
            ],
        }
        for video in videos.videos
        for track in video.tracks
    ]
    listed = [
        {"id": video.video_id, "height": video.height, "width": video.width, "file_names": [*video.file_names]}
        for video in videos.videos
    ]
    return {
        "videos": listed,
        "categories": [category.model_dump() for category in videos.categories],
        "annotations": annotations,
    }


def hold_out(videos: VideoSet, rule: HoldOut) -> tuple[VideoSet, VideoSet]:
    """The videos to train on, and those held out for scoring. Raises BadConfig: one of these is empty."""
    require_sides(videos.videos, rule, videos.source)
    train, held = split(videos.videos, rule)
    return replace(videos, videos=tuple(train)), replace(videos, videos=tuple(held))


def split_hash(*parts: VideoSet) -> str:
    """Names a split: equal when and only when every part has the same videos, in whatever order."""
    return split_name(*(part.videos for part in parts))


def digest(videos: VideoSet) -> str:
    """Names what a data set says and shows: labels, categories, and the frame files by size and time."""
    content = hashlib.sha256(repr(videos.categories).encode())
    for video in videos.videos:
        files = [(video.frames_dir / name).stat() for name in video.file_names]
        content.update(repr(video).encode())
        content.update(repr([(file.st_size, file.st_mtime_ns) for file in files]).encode())
    return content.hexdigest()[:16]
