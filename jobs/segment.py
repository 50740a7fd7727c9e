"""Archive -> tables: a frozen plan of shards, a pool of Ray workers, one published snapshot.

The same command again finds its snapshot and does no work; after a kill it finds the shards that were committed and
does the rest; two at once may do a shard twice, and the snapshot names one of the two attempts.
"""

import hashlib
import heapq
import json
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray.data
from pydantic import Field, PositiveFloat, PositiveInt

from jobs import models, tables
from jobs.archive import DATA_SETS, VideoSource, list_videos
from jobs.cluster import Workers, cluster, listening
from jobs.results_files import read_json
from jobs.settings import Settings
from jobs.shards import STAGES, Load, ShardJob, ShardWorker, write_plan
from jobs.store import Marker, Snapshot, Store, code_version, now, plan_key, snapshot_key
from vis_models.cards import ModelCard, read_card
from vis_models.checkpoints import config_hash, load_model
from vis_models.config import BadConfig, Config
from vis_models.progress import Progress

SHARD_VIDEOS = 16
"""At most so many videos in a shard: enough to play side by side, little to repeat after a kill."""
SHARD_BYTES = 64 * 2**20
"""About so many bytes of video in a shard, so that long films spread over the workers."""
VIDEO_BYTES = 64 * 2**10
"""What opening a video costs, in bytes of decoding."""


class SegmentJob(Config):
    """Segment an archive with a model."""

    archive: str
    """A folder or S3 prefix of films and frame folders, a glob, a manifest (JSONL, CSV or Parquet with `id` and `uri`),
    or a data set in the YouTube-VIS format (JSON)."""
    model: str | None = None
    """A registered name, a model folder or its `s3://` address; None: the model that was registered last."""
    min_score: float = Field(0.05, ge=0, le=1)
    """Tracks under this video score are counted, not written; 0 for evaluation."""
    frame_folder_fps: PositiveFloat | None = None
    """Rate of frame folders, which carry no clock; None leaves their times empty."""
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
    command: str = ""
    """What was typed, for the record."""

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
    load: Load = load_model,
) -> SegmentSummary:
    """Plays every video of the archive through the model and publishes what it saw.

    Args:
        run_id: names the run in the tables; made up when empty.
        load: reads a model folder inside the worker.

    Raises:
        BadConfig: no archive, no model, or a store that refuses.
    """
    started = time.perf_counter()
    store = Store.open(settings)
    model = models.find(store, job.model)
    card = read_card(store.local_copy(model))
    sources = list_videos(job.archive, store)
    digest = read_json(store, job.labels)[1] if job.labels else None
    plan_id = plan(job, card, sources, digest)
    snapshot = store.snapshot(plan_id)
    if snapshot:
        return _summary(store, snapshot, card, time.perf_counter() - started, new_frames=None)
    shards = split(sources)
    run_id = run_id or f"segment-{now()[:19]}-{uuid.uuid4().hex[:6]}".replace(":", "")
    lineage = _lineage(job, store, card, plan_id, run_id)
    write_plan(store, plan_id, shards)
    store.write_json(plan_key(plan_id, "spec.json"), lineage | {"card": card.model_dump(mode="json")})
    markers = store.markers(plan_id)
    missing = [shard for shard in shards if shard not in markers]
    if missing:
        how_far = _HowFar(markers, len(sources), progress)
        with cluster(settings) as workers, listening(how_far.playing) as board:
            shard_job = ShardJob(
                settings=settings,
                workers=workers,
                plan_id=plan_id,
                run_id=run_id,
                model=model,
                load=load,
                lineage=lineage,
                slot_recycling=job.recycles,
                board=board,
                **job.model_dump(
                    include={"min_score", "videos_at_once", "frames_per_batch", "frame_folder_fps", "labels"}
                ),
            )
            for marker in _run(missing, shard_job, workers):
                how_far.committed(marker)
    snapshot = publish(store, plan_id, list(shards), lineage)
    new_frames = snapshot.counts["frames"] - _total(markers, "frames")
    return _summary(store, snapshot, card, time.perf_counter() - started, new_frames)


class _HowFar:
    """What is committed of a plan, and what the workers say that they play; told to whoever wants to know."""

    def __init__(self, markers: dict[str, Marker], videos: int, progress: Progress | None) -> None:
        self._markers, self._videos, self._progress = dict(markers), videos, progress
        self._playing: dict[str, int] = {}
        self._lock = threading.Lock()
        self._before = _total(markers, "frames")
        self._started = time.perf_counter()

    def playing(self, note: dict[str, Any]) -> None:
        with self._lock:
            self._playing[note["shard"]] = note["frames"]
            self._tell()

    def committed(self, marker: Marker) -> None:
        with self._lock:
            self._markers[marker.shard] = marker
            self._tell()

    def _tell(self) -> None:
        if self._progress:
            played = sum(frames for shard, frames in self._playing.items() if shard not in self._markers)
            frames = _total(self._markers, "frames") + played
            rate = (frames - self._before) / (time.perf_counter() - self._started)
            videos = sum(_total(self._markers, status) for status in ("done", "partial", "failed"))
            self._progress("segment", videos, self._videos, {"frames": frames, "frames_per_s": round(rate, 1)})


def plan(job: SegmentJob, card: ModelCard, sources: list[VideoSource], labels_sha256: str | None = None) -> str:
    """The id of a piece of work: changes with the videos' contents, the model and the settings that change results."""
    identity = {
        "schema": tables.SCHEMA_VERSION,
        "job": job.model_dump(include={"min_score", "frame_folder_fps"}) | {"slot_recycling": job.recycles},
        "model": card.model_dump(mode="json", include={"model", "config", "classes", "sha256"}),
        "videos": [source.model_dump(mode="json") for source in sources],
    } | ({"labels": labels_sha256} if labels_sha256 else {})
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def split(sources: list[VideoSource]) -> dict[str, list[VideoSource]]:
    """Shards of about equal cost, by name: the longest video first, each to the shard with the least to do."""
    total = sum(source.size_bytes for source in sources)
    count = max(-(-len(sources) // SHARD_VIDEOS), min(len(sources), total // SHARD_BYTES))
    shards: list[list[VideoSource]] = [[] for _ in range(count)]
    loads = [(0, place) for place in range(count)]
    for source in sorted(sources, key=lambda source: (-source.size_bytes, source.video_id)):
        cost, place = heapq.heappop(loads)
        shards[place].append(source)
        if len(shards[place]) < SHARD_VIDEOS:
            heapq.heappush(loads, (cost + source.size_bytes + VIDEO_BYTES, place))
    return {_shard_name(place, shard): shard for place, shard in enumerate(shards)}


def _shard_name(place: int, sources: list[VideoSource]) -> str:
    ids = json.dumps([source.video_id for source in sources])
    return f"{place:05d}-{hashlib.sha256(ids.encode()).hexdigest()[:8]}"


def _run(shards: list[str], job: ShardJob, workers: Workers) -> Iterator[Marker]:
    """The commits of these shards as they come. Ray runs a shard again whose worker was lost."""
    with _quiet():
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map(
            ShardWorker,  # type: ignore[arg-type]  # Ray takes a class, its annotation does not
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=min(workers.count, len(shards)), max_tasks_in_flight_per_actor=1),
            num_cpus=workers.cpus,
            num_gpus=1 if workers.device == "cuda" else 0,
        )
        for row in rows.iter_rows():
            if row["bad_config"]:
                raise BadConfig(row["bad_config"])
            yield Marker.model_validate_json(row["marker"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without its own progress bars and reports; errors are shown."""
    context = ray.data.DataContext.get_current()
    loud = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars = context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = loud
        logger.setLevel(level)


def publish(store: Store, plan_id: str, shards: list[str], lineage: dict[str, str]) -> Snapshot:
    """Reads each marker once and writes the snapshot that readers see."""
    markers = store.markers(plan_id)
    missing = [shard for shard in shards if shard not in markers]
    assert not missing, f"plan {plan_id} lacks the commits of shards {missing[:5]}"
    counts: Counter[str] = Counter(dict.fromkeys(("done", "partial", "failed", "frames"), 0))
    seconds: Counter[str] = Counter()
    for marker in markers.values():
        counts.update(marker.counts)
        seconds.update(marker.seconds)
    snapshot = Snapshot(
        plan_id=plan_id,
        archive=lineage["dataset"],
        labels=json.loads(lineage["config_json"])["labels"],
        model_sha256=lineage["model_sha256"],
        created_at=now(),
        lineage=lineage,
        tables={name: tuple(markers[shard].files[name] for shard in shards) for name in tables.SCHEMAS},
        counts=dict(counts),
        seconds=dict(seconds),
    )
    store.publish(snapshot)
    return snapshot


def _lineage(job: SegmentJob, store: Store, card: ModelCard, plan_id: str, run_id: str) -> dict[str, str]:
    """The key-values that say where a file comes from."""
    fs, path = store.open_source(job.archive)
    config = job.model_dump(exclude={"command"}) | {"slot_recycling": job.recycles}
    return {
        "dataset": f"s3://{path}" if "s3" in fs.protocol else path,
        "plan_id": plan_id,
        "run_id": run_id,
        "model_name": card.name,
        "model_sha256": card.sha256,
        "code_version": code_version(),
        "config_hash": config_hash(config),
        "config_json": json.dumps(config),
        "model_config_json": json.dumps(card.config),
        "class_map_json": json.dumps({category.id: category.name for category in card.classes}),
        "sampling": "every frame",
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
        frames=snapshot.counts["frames"],
        worked=new_frames is not None,
        wall_s=wall_s,
        frames_per_s=(new_frames or 0) / wall_s,
        worker_frames_per_s=snapshot.counts["frames"] / (snapshot.seconds.get("wall", 0) or 1),
        shares={stage: snapshot.seconds.get(stage, 0) / busy_s for stage in STAGES},
    )


def _total(markers: dict[str, Marker], name: str) -> int:
    return sum(marker.counts.get(name, 0) for marker in markers.values())
