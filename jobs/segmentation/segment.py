"""Archive -> tables: units of work that were never done, a pool of workers, batches of what they finished.

The same command again does what is new in the archive and what may go better now, and nothing else; after a kill it
does the rest; two runs at once over one archive may do a video twice, and one of the two is published.
"""

import gc
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pydantic import Field, PositiveInt

from jobs import models, tables
from jobs.archives.archive import DATA_SETS, Archive, VideoSource, read_archive
from jobs.archives.sampling import asked
from jobs.archives.sources import Sampling, uri_of
from jobs.archives.verify import verified
from jobs.results_files import read_json
from jobs.segmentation.alone import alone
from jobs.segmentation.plans import STAGES, Load, ShardJob, Unit, noted, settings_id, write_shards
from jobs.segmentation.work import STATUSES, Only, Publisher, Work, find_work
from jobs.settings import Settings, without_signature
from jobs.store import Part, Plan, Purpose, Store, code_version, now
from jobs.workers import Say, Workers, may_be_alone, ray_to_join
from vis_models.cards import ModelCard, read_card
from vis_models.config import BadConfig, Config, config_hash
from vis_models.progress import Progress

SHARD_VIDEOS = 16
"""At most so many videos in a shard: enough to play side by side, little to repeat after a kill."""
SHARD_SHARE = 64
"""A shard is about the 64th part of an archive's footage, so that workers share it and a kill costs little of it."""
SHARD_FRAMES = (256, 65_536)
"""About so many frames in a shard, at least and at most. A longer video is a shard of its own."""
FRAME_BYTES = 512
"""Of a film, for each frame that it is taken to hold: its header is not read before it is played. Real films take ten
times as much, drawn ones half; shards that are too small cost less than those that are too large."""
VIDEO_FRAMES = 16
"""What opening a video costs, in frames."""
CRASHES = 8
"""Videos that end their worker and, where they are more than those that were played, the run."""
JUDGED = 64
"""Videos after which `max_failed` is asked."""


class SegmentJob(Config):
    """Segment an archive with a model."""

    archive: str
    """A folder or S3 prefix of films, frame folders, tar and zip files, a glob, a manifest (JSONL, CSV or Parquet with
    `id` and `uri`), a list of addresses (.txt), or a data set in the YouTube-VIS format (JSON)."""
    model: str | None = None
    """A registered name, a model folder or its `s3://` address; None: the model that was registered last."""
    min_score: float = Field(0.05, ge=0, le=1)
    """Tracks under this video score are counted, not written; 0 for evaluation. What was done at a lower one stays
    as it is: questions filter by `tracks.score` and `masks.track_score`."""
    frame_folder_fps: float | None = Field(None, ge=1e-9, le=100_000)
    """Rate of frame folders, which carry no clock; None leaves their times empty, but where names are time stamps."""
    start_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Frames before are left out, in seconds of each video; a row of a manifest may say otherwise."""
    end_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Frames from then on are left out."""
    every_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    """One frame in so many seconds."""
    stride: PositiveInt = 1
    """One of so many frames."""
    keyframes: bool = False
    """Key frames of films only, which are decoded without the others."""
    verify: bool = False
    """Read every byte beforehand: a video is known by the sha256 of its bytes, wherever it lies."""
    slot_recycling: bool | None = None
    """Tracks out of sight give up their slot to new ones, in models that have slots. None: yes, as archives hold long
    videos; no for a data set in the YouTube-VIS format, whose papers do not."""
    labels: str | None = None
    """YouTube-VIS JSON with labels of the archive's videos: their objects take the place of the detector's. The image
    oracle; the tables are no predictions and are only read when their plan is named."""
    videos_at_once: PositiveInt = 8
    """Videos that a worker plays side by side; changes speed and memory, not results."""
    frames_per_batch: PositiveInt = 16
    """Frames that the model encodes in one batch; changes speed and memory, not results."""
    purpose: Purpose = "archive"
    """Queries see archives; the predictions of an evaluation are opened by naming it."""
    retry_errors: bool = False
    """Try every video again that has an error, not only those whose reason lies outside of the file."""
    name: str = ""
    """What the tables call the archive; empty: its address."""
    only: Only | None = None
    """`new`: what was never done; `errors`: what was done and may go better; `missing`: what was not there."""
    max_failed: float = Field(0.5, ge=0, le=1)
    """Share of the videos that may fail before the run ends, after the first 64: one reason lies behind them then, such
    as a disk that is not mounted, and a million rows would say nothing else. 1 never ends it."""
    command: str = ""
    """What was typed, for the record."""

    @property
    def sampling(self) -> Sampling:
        """Which frames are looked at. Raises BadConfig: not to be had at once."""
        return asked(self.start_s, self.end_s, self.every_s, self.stride, self.keyframes)

    @property
    def recycles(self) -> bool:
        """What `slot_recycling` comes down to for this archive."""
        return not self.archive.endswith(DATA_SETS) if self.slot_recycling is None else self.slot_recycling


class SegmentSummary(Config):
    """What there is now, and what it took."""

    plan_id: str
    tables: str
    """Where the published result stands."""
    archive: str
    model: str
    found: int
    """Videos of the archive."""
    known: int
    """Of them were done before."""
    todo: int
    videos: dict[str, int]
    """Videos by status: done, partial, failed."""
    errors: dict[str, int]
    """Rows of the table errors by code."""
    rows: dict[str, int]
    """Rows by table."""
    passed_over: tuple[dict[str, Any], ...]
    """See `Plan.passed_over`."""
    frames: int
    worked: bool
    """False: there was nothing to do."""
    wall_s: float
    """Of this call."""
    frames_per_s: float
    """Of this call, with all it took to start; 0 if it did no work."""
    new_frames: int
    """Of this call."""
    worker_frames_per_s: float
    """Of one worker, while it plays."""
    footage_s: float
    """Seconds of video that this call has played."""
    worker_s: float
    """Seconds that workers played, all together."""
    price: float | None
    """Of an hour of one worker."""
    shares: dict[str, float]
    """Share of each stage in the busy time of the workers, which may overlap: decode, encode, step, rle, write."""

    @property
    def exit_code(self) -> int:
        """0: at least one video gave frames; 1: every video failed."""
        return 0 if self.videos["done"] + self.videos["partial"] else 1

    @property
    def effort(self) -> str:
        """What this call has played, by how much work, at which cost."""
        played, hours = self.footage_s / 3600, self.worker_s / 3600
        rate = f" ({played / hours:.2g} per worker-hour)" if hours else ""
        cost = f", {hours * self.price:.2f} at {self.price:g} an hour" if self.price is not None else ""
        return f"{played:.3g} hours of video in {hours:.3g} worker-hours{rate}{cost}"

    def __str__(self) -> str:
        videos = ", ".join(f"{count} {status}" for status, count in self.videos.items())
        rows = ", ".join(f"{count} {name}" for name, count in self.rows.items() if name != "videos")
        lines = [f"{self.archive}: {videos} ({rows}; {self.frames} frames)"]
        if self.errors:
            reasons = ", ".join(f"{code} {count}" for code, count in self.errors.items())
            lines.append(f'reasons: {reasons}; see `vis query "SELECT video_id, code, detail FROM errors"`')
        if self.passed_over:
            kinds = [f"{row['files']} {row['kind']} ({row['why']})" for row in self.passed_over]
            more = f" and {len(kinds) - 5} more kinds" if len(kinds) > 5 else ""
            lines.append(f'not read: {", ".join(kinds[:5])}{more}; see `vis query "SELECT * FROM passed_over"`')
        if self.worked and self.known:
            lines.insert(0, f"{self.found} videos found, {self.known} done before, {self.todo} to do")
        if self.worked:
            shares = "  ".join(f"{stage} {share:.0%}" for stage, share in self.shares.items())
            speed = f"{self.frames_per_s:.1f} frames/s, {self.worker_frames_per_s:.1f} per worker while it plays"
            lines += [f"{self.wall_s:.1f} s, {speed}; {shares}", self.effort]
        else:
            lines.append(f"nothing to do: all {self.found} videos were segmented with this model and settings before")
        return "\n".join([*lines, f"plan {self.plan_id} is published in {self.tables}"])


def segment(
    job: SegmentJob,
    settings: Settings,
    progress: Progress | None = None,
    *,
    run_id: str = "",
    load: Load | None = None,
) -> SegmentSummary:
    """Plays every video of the archive through the model and publishes what it saw.

    Args:
        run_id: names the run in the tables; made up when empty.
        load: reads a model folder inside the worker; None: `load_model`.

    Raises:
        BadConfig: no archive, no model, or a store that refuses.
    """
    started = time.perf_counter()
    store = Store.open(settings)
    model = models.find(store, job.model)
    card = read_card(store.local_copy(model))
    if progress:
        progress("segment", 0, 1, {"note": f"looks for videos in {job.archive}"})
    work = work_of(store, job, card)
    if not work.todo:
        return _summary(store, work.stand(), work, time.perf_counter() - started)
    run_id = run_id or f"segment-{now()[:19]}-{uuid.uuid4().hex[:6]}".replace(":", "")
    lineage = work.lineage | {"run_id": run_id, "created_at": now()}
    publisher = Publisher(work, work.stand(lineage))
    shards = split(work.todo)
    write_shards(store, run_id, shards)
    how_far = _HowFar(shards, progress, job.max_failed)
    with how_far.stopped(), _pool(settings, how_far.say) as pool:
        shard_job = ShardJob(
            settings=settings,
            workers=pool.workers,
            plan_id=work.plan_id,
            run_id=run_id,
            model=model,
            load=load,
            lineage=lineage,
            lake=work.lake.root,
            archive=work.name,
            slot_recycling=job.recycles,
            halfway=frozenset(noted(store)),
            **job.model_dump(include={"min_score", "videos_at_once", "frames_per_batch", "labels"}),
        )
        with publisher.left_whole():
            for row in pool.play(list(shards), shard_job, how_far.playing):
                if row["bad_config"]:
                    raise BadConfig(f"{row['bad_config']}. {how_far.kept()}" if how_far.done else row["bad_config"])
                part = Part.model_validate_json(row["part"])
                publisher.add(part)
                how_far.committed(part)
    return _summary(store, work.stand(lineage), work, time.perf_counter() - started, publisher)


def work_of(store: Store, job: SegmentJob, card: ModelCard) -> Work:
    """What a job comes to: the units of its archive, and those that are to be done."""
    with _no_collection():
        return _work_of(store, job, card)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for reference cycles, which takes a quarter of the time where millions of rows are made."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _work_of(store: Store, job: SegmentJob, card: ModelCard) -> Work:
    archive = read_archive(job.archive, store, job.frame_folder_fps, job.sampling)
    if job.verify:
        archive = Archive(tuple(verified(archive.videos, store)), archive.passed_over)
    labels = read_json(store, job.labels)[1] if job.labels else None
    address = without_signature(uri_of(*store.open_source(job.archive)))
    return find_work(
        store,
        archive,
        card,
        settings_id({"slot_recycling": job.recycles}, card, labels),
        _lineage(job, address, card),
        name=job.name or address,
        **job.model_dump(include={"purpose", "labels", "min_score", "retry_errors", "only"}),
    )


class Pool(Protocol):
    """Workers that play shards."""

    workers: Workers

    def play(
        self, shards: list[str], job: ShardJob, hear: Callable[[dict[str, Any]], None]
    ) -> Iterator[dict[str, str]]:
        """What `ShardWorker` answers for each shard, as they come; its notes go to `hear`."""
        ...


@contextmanager
def _pool(settings: Settings, say: Say) -> Iterator[Pool]:
    """One worker in a child process where that is what the settings come to, else workers on Ray."""
    if may_be_alone(settings):
        if why := ray_to_join(settings)[1]:
            say(why)
        with alone(settings) as one:
            if one:
                yield one
                return
    from jobs.cluster import cluster  # Ray, which one worker does without
    from jobs.segmentation.shards_on_ray import OnRay

    say("starts Ray")
    with cluster(settings, say) as workers:
        yield OnRay(workers, say)


class _HowFar:
    """What is committed of a plan, and what the workers say that they play; told to whoever wants to know.

    Sums are kept as notes come. The number of frames is an estimate until every video was opened: what headers promise
    of the open ones, and for the others the same share of the guess by which they were split.
    """

    def __init__(
        self, shards: Mapping[str, Sequence[Unit]], progress: Progress | None, max_failed: float = 1.0
    ) -> None:
        self._guess = {shard: sum(footage(unit.source) for unit in units) for shard, units in shards.items()}
        self._size = {shard: len(units) for shard, units in shards.items()}
        self._videos, self._progress = sum(self._size.values()), progress
        self._open: dict[str, dict[str, Any]] = {}
        """The newest note of each shard that is being played."""
        self._committed: set[str] = set()
        self.done = self._frames = self._known_guess = self._before = 0
        self._crashed = self._played = self._failed = 0
        self._reasons: Counter[str] = Counter()
        self._max_failed = max_failed
        self._lock = threading.Lock()
        self._started = time.perf_counter()

    def say(self, sentence: str) -> None:
        if self._progress:
            self._progress("segment", self.done, self._videos, {"note": sentence})

    def playing(self, note: dict[str, Any]) -> None:
        with self._lock:
            if note["shard"] not in self._committed:
                self._open[note["shard"]] = note
                self._tell()

    def committed(self, part: Part) -> None:
        """A shard is finished.

        Raises:
            RuntimeError: the videos that end their worker are too many for damage.
            BadConfig: so are those that fail.
        """
        with self._lock:
            self._before += self._open.pop(part.shard, {}).get("known", 0)
            self._add(part)
            self._tell()
        if self._crashed >= CRASHES and self._crashed > self._played:
            raise RuntimeError(
                f"{self._crashed} videos ended their worker and {self._played} did not: that is not the fault of the "
                "videos. See `vis query errors-by-code`, and try one alone: vis segment FILM"
            )
        if self.done >= JUDGED and self._failed > self._max_failed * self.done and self.done < self._videos:
            reasons = ", ".join(f"{code} {count}" for code, count in self._reasons.most_common(5))
            raise BadConfig(
                f"{self._failed} of the first {self.done} videos failed ({reasons}), more than a share of "
                f"{self._max_failed:g}: that looks like one cause, not like damage. See `vis query "
                '"SELECT video_id, code, detail FROM errors"`; the same command goes on after them, --max-failed 1 to '
                "its end"
            )

    def kept(self) -> str:
        return (
            f"{self.done} of {self._videos} videos ({self._frames} frames) are done and kept; "
            "the same command goes on after them"
        )

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Says after Ctrl-C what is kept."""
        try:
            yield
        except KeyboardInterrupt:
            self.say(f"stopped. {self.kept()}")
            raise

    def _add(self, part: Part) -> None:
        self._committed.add(part.shard)
        self.done += len(part.units)
        self._frames += part.counts.get("frames", 0)
        self._known_guess += self._guess[part.shard]
        self._crashed += part.counts.get("crashed", 0)
        self._failed += part.counts.get("failed", 0)
        self._reasons.update(part.errors)
        self._played += part.counts.get("done", 0) + part.counts.get("partial", 0)

    def _tell(self) -> None:
        notes = self._open.values()
        if self._progress and (self.done or any(note["opened"] for note in notes)):
            frames = self._frames + sum(note["frames"] for note in notes)
            videos = self.done + sum(note["videos"] for note in notes)
            before = self._before + sum(note["known"] for note in notes)
            rate = (frames - before) / (time.perf_counter() - self._started)
            total, sure = self._total_frames(frames)
            info = {"frames": "" if sure else "(total estimated)", "videos": f"{videos} of {self._videos}"}
            self._progress("segment", frames, total, info | {"frames_per_s": round(rate, 1)})

    def _total_frames(self, played: int) -> tuple[int, bool]:
        """(frames of the archive, whether that is certain)."""
        known, guess = float(self._frames), float(self._known_guess)
        for shard, note in self._open.items():
            known += max(note["promised"], note["frames"])
            guess += self._guess[shard] * note["opened"] / self._size[shard]
        if self.done == self._videos:
            return self._frames, True
        whole = sum(self._guess.values())
        return max(round(known * whole / guess), played + 1), False


def footage(source: VideoSource) -> int:
    """Frames of a video, counted where it is a folder of them, else guessed from its bytes."""
    return len(source.frames) if source.frames is not None else 1 + source.size_bytes // FRAME_BYTES


def split(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    """Shards of about equal footage, by name; each has videos that follow one another, so that tables stay sorted.

    The largest shard comes first: what is begun last is over soon.
    """
    units = sorted(units, key=lambda unit: unit.source.video_id)
    costs = [footage(unit.source) + VIDEO_FRAMES for unit in units]
    total = sum(footage(unit.source) for unit in units)
    size = min(max(total // SHARD_SHARE, SHARD_FRAMES[0]), SHARD_FRAMES[1])
    share = sum(costs) / max(-(-len(units) // SHARD_VIDEOS), min(len(units), -(-total // size)))
    shards: list[list[Unit]] = []
    filled = 0
    for unit, cost in zip(units, costs, strict=True):
        if not shards or filled + cost / 2 > share or len(shards[-1]) == SHARD_VIDEOS:
            shards.append([])
            filled = 0
        shards[-1].append(unit)
        filled += cost
    weights = [sum(footage(unit.source) for unit in shard) for shard in shards]
    order = sorted(range(len(shards)), key=lambda place: (-weights[place], place))
    return {f"{place:06d}": shards[place] for place in order}


def _summary(
    store: Store, plan: Plan, work: Work, wall_s: float, publisher: "Publisher | None" = None
) -> SegmentSummary:
    """`publisher`: of this call; None if there was nothing to do."""
    seconds: Mapping[str, float] = publisher.seconds if publisher else plan.seconds
    frames = publisher.counts["frames"] if publisher else plan.counts["frames"]
    busy_s = sum(seconds.get(stage, 0) for stage in STAGES) or 1
    return SegmentSummary(
        plan_id=plan.plan_id,
        tables=store.uri(plan.lake),
        archive=plan.called,
        model=work.card.name,
        found=len(work.units),
        known=len(work.units) - len(work.todo),
        todo=len(work.todo),
        videos={status: plan.counts[status] for status in STATUSES},
        errors=work.errors(),
        rows={name: plan.counts[name] for name in tables.SCHEMAS},
        passed_over=plan.passed_over,
        frames=plan.counts["frames"],
        worked=publisher is not None,
        new_frames=frames if publisher else 0,
        wall_s=wall_s,
        frames_per_s=frames / wall_s if publisher else 0.0,
        worker_frames_per_s=frames / (seconds.get("wall", 0) or 1),
        footage_s=seconds.get("footage", 0) if publisher else 0,
        worker_s=seconds.get("wall", 0) if publisher else 0,
        price=store.settings.worker_hour_price,
        shares={stage: seconds.get(stage, 0) / busy_s for stage in STAGES},
    )


def _lineage(job: SegmentJob, address: str, card: ModelCard) -> dict[str, str]:
    """The key-values that say where a file comes from."""
    config = job.model_dump(exclude={"command", "purpose", "retry_errors", "only", "max_failed"}) | {
        "slot_recycling": job.recycles
    }
    return {
        "dataset": address,
        "model_name": card.name,
        "model_sha256": card.sha256,
        "code_version": code_version(),
        "config_hash": config_hash(config),
        "config_json": without_signature(json.dumps(config)),
        "model_config_json": json.dumps(card.config),
        "class_map_json": json.dumps({category.id: category.name for category in card.classes}),
        "sampling": str(job.sampling),
        "command": without_signature(job.command),
    }
