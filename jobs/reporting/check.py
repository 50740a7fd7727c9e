"""A look before the cost: what would go wrong in a day of training or segmenting, said in a minute, with a page.

Of labels: do all frames decode, at the size that the labels say? Do masks and boxes agree? How many objects of each
class, how many frames a video, which classes does one side of a split have and the other not? Of an archive: what
opens, what does not and why, how much footage there is and how long it would take.

Nothing is changed and nothing stops at the first fault: a fault is a finding, and the others are looked for too.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, NonNegativeInt

from jobs.archives.archive import DATA_SETS, Archive, VideoSource, read_archive
from jobs.archives.bad_videos import timed_out
from jobs.archives.deadlines import Hung, Task, decoders
from jobs.archives.frames import open_video
from jobs.reporting.check_page import Sample, write_page
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import build
from vis_models.config import BadConfig, BadVideo, Config
from vis_models.data.annotations import AnnotatedVideo, VideoSet, hold_out
from vis_models.data.coco import read_labels
from vis_models.data.findings import Finding, Seen, compare_boxes, compare_sides, count, look_for_copies, many
from vis_models.data.holdout import HoldOut
from vis_models.data.pictures import FORMATS, upright_rgb
from vis_models.progress import Progress

SIDES = ("train", "val")


class CheckJob(Config):
    """What to look at."""

    target: str
    """A data set (folder), a JSON with labels of videos or of single images, or anything that can be segmented."""
    recipe: str | None = None
    """Training that the data set is meant for: whether its clips fit, and how long loading them takes."""
    seconds: float = Field(60, ge=0)
    """How long frames are decoded, spread evenly over all of them; 0 decodes every one."""
    samples: NonNegativeInt = 6
    """Videos that are drawn in the page."""
    command: str = ""
    """What was typed, for the record."""


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


def check(job: CheckJob, settings: Settings, progress: Progress | None = None) -> Check:
    """Looks at a data set, labels or an archive, and writes a page about it.

    Raises:
        BadConfig: there is nothing at this address, or a file that no reader takes.
    """
    store = Store.open(settings)
    report = progress or (lambda *_: None)
    seen = Seen()
    if sides := _sides(job.target, store):
        samples = _check_labels(sides, job, seen, report)
    else:
        samples = _check_archive(read_archive(job.target, store), job, store, seen, report)
    order = ("error", "warning", "note")
    findings = tuple(sorted(seen.findings, key=lambda finding: order.index(finding.level)))
    uri = write_page(store, job.target, findings, seen.figures, seen.classes, samples, job.command)
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


def _check_labels(files: dict[str, Path], job: CheckJob, seen: Seen, report: Progress) -> list[Sample]:
    sets: dict[str, VideoSet] = {}
    refused: list[BadConfig] = []
    for side, file in files.items():
        report(f"read {side}", 0, 1, {})
        try:
            sets[side] = read_labels(file)
        except BadConfig as error:
            refused.append(error)
            seen.say("error", f"{side}: {error}")
            continue
        report(f"read {side}", 1, 1, {})
        for note in sets[side].notes:
            seen.say("note", f"{side}: {note}")
        count(side, sets[side], seen)
        compare_boxes(side, file, sets[side], seen)
        look_for_copies(side, sets[side], seen)
    if not sets:
        raise BadConfig("; ".join(str(error) for error in refused))
    if len(sets) == 2:
        compare_sides(sets["train"], sets["val"], seen)
    speed = _decode(sets, job.seconds, seen, report)
    if job.recipe:
        _check_recipe(build(job.recipe), sets, speed, seen)
    return [
        Sample.of(side, video, videos)
        for side, videos in sets.items()
        for video in _spread(videos.videos, job.samples // len(sets))
    ]


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
            seen.say(level, f"{many(total, 'frame')}, {len(group)} of them {says}", sorted(group))  # type: ignore[arg-type]
    seen.figures["frames"] = f"{total}, all their heads read, {found.decoded} of them decoded"
    bad = sum(map(len, (found.missing, found.broken, found.swapped, found.resized)))
    if late := total - bad - found.decoded:
        seen.say("note", f"{many(late, 'frame')} not decoded in this time; `--seconds 0` decodes all")
    return found.decoded / found.seconds if found.seconds else 0.0


def _check_recipe(job: TrainJob, sets: dict[str, VideoSet], speed: float, seen: Seen) -> None:
    """Whether the data set is what a recipe needs, and the least time that loading it takes."""
    videos = sets.get("train") or next(iter(sets.values()))
    if job.hold_out:
        videos = _held_out(videos, job.hold_out, seen)
    for stage in job.stages:
        length = stage.samples.length
        fit = [video for video in videos.videos if video.tracks and len(video.file_names) >= length]
        left_out = len(videos.videos) - len(fit)
        what = f"stage {stage.name} of {job.recipe} takes clips of {length} frames"
        if not fit:
            seen.say("error", f"{what}: no video has so many and an object in them")
        elif left_out:
            seen.say("note", f"{what}: {left_out} of {len(videos.videos)} videos are shorter or empty, and left out")
        frames = stage.iterations * stage.batch_size * length
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


# Archives


def _check_archive(archive: Archive, job: CheckJob, store: Store, seen: Seen, report: Progress) -> list[Sample]:
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
        seen.say("warning", f"{many(total, 'video')}, {len(said)} of them for the table errors: {code}", sorted(said))
    for row in archive.passed_over:
        seen.say("note", f"{many(row.files, 'file')} of kind {row.kind} passed over: {row.why}", [row.first])
    if skipped:
        seen.say("note", f"{many(len(skipped), 'video')} not opened in this time; `--seconds 0` opens all", skipped)
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
        f"{many(len(frames), 'video')} say",
    }
    _forecast(store, more * sum(frames), seen)
    if not opened:
        seen.say("error", "no video could be opened")
    first = {source.video_id: source for source in archive.videos}
    return [
        Sample.of_archive(first[video_id], opened[video_id][1::-1], store)
        for video_id in _spread(sorted(opened), job.samples)
    ]


def _forecast(store: Store, frames: float, seen: Seen) -> None:
    """How long segmenting takes at the speed of the newest plan of this store."""
    played = [s for s in store.plans() if s.seconds.get("wall") and s.counts.get("frames")]
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


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"
