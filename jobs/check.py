"""A look before the cost: what would go wrong in a day of training or segmenting, said in a minute, with a page.

Of labels: do all frames decode, at the size that the labels say? Do masks and boxes agree? How many objects of each
class, how many frames a video, which classes does one side of a split have and the other not? Of an archive: what
opens, what does not and why, how much footage there is and how long it would take.

Nothing is changed and nothing stops at the first fault: a fault is a finding, and the others are looked for too.
"""

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, NonNegativeInt

from jobs.archive import DATA_SETS, Archive, VideoSource, read_archive
from jobs.check_page import Sample, write_page
from jobs.deadlines import Hung, Task, decoders
from jobs.frames import open_video, timed_out
from jobs.recipes import TrainJob, build
from jobs.settings import Settings
from jobs.store import Store
from vis_models import masks
from vis_models.config import BadConfig, BadVideo, Config
from vis_models.data.annotations import AnnotatedVideo, TrackLabel, VideoSet, hold_out, read_youtube_vis
from vis_models.data.categories import counterparts
from vis_models.data.dialects import one_form, text_of
from vis_models.data.holdout import HoldOut
from vis_models.data.json_entries import load_json
from vis_models.data.pictures import FORMATS, upright_rgb
from vis_models.progress import Progress

BOX_OFF_PX = 2.0
"""So far may an edge of a box lie from its mask: releases round in more than one way."""
EXAMPLES = 5
FEW_OBJECTS = 10
"""A class with fewer is hardly learned."""
SIDES = ("train", "val")


class CheckJob(Config):
    """What to look at."""

    target: str
    """A data set in the YouTube-VIS format (folder), a JSON with labels, or anything that can be segmented."""
    recipe: str | None = None
    """Training that the data set is meant for: whether its clips fit, and how long loading them takes."""
    seconds: float = Field(60, ge=0)
    """How long frames are decoded, spread evenly over all of them; 0 decodes every one."""
    samples: NonNegativeInt = 6
    """Videos that are drawn in the page."""
    command: str = ""
    """What was typed, for the record."""


class Finding(Config):
    """Something that a person should know."""

    level: Literal["error", "warning", "note"]
    """error: work would stop, or its result would be wrong; warning: it may be meant; note: good to know."""
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.level:11} {self.text}" + "".join(f"\n{'':12}{example}" for example in self.examples)


class Check(Config):
    """What was seen."""

    target: str
    findings: tuple[Finding, ...]
    """Errors first."""
    figures: dict[str, str]
    uri: str
    """Of the page."""

    @property
    def exit_code(self) -> int:
        """0: nothing would stop the work; 1: something would."""
        return int(any(finding.level == "error" for finding in self.findings))


@dataclass
class Seen:
    """What a look brings together."""

    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Class -> side -> objects."""
    samples: list[Sample] = field(default_factory=list)

    def say(self, level: Literal["error", "warning", "note"], text: str, examples: Iterable[str] = ()) -> None:
        self.findings.append(Finding(level=level, text=text, examples=tuple(examples)[:EXAMPLES]))


def quick(train: VideoSet, val: VideoSet) -> Iterator[Finding]:
    """What labels alone say about a training that is about to begin: only what somebody should look at."""
    seen = Seen()
    for side, videos in (("train", train), ("val", val)):
        _count(side, videos, seen)
        _look_for_copies(side, videos, seen)
    compare_sides(train, val, seen)
    return (finding for finding in seen.findings if finding.level != "note")


def check(job: CheckJob, settings: Settings, progress: Progress | None = None) -> Check:
    """Looks at a data set, labels or an archive, and writes a page about it.

    Raises:
        BadConfig: there is nothing at this address, or a file that no reader takes.
    """
    store = Store.open(settings)
    report = progress or (lambda *_: None)
    seen = Seen()
    if sides := _sides(job.target, store):
        _check_labels(sides, job, seen, report)
    else:
        _check_archive(read_archive(job.target, store), job, store, seen, report)
    order = ("error", "warning", "note")
    findings = tuple(sorted(seen.findings, key=lambda finding: order.index(finding.level)))
    uri = write_page(store, job.target, findings, seen.figures, seen.classes, seen.samples, job.command)
    return Check(target=job.target, findings=findings, figures=seen.figures, uri=uri)


def _sides(target: str, store: Store) -> dict[str, Path]:
    """The label files at an address, by what they are for; none where it is an archive."""
    fs, path = store.open_source(target)
    with store.guard(target):
        if fs.isfile(path):
            return {"labels": store.local_copy(target)} if path.endswith(DATA_SETS) else {}
        found = [side for side in SIDES if fs.isfile(f"{path}/{side}.json")]
    if not found:
        return {}
    folder = store.local_copy(target)
    return {side: folder / f"{side}.json" for side in found}


# Labels


def _check_labels(files: dict[str, Path], job: CheckJob, seen: Seen, report: Progress) -> None:
    sets: dict[str, VideoSet] = {}
    for side, file in files.items():
        report(f"read {side}", 0, 1, {})
        sets[side] = read_youtube_vis(file)
        report(f"read {side}", 1, 1, {})
        for note in sets[side].notes:
            seen.say("note", f"{side}: {note}")
        _count(side, sets[side], seen)
        _compare_boxes(side, file, sets[side], seen)
        _look_for_copies(side, sets[side], seen)
    if len(sets) == 2:
        compare_sides(sets["train"], sets["val"], seen)
    speed = _decode(sets, job.seconds, seen, report)
    if job.recipe:
        _check_recipe(build(job.recipe), sets, speed, seen)
    for side, videos in sets.items():
        seen.samples += [Sample.of(side, video, videos) for video in _spread(videos.videos, job.samples // len(sets))]


def _count(side: str, videos: VideoSet, seen: Seen) -> None:
    lengths = sorted(len(video.file_names) for video in videos.videos)
    objects = sorted(len(video.tracks) for video in videos.videos)
    names = {category.id: category.name for category in videos.categories}
    per_class = Counter(names[track.category_id] for video in videos.videos for track in video.tracks)
    for name in names.values():
        seen.classes.setdefault(name, {})[side] = per_class[name]
    in_memory = sum(len(rle) for video in videos.videos for track in video.tracks for rle in track.rles if rle)
    seen.figures |= {
        f"{side}: videos": f"{len(videos.videos)} of {_span(lengths)} frames",
        f"{side}: objects": f"{sum(objects)} of {len(names)} classes, {_span(objects)} in a video",
        f"{side}: labels in memory": f"{in_memory / 2**20:.0f} MiB of masks in every process that trains",
    }
    if not videos.has_labels:
        seen.say("warning", f"{side} has no labels: nothing can be learned from it or scored against it")
        return
    if bare := [video for video in videos.videos if not video.tracks]:
        seen.say(
            "note", f"{side}: {_many(len(bare), 'video')} without an object, which train nothing", map(_name, bare)
        )
    if unused := [name for name in names.values() if not per_class[name]]:
        seen.say("note", f"{side}: {_many(len(unused), 'class', 'classes')} without an object", unused)
    if few := [f"{name}: {per_class[name]}" for name in names.values() if 0 < per_class[name] < FEW_OBJECTS]:
        seen.say("note", f"{side}: {_many(len(few), 'class', 'classes')} with fewer than {FEW_OBJECTS} objects", few)
    never = [(video, track) for video in videos.videos for track in video.tracks if not any(track.rles)]
    if never:
        seen.say("warning", f"{side}: {_many(len(never), 'object')} visible in no frame", _objects(never))


def _compare_boxes(side: str, file: Path, videos: VideoSet, seen: Seen) -> None:
    """Boxes are not read anywhere else: where they contradict the masks, one of the two was made from other frames."""
    content = one_form(load_json(file, "a YouTube-VIS JSON", "videos and categories"), str(file)).content
    boxes = {text_of(entry.get("id")): entry.get("bboxes") for entry in content.get("annotations") or ()}
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
            f"{side}: boxes of {_many(len(off), 'object')} lie more than {BOX_OFF_PX:g} px from their masks; models "
            "learn from masks",
            _objects(off),
        )
    if total:
        seen.figures[f"{side}: boxes"] = f"{total} compared with their masks"


def _look_for_copies(side: str, videos: VideoSet, seen: Seen) -> None:
    """Two tracks of a video with the same masks: an object that was labelled twice."""
    twice = []
    for video in videos.videos:
        known: dict[tuple[bytes | None, ...], TrackLabel] = {}
        for track in video.tracks:
            if any(track.rles) and known.setdefault(track.rles, track) is not track:
                twice.append((video, track))
    if twice:
        seen.say(
            "warning",
            f"{side}: {_many(len(twice), 'object')} with the masks of another of the same video",
            _objects(twice),
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
            seen.say(level, f"{_many(len(lonely), 'class', 'classes')} {says}", lonely)  # type: ignore[arg-type]
    if ours != theirs and sorted(ours) == sorted(theirs):
        seen.say("note", "train.json and val.json list their classes in another order; they are joined by name")
    elif {c.id: c.name for c in train.categories} != {c.id: c.name for c in val.categories} and ours == theirs:
        seen.say("note", "train.json and val.json number their classes differently; they are joined by name")
    known = {_ends(video) for video in train.videos} - {None}
    if both := [video for video in val.videos if _ends(video) in known]:
        seen.say(
            "warning", f"{_many(len(both), 'video')} of val.json with the frames of one of train.json", map(_name, both)
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


@dataclass
class _Frames:
    """What became of the frames that were looked at."""

    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    decoded: int = 0
    seconds: float = 0.0


def _decode(sets: dict[str, VideoSet], seconds: float, seen: Seen, report: Progress) -> float:
    """Looks at the head of every frame and decodes as many as there is time for. Returns frames a second of a core."""
    places = [(video, n) for side in sets.values() for video in side.videos for n in range(len(video.file_names))]
    found = _Frames()
    until = time.monotonic() + seconds if seconds else float("inf")

    def look(place: tuple[AnnotatedVideo, int]) -> None:
        video, index = place
        file = video.frames_dir / video.file_names[index]
        where = f"video {video.video_id}, frame {index}: {file}"
        size, stated = (video.width, video.height), (video.height, video.width)
        try:
            with Image.open(file, formats=FORMATS) as picture:
                got = picture.size
                if size in (got, got[::-1]) and (got != size or time.monotonic() < until):
                    began = time.thread_time()
                    got = upright_rgb(picture, stated).size
                    found.seconds += time.thread_time() - began
                    found.decoded += got == size
            if got != size:
                said = f"{where} is {got[0]}x{got[1]}, the labels say {size[0]}x{size[1]}"
                (found.swapped if got == stated else found.resized).append(said)
        except FileNotFoundError:
            found.missing.append(where)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            found.broken.append(f"{where}: {error}")

    with ThreadPoolExecutor(_cores(), thread_name_prefix="look") as pool:
        for done, _ in enumerate(pool.map(look, _stirred(places)), start=1):
            report("look at frames", done, len(places), {"decoded": found.decoded})
    total = len(places)
    for level, group, says in (
        ("error", found.missing, "not there"),
        ("error", found.broken, "not to be decoded"),
        ("error", found.swapped, "with width and height swapped: the labels, or the frames, were turned"),
        ("error", found.resized, "of another size than the labels say"),
    ):
        if group:
            seen.say(level, f"{_many(total, 'frame')}, {len(group)} of them {says}", sorted(group))  # type: ignore[arg-type]
    seen.figures["frames"] = f"{total}, all their heads read, {found.decoded} of them decoded"
    bad = sum(map(len, (found.missing, found.broken, found.swapped, found.resized)))
    if late := total - bad - found.decoded:
        seen.say("note", f"{_many(late, 'frame')} not decoded in this time; `--seconds 0` decodes all")
    return found.decoded / found.seconds if found.seconds else 0.0


def _check_recipe(job: TrainJob, sets: dict[str, VideoSet], speed: float, seen: Seen) -> None:
    """Whether the data set is what a recipe needs, and the least time that loading it takes."""
    videos = sets.get("train") or next(iter(sets.values()))
    if job.hold_out:
        videos = _held_out(videos, job.hold_out, seen)
    for stage in job.stages:
        fit = [video for video in videos.videos if video.tracks and len(video.file_names) >= stage.clip_length]
        left_out = len(videos.videos) - len(fit)
        what = f"stage {stage.name} of {job.recipe} takes clips of {stage.clip_length} frames"
        if not fit:
            seen.say("error", f"{what}: no video has so many and an object in them")
        elif left_out:
            seen.say("note", f"{what}: {left_out} of {len(videos.videos)} videos are shorter or empty, and left out")
        frames = stage.iterations * stage.batch_size * stage.clip_length
        if speed:
            seen.figures[f"stage {stage.name}"] = (
                f"{stage.iterations:,} iterations decode {frames:,} frames: {_duration(frames / speed)} of one core, "
                "besides the steps themselves"
            )


def _held_out(videos: VideoSet, rule: HoldOut, seen: Seen) -> VideoSet:
    try:
        train, held = hold_out(videos, rule)
    except BadConfig as error:
        seen.say("error", str(error))
        return videos
    seen.figures[f"rule {rule}"] = f"{len(train.videos)} videos to train on, {len(held.videos)} held out"
    return train


def _objects(pairs: Iterable[tuple[AnnotatedVideo, TrackLabel]]) -> Iterator[str]:
    return (f"object {track.track_id} of {_name(video)}" for video, track in pairs)


def _name(video: AnnotatedVideo) -> str:
    return f"video {video.video_id} ({os.path.dirname(video.file_names[0]) or video.file_names[0]})"


# Archives


def _check_archive(archive: Archive, job: CheckJob, store: Store, seen: Seen, report: Progress) -> None:
    """Opens films and frame folders and decodes the first frame of each."""
    until = time.monotonic() + job.seconds if job.seconds else float("inf")
    opened: dict[str, tuple[int, int, int | None, float | None]] = {}
    errors: dict[str, list[str]] = defaultdict(list)
    skipped: list[str] = []

    def look(source: VideoSource, _: Task[None]) -> None:
        if time.monotonic() > until:
            skipped.append(source.video_id)
            return
        with open_video(source, store) as video:
            opened[source.video_id] = (video.info.width, video.info.height, *video.promised())

    with decoders(_cores(), store.settings.decode_timeout_s) as pool:
        looks = [(source, pool.submit(partial(look, source))) for source in _stirred(archive.videos)]
        for done, (source, task) in enumerate(looks, start=1):
            try:
                pool.result(task)
            except BadVideo as error:
                errors[error.code].append(str(error))
            except Hung as hung:
                errors["timeout"].append(str(timed_out(source, hung.seconds, 0)))
            report("open videos", done, len(looks), {"errors": sum(map(len, errors.values()))})
    total = len(archive.videos)
    for code, said in sorted(errors.items(), key=lambda item: -len(item[1])):
        seen.say("warning", f"{_many(total, 'video')}, {len(said)} of them for the table errors: {code}", sorted(said))
    for row in archive.passed_over:
        seen.say("note", f"{_many(row.files, 'file')} of kind {row.kind} passed over: {row.why}", [row.first])
    if skipped:
        seen.say("note", f"{_many(len(skipped), 'video')} not opened in this time; `--seconds 0` opens all", skipped)
    sizes = Counter(f"{width}x{height}" for width, height, _, _ in opened.values())
    known_s = [seconds for *_, seconds in opened.values() if seconds]
    frames = [count for _, _, count, _ in opened.values() if count]
    more = total / len(opened) if opened and skipped else 1.0
    about = "about " if skipped else ""
    seen.figures |= {
        "videos": f"{total}, {len(opened)} open, {sum(map(len, errors.values()))} do not",
        "bytes": f"{sum(source.size_bytes for source in archive.videos) / 1e6:,.1f} MB",
        "sizes": ", ".join(f"{count} x {size}" for size, count in sizes.most_common(5)) or "none",
        "footage": f"{about}{_duration(more * sum(known_s))}, {more * sum(frames):,.0f} frames, as the headers of "
        f"{_many(len(frames), 'video')} say",
    }
    _forecast(store, more * sum(frames), seen)
    if not opened:
        seen.say("error", "no video could be opened")
    first = {source.video_id: source for source in archive.videos}
    for video_id in _spread(sorted(opened), job.samples):
        width, height, *_ = opened[video_id]
        seen.samples.append(Sample.of_archive(first[video_id], (height, width), store))


def _forecast(store: Store, frames: float, seen: Seen) -> None:
    """How long segmenting takes at the speed of the newest plan of this store."""
    played = [s for s in store.snapshots() if s.seconds.get("wall") and s.counts.get("frames")]
    if not played or not frames:
        seen.figures["time"] = "unknown: nothing was segmented here yet"
        return
    rate = played[-1].counts["frames"] / played[-1].seconds["wall"]
    model = played[-1].lineage.get("model_name", "a model")
    seen.figures["time"] = (
        f"{_duration(frames / rate)} of one worker at {rate:.0f} frames/s, as {model} played "
        f"{os.path.basename(played[-1].archive)}; larger frames take longer"
    )


# Both


def _cores() -> int:
    return max(2, os.cpu_count() or 1)


def _stirred(things: Sequence[Any]) -> list[Any]:
    """In an order in which every beginning is a fair sample of the whole."""
    return [things[n] for n in np.random.default_rng(0).permutation(len(things))]


def _spread(things: Sequence[Any], count: int) -> list[Any]:
    """So many, evenly spread."""
    return [things[n] for n in sorted({*np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int)})]


def _many(number: int, one: str, more: str = "") -> str:
    """`1 class`, `2 classes`."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


def _span(counts: Sequence[int]) -> str:
    """Least, median and most."""
    if not counts:
        return "0"
    middle = counts[len(counts) // 2]
    return f"{counts[0]} to {counts[-1]} (median {middle})" if counts[0] != counts[-1] else f"{counts[0]}"
