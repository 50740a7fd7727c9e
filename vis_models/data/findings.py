"""What labels alone say about a data set before anything is trained on it: findings and figures, with names.

Nothing stops at the first fault: a fault is a finding, and the others are looked for too.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vis_models import masks
from vis_models.config import Config
from vis_models.data.annotations import AnnotatedVideo, TrackLabel, VideoSet
from vis_models.data.categories import counterparts
from vis_models.data.dialects import is_of_images, one_form, single_images, text_of
from vis_models.data.json_entries import load_json

BOX_OFF_PX = 2.0
"""So far may an edge of a box lie from its mask: releases round in more than one way."""
EXAMPLES = 5
FEW_OBJECTS = 10
"""A class with fewer is hardly learned."""


class Finding(Config):
    """Something that a person should know."""

    level: Literal["error", "warning", "note"]
    """error: work would stop, or its result would be wrong; warning: it may be meant; note: good to know."""
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.level:11} {self.text}" + "".join(f"\n{'':12}{example}" for example in self.examples)


@dataclass
class Seen:
    """What a look brings together."""

    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Class -> side -> objects."""

    def say(self, level: Literal["error", "warning", "note"], text: str, examples: Iterable[str] = ()) -> None:
        self.findings.append(Finding(level=level, text=text, examples=tuple(examples)[:EXAMPLES]))


def quick(train: VideoSet, val: VideoSet) -> Iterator[Finding]:
    """What labels alone say about a training that is about to begin: only what somebody should look at."""
    seen = Seen()
    for side, videos in (("train", train), ("val", val)):
        count(side, videos, seen)
        look_for_copies(side, videos, seen)
    compare_sides(train, val, seen)
    return (finding for finding in seen.findings if finding.level != "note")


def count(side: str, videos: VideoSet, seen: Seen) -> None:
    lengths = sorted(len(video.file_names) for video in videos.videos)
    per_video = sorted(len(video.tracks) for video in videos.videos)
    names = {category.id: category.name for category in videos.categories}
    per_class = Counter(names[track.category_id] for video in videos.videos for track in video.tracks)
    for name in names.values():
        seen.classes.setdefault(name, {})[side] = per_class[name]
    in_memory = sum(len(rle) for video in videos.videos for track in video.tracks for rle in track.rles if rle)
    seen.figures |= {
        f"{side}: videos": f"{len(videos.videos)} of {span(lengths)} frames",
        f"{side}: objects": f"{sum(per_video)} of {len(names)} classes, {span(per_video)} in a video",
        f"{side}: labels in memory": f"{in_memory / 2**20:.0f} MiB of masks in every process that trains",
    }
    if not videos.has_labels:
        seen.say("warning", f"{side} has no labels: nothing can be learned from it or scored against it")
        return
    if bare := [video for video in videos.videos if not video.tracks]:
        seen.say(
            "note", f"{side}: {many(len(bare), 'video')} without an object, which train nothing", map(name_of, bare)
        )
    if unused := [name for name in names.values() if not per_class[name]]:
        seen.say("note", f"{side}: {many(len(unused), 'class', 'classes')} without an object", unused)
    if few := [f"{name}: {per_class[name]}" for name in names.values() if 0 < per_class[name] < FEW_OBJECTS]:
        seen.say("note", f"{side}: {many(len(few), 'class', 'classes')} with fewer than {FEW_OBJECTS} objects", few)
    never = [(video, track) for video in videos.videos for track in video.tracks if not any(track.rles)]
    if never:
        seen.say("warning", f"{side}: {many(len(never), 'object')} visible in no frame", objects(never))


def compare_boxes(side: str, file: Path, videos: VideoSet, seen: Seen) -> None:
    """Boxes are not read anywhere else: where they contradict the masks, one of the two was made from other frames."""
    content = load_json(file, "a COCO or YouTube-VIS JSON", "categories")
    if is_of_images(content):
        entries = single_images(content, str(file))[0].get("annotations") or ()
        boxes = {text_of(entry.get("id")): [entry.get("bbox")] for entry in entries}
    else:
        entries = one_form(content, str(file)).content.get("annotations") or ()
        boxes = {text_of(entry.get("id")): entry.get("bboxes") for entry in entries}
    off, total = [], 0
    for video in videos.videos:
        for track in video.tracks:
            given = boxes.get(text_of(track.track_id))
            if not given or len(given) != len(track.rles):
                continue
            pairs = [(box, rle) for box, rle in zip(given, track.rles, strict=True) if box and rle]
            rows = np.array([box for box, _ in pairs if len(box) == 4], dtype=float).reshape(-1, 4)
            if len(rows) < len(pairs):
                off.append((video, track))
                continue
            rows[:, 2:] += rows[:, :2]
            found = masks.boxes_px([rle for _, rle in pairs], video.height, video.width)
            total += len(pairs)
            if len(rows) and np.abs(rows - found).max() > BOX_OFF_PX:
                off.append((video, track))
    if off:
        seen.say(
            "warning",
            f"{side}: boxes of {many(len(off), 'object')} lie more than {BOX_OFF_PX:g} px from their masks; models "
            "learn from masks",
            objects(off),
        )
    if total:
        seen.figures[f"{side}: boxes"] = f"{total} compared with their masks"


def look_for_copies(side: str, videos: VideoSet, seen: Seen) -> None:
    """Two tracks of a video with the same masks: an object that was labelled twice."""
    twice = []
    for video in videos.videos:
        known: dict[tuple[bytes | None, ...], TrackLabel] = {}
        for track in video.tracks:
            if any(track.rles) and known.setdefault(tuple(track.rles), track) is not track:
                twice.append((video, track))
    if twice:
        seen.say(
            "warning",
            f"{side}: {many(len(twice), 'object')} with the masks of another of the same video",
            objects(twice),
        )


def compare_sides(train: VideoSet, val: VideoSet, seen: Seen) -> None:
    """Classes that one side has and the other not, or calls by another id, and videos that are on both."""
    ours, theirs = ([category.name for category in side.categories] for side in (train, val))
    for here, there, level, says in (
        (ours, theirs, "note", "learned and never scored: val.json does not have them"),
        (theirs, ours, "warning", "of val.json never learned: train.json does not have them"),
    ):
        lonely = [name for name, other in counterparts(here, there).items() if other is None]
        if lonely:
            seen.say(level, f"{many(len(lonely), 'class', 'classes')} {says}", lonely)  # type: ignore[arg-type]
    if ours != theirs and sorted(ours) == sorted(theirs):
        seen.say("note", "train.json and val.json list their classes in another order; they are joined by name")
    elif {c.id: c.name for c in train.categories} != {c.id: c.name for c in val.categories} and ours == theirs:
        seen.say("note", "train.json and val.json number their classes differently; they are joined by name")
    known = {_ends(video) for video in train.videos} - {None}
    if both := [video for video in val.videos if _ends(video) in known]:
        seen.say(
            "warning",
            f"{many(len(both), 'video')} of val.json with the frames of one of train.json",
            map(name_of, both),
        )


def _ends(video: AnnotatedVideo) -> str | None:
    """What the first and the last frame hold, wherever they lie; None: they cannot be read."""
    digest = hashlib.sha256(str(len(video.file_names)).encode())
    try:
        for name in (video.file_names[0], video.file_names[-1]):
            digest.update((video.frames_dir / name).read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


# In words


def objects(pairs: Iterable[tuple[AnnotatedVideo, TrackLabel]]) -> Iterator[str]:
    return (f"object {track.track_id} of {name_of(video)}" for video, track in pairs)


def name_of(video: AnnotatedVideo) -> str:
    return f"video {video.video_id} ({os.path.dirname(video.file_names[0]) or video.file_names[0]})"


def many(number: int, one: str, more: str = "") -> str:
    """`1 class`, `2 classes`."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def span(counts: Sequence[int]) -> str:
    """Least, median and most."""
    if not counts:
        return "0"
    middle = counts[len(counts) // 2]
    return f"{counts[0]} to {counts[-1]} (median {middle})" if counts[0] != counts[-1] else f"{counts[0]}"
