"""Archive -> tables: a frozen plan of shards, a pool of workers, one published snapshot.

The same command again finds its snapshot and does no work, except for videos that may go better now; after a kill it
finds the shards that were committed and does the rest; two at once may do a shard twice, and the snapshot names one of
the two attempts.
"""

import hashlib
import heapq
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pydantic import Field, PositiveInt

from jobs import models, tables
from jobs.archives.archive import DATA_SETS, PassedOver, VideoSource, read_archive
from jobs.archives.sampling import asked
from jobs.archives.sources import Sampling, uri_of
from jobs.archives.verify import verified
from jobs.results_files import read_json
from jobs.segmentation.child import alone, may_be_alone
from jobs.segmentation.plans import STAGES, Load, ShardJob, planned, write_plan
from jobs.settings import Settings
from jobs.store import Marker, Purpose, Snapshot, Store, code_version, now, plan_key, snapshot_key
from jobs.workers import Say, Workers, ray_to_join
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


class SegmentJob(Config):
    """Segment an archive with a model."""

    archive: str
    """A folder or S3 prefix of films, frame folders, tar and zip files, a glob, a manifest (JSONL, CSV or Parquet with
    `id` and `uri`), a list of addresses (.txt), or a data set in the YouTube-VIS format (JSON)."""
    model: str | None = None
    """A registered name, a model folder or its `s3://` address; None: the model that was registered last."""
    min_score: float = Field(0.05, ge=0, le=1)
    """Tracks under this video score are counted, not written; 0 for evaluation."""
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
    snapshot: str
    """Where the published result stands."""
    archive: str
    model: str
    videos: dict[str, int]
    """Videos by status: done, partial, failed."""
    errors: dict[str, int]
    """Rows of the table errors by code."""
    rows: dict[str, int]
    """Rows by table."""
    passed_over: tuple[dict[str, Any], ...]
    """See `Snapshot.passed_over`."""
    frames: int
    worked: bool
    """False: everything was there already."""
    wall_s: float
    """Of this call."""
    frames_per_s: float
    """Of this call, with all it took to start; 0 if it did no work."""
    worker_frames_per_s: float
    """Of one worker, while it plays."""
    shares: dict[str, float]
    """Share of each stage in the busy time of the workers, which may overlap: decode, encode, step, rle, write."""

    @property
    def exit_code(self) -> int:
        """0: at least one video gave frames; 1: every video failed."""
        return 0 if self.videos["done"] + self.videos["partial"] else 1

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
        if self.worked:
            shares = "  ".join(f"{stage} {share:.0%}" for stage, share in self.shares.items())
            speed = f"{self.frames_per_s:.1f} frames/s, {self.worker_frames_per_s:.1f} per worker while it plays"
            lines.append(f"{self.wall_s:.1f} s, {speed}; {shares}")
        else:
            lines.append("nothing to do: this archive was segmented with this model and these settings before")
        return "\n".join([*lines, f"plan {self.plan_id} is published in {self.snapshot}"])


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
    archive = read_archive(job.archive, store, job.frame_folder_fps, job.sampling)
    sources = list(verified(archive.videos, store) if job.verify else archive.videos)
    digest = read_json(store, job.labels)[1] if job.labels else None
    plan_id = plan(job, card, sources, digest)
    snapshot = store.snapshot(plan_id)
    if snapshot and not _worth_another_try(snapshot.counts, job.retry_errors):
        if (job.purpose, snapshot.purpose) == ("archive", "evaluation"):  # queries shall see it from now on
            snapshot = snapshot.model_copy(update={"purpose": job.purpose, "created_at": now()})
            store.publish(snapshot)
        return _summary(store, snapshot, card, time.perf_counter() - started, new_frames=None)
    shards = planned(store, plan_id)  # as an earlier run split it, which may have done some
    run_id = run_id or f"segment-{now()[:19]}-{uuid.uuid4().hex[:6]}".replace(":", "")
    lineage = _lineage(job, store, card, plan_id, run_id)
    if shards is None:
        by_shard = split(sources)
        shards = {shard: [source.video_id for source in videos] for shard, videos in by_shard.items()}
        write_plan(store, plan_id, by_shard)
    store.write_json(plan_key(plan_id, "spec.json"), lineage | {"card": card.model_dump(mode="json")})
    markers = {shard: marker for shard, marker in store.markers(plan_id).items() if shard in shards}
    again = {
        shard: marker.attempt
        for shard, marker in markers.items()
        if _worth_another_try(marker.counts, job.retry_errors)
    }
    kept = {shard: marker for shard, marker in markers.items() if shard not in again}
    missing = [shard for shard in shards if shard not in kept]
    if missing:
        how_far = _HowFar(shards, sources, kept, progress)
        with how_far.stopped(), _pool(settings, how_far.say) as pool:
            shard_job = ShardJob(
                settings=settings,
                workers=pool.workers,
                plan_id=plan_id,
                run_id=run_id,
                model=model,
                load=load,
                lineage=lineage,
                slot_recycling=job.recycles,
                again=again,
                **job.model_dump(include={"min_score", "videos_at_once", "frames_per_batch", "labels"}),
            )
            for row in pool.play(missing, shard_job, how_far.playing):
                if row["bad_config"]:
                    raise BadConfig(f"{row['bad_config']}. {how_far.kept()}" if how_far.done else row["bad_config"])
                how_far.committed(Marker.model_validate_json(row["marker"]))
    snapshot = publish(store, plan_id, list(shards), lineage, job.purpose, archive.passed_over)
    new_frames = snapshot.counts["frames"] - _total(kept, "frames")
    return _summary(store, snapshot, card, time.perf_counter() - started, new_frames)


def _worth_another_try(counts: dict[str, int], every_error: bool) -> bool:
    hurt = counts.get("partial", 0) + counts.get("failed", 0)
    return bool(counts.get("retryable")) or (every_error and hurt > 0)


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
        self,
        shards: dict[str, list[str]],
        sources: list[VideoSource],
        kept: dict[str, Marker],
        progress: Progress | None,
    ) -> None:
        guesses = {source.video_id: footage(source) for source in sources}
        self._guess = {shard: sum(guesses[video_id] for video_id in videos) for shard, videos in shards.items()}
        self._size = {shard: len(videos) for shard, videos in shards.items()}
        self._videos, self._progress = len(sources), progress
        self._open: dict[str, dict[str, Any]] = {}
        """The newest note of each shard that is being played."""
        self._committed: set[str] = set()
        self.done = self._frames = self._known_guess = 0
        self._crashed = self._played = 0
        self._lock = threading.Lock()
        for marker in kept.values():
            self._add(marker)
        self._before = self._frames
        self._crashed = self._played = 0
        self._started = time.perf_counter()

    def say(self, sentence: str) -> None:
        if self._progress:
            self._progress("segment", self.done, self._videos, {"note": sentence})

    def playing(self, note: dict[str, Any]) -> None:
        with self._lock:
            if note["shard"] not in self._committed:
                self._open[note["shard"]] = note
                self._tell()

    def committed(self, marker: Marker) -> None:
        """Raises RuntimeError: the videos that end their worker are too many for damage."""
        with self._lock:
            self._before += self._open.pop(marker.shard, {}).get("known", 0)
            self._add(marker)
            self._tell()
        if self._crashed >= CRASHES and self._crashed > self._played:
            raise RuntimeError(
                f"{self._crashed} videos ended their worker and {self._played} did not: that is not the fault of the "
                'videos. `vis query "SELECT detail FROM errors"` cannot tell yet; try one alone: vis segment FILM'
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

    def _add(self, marker: Marker) -> None:
        self._committed.add(marker.shard)
        self.done += sum(marker.counts.get(status, 0) for status in ("done", "partial", "failed"))
        self._frames += marker.counts.get("frames", 0)
        self._known_guess += self._guess[marker.shard]
        self._crashed += marker.counts.get("crashed", 0)
        self._played += marker.counts.get("done", 0) + marker.counts.get("partial", 0)

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


def plan(job: SegmentJob, card: ModelCard, sources: list[VideoSource], labels_sha256: str | None = None) -> str:
    """The id of a piece of work: changes with the videos' contents, the model and the settings that change results."""
    identity = {
        "schema": tables.SCHEMA_VERSION,
        "job": job.model_dump(include={"min_score", "frame_folder_fps"}) | {"slot_recycling": job.recycles},
        "model": card.model_dump(mode="json", include={"model", "config", "classes", "sha256"}),
        "videos": [[source.video_id, source.uri, source.identity()] for source in sources],
    } | ({"labels": labels_sha256} if labels_sha256 else {})
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def footage(source: VideoSource) -> int:
    """Frames of a video, counted where it is a folder of them, else guessed from its bytes."""
    return len(source.frames) if source.frames is not None else 1 + source.size_bytes // FRAME_BYTES


def split(sources: list[VideoSource]) -> dict[str, list[VideoSource]]:
    """Shards of about equal footage, by name: the longest video first, each to the shard with the least to do."""
    total = sum(footage(source) for source in sources)
    size = min(max(total // SHARD_SHARE, SHARD_FRAMES[0]), SHARD_FRAMES[1])
    count = max(-(-len(sources) // SHARD_VIDEOS), min(len(sources), -(-total // size)))
    shards: list[list[VideoSource]] = [[] for _ in range(count)]
    loads = [(0, place) for place in range(count)]
    for source in sorted(sources, key=lambda source: (-footage(source), source.video_id)):
        cost, place = heapq.heappop(loads)
        shards[place].append(source)
        if len(shards[place]) < SHARD_VIDEOS:
            heapq.heappush(loads, (cost + footage(source) + VIDEO_FRAMES, place))
    return {_shard_name(place, shard): shard for place, shard in enumerate(shards)}


def _shard_name(place: int, sources: list[VideoSource]) -> str:
    ids = json.dumps([source.video_id for source in sources])
    return f"{place:05d}-{hashlib.sha256(ids.encode()).hexdigest()[:8]}"


def publish(
    store: Store,
    plan_id: str,
    shards: list[str],
    lineage: dict[str, str],
    purpose: Purpose = "archive",
    passed_over: Sequence[PassedOver] = (),
) -> Snapshot:
    """Reads each marker once and writes the snapshot that readers see."""
    markers = store.markers(plan_id)
    missing = [shard for shard in shards if shard not in markers]
    assert not missing, f"plan {plan_id} lacks the commits of shards {missing[:5]}"
    counts: Counter[str] = Counter(dict.fromkeys(("done", "partial", "failed", "frames"), 0))
    seconds: Counter[str] = Counter()
    for shard in shards:
        counts.update(markers[shard].counts)
        seconds.update(markers[shard].seconds)
    snapshot = Snapshot(
        plan_id=plan_id,
        archive=lineage["dataset"],
        purpose=purpose,
        labels=json.loads(lineage["config_json"])["labels"],
        model_sha256=lineage["model_sha256"],
        created_at=now(),
        lineage=lineage,
        tables={name: tuple(markers[shard].files[name] for shard in shards) for name in tables.SCHEMAS},
        counts=dict(counts),
        seconds=dict(seconds),
        passed_over=tuple(row.model_dump() for row in passed_over),
    )
    store.publish(snapshot)
    return snapshot


def _lineage(job: SegmentJob, store: Store, card: ModelCard, plan_id: str, run_id: str) -> dict[str, str]:
    """The key-values that say where a file comes from."""
    fs, path = store.open_source(job.archive)
    config = job.model_dump(exclude={"command", "purpose", "retry_errors"}) | {"slot_recycling": job.recycles}
    return {
        "dataset": uri_of(fs, path),
        "plan_id": plan_id,
        "run_id": run_id,
        "model_name": card.name,
        "model_sha256": card.sha256,
        "code_version": code_version(),
        "config_hash": config_hash(config),
        "config_json": json.dumps(config),
        "model_config_json": json.dumps(card.config),
        "class_map_json": json.dumps({category.id: category.name for category in card.classes}),
        "sampling": str(job.sampling),
        "command": job.command,
        "created_at": now(),
    }


def _summary(
    store: Store, snapshot: Snapshot, card: ModelCard, wall_s: float, new_frames: int | None
) -> SegmentSummary:
    """`new_frames`: decoded by this call; None if there was nothing to do."""
    errors = tables.open(store, snapshot.plan_id)["errors"].to_table(columns=["code"])
    codes = Counter(errors["code"].to_pylist())
    busy_s = sum(snapshot.seconds.get(stage, 0) for stage in STAGES) or 1
    return SegmentSummary(
        plan_id=snapshot.plan_id,
        snapshot=store.uri(snapshot_key(snapshot.plan_id)),
        archive=snapshot.archive,
        model=card.name,
        videos={status: snapshot.counts[status] for status in ("done", "partial", "failed")},
        errors=dict(codes.most_common()),
        rows={name: sum(ref.rows for ref in refs) for name, refs in snapshot.tables.items()},
        passed_over=snapshot.passed_over,
        frames=snapshot.counts["frames"],
        worked=new_frames is not None,
        wall_s=wall_s,
        frames_per_s=(new_frames or 0) / wall_s,
        worker_frames_per_s=snapshot.counts["frames"] / (snapshot.seconds.get("wall", 0) or 1),
        shares={stage: snapshot.seconds.get(stage, 0) / busy_s for stage in STAGES},
    )


def _total(markers: dict[str, Marker], name: str) -> int:
    return sum(marker.counts.get(name, 0) for marker in markers.values())
