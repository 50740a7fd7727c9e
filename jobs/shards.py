"""One shard of a plan: a handful of videos in, four tables and a marker out. Runs inside a Ray worker.

The worker loads its model once. Nothing that is wrong with a video leaves this file as an exception.
"""

import hashlib
import os
import platform
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs import tables
from jobs.archive import VideoSource
from jobs.cluster import LISTEN_S, Workers
from jobs.records import MaskSpill, track_row
from jobs.results_files import read_json
from jobs.settings import Settings
from jobs.side_by_side import Outcome, SideBySide
from jobs.store import LAYOUT, FileRef, Marker, Store, now, plan_key, work_key
from jobs.true_objects import TrueObjects
from vis_models.cards import ModelCard
from vis_models.config import BadConfig, BadVideo
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.types import TracksGivenObjects, VideoModel

Load = Callable[[Path, str, bool], tuple[Any, ModelCard]]
"""(model folder, device, slot_recycling) -> the model and its card."""
STAGES = ("decode", "encode", "step", "rle", "write")
MAX_ATTEMPTS = 4
"""Times that one run starts a shard. Ray starts it again whenever its worker is lost; a film that crashes the decoder
would have it do so for ever."""
LATER = frozenset({"missing", "denied"})
"""Codes of errors whose reason lies outside of the file."""


@dataclass(frozen=True)
class ShardJob:
    """What a worker must know about the run it belongs to."""

    settings: Settings
    workers: Workers
    plan_id: str
    run_id: str
    model: str
    """Address of the model folder."""
    load: Load
    lineage: dict[str, str]
    """Footer of every file."""
    min_score: float
    slot_recycling: bool
    videos_at_once: int
    frames_per_batch: int
    frame_folder_fps: float | None
    labels: str | None
    """See `SegmentJob.labels`."""
    board: Any
    """A `Board` that is told `{"shard", "frames"}` while a shard is played."""


class ShardWorker:
    """Segments shards, one after the other."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """`{"shard"}` -> `{"shard", "marker"}`, or `{"shard", "bad_config"}` for what the user can mend."""
        try:
            return row | {"marker": self.segment(row["shard"]).model_dump_json(), "bad_config": ""}
        except BadConfig as error:
            return row | {"marker": "", "bad_config": str(error)}

    @cached_property
    def _store(self) -> Store:
        return Store.open(self._job.settings)

    @cached_property
    def _model(self) -> tuple[VideoModel[Any, Any], ModelCard]:
        torch.set_num_threads(self._job.workers.cpus)
        folder = self._store.local_copy(self._job.model)
        return self._job.load(folder, self._job.workers.device, self._job.slot_recycling)

    @cached_property
    def _given(self) -> TrueObjects | None:
        if self._job.labels is None:
            return None
        model, card = self._model
        if not isinstance(model, TracksGivenObjects):
            raise BadConfig(f"no image oracle: the tracker of {card.name} ({card.model}) takes no objects from outside")
        truth = GroundTruth(read_json(self._store, self._job.labels)[0], self._job.labels)
        return TrueObjects(truth, [category.name for category in card.classes])

    def segment(self, shard: str) -> Marker:
        """Plays the videos of a shard and commits what was seen, unless another attempt was committed already."""
        job, store = self._job, self._store
        if committed := store.marker(job.plan_id, shard):
            return committed
        model, card = self._model
        sources = read_plan(store, job.plan_id, shard)
        attempt = self._begin(shard, sources, card)
        stage = SideBySide(
            model,
            job.workers.device,
            store,
            videos_at_once=job.videos_at_once,
            frames_per_batch=job.frames_per_batch,
            frame_folder_fps=job.frame_folder_fps,
            threads=job.workers.cpus,
            given=self._given,
            say=self._tell(shard),
        )
        began = time.perf_counter()
        spill = MaskSpill()
        outcomes = sorted(stage.play(sources, spill), key=lambda outcome: outcome.source.video_id)
        spill.finish()
        with stage.timed("write"):
            files = attempt.write(store, outcomes)
        spill.close()
        counts = Counter(outcome.status for outcome in outcomes)
        counts["frames"] = sum(outcome.record.frames for outcome in outcomes if outcome.record)
        marker = Marker(
            plan_id=job.plan_id,
            shard=shard,
            attempt=attempt.name,
            files=files,
            counts=dict(counts),
            seconds=dict(stage.seconds) | {"wall": time.perf_counter() - began},
            created_at=now(),
        )
        store.commit(marker)
        return marker

    def _tell(self, shard: str) -> Callable[[int], None]:
        """Passes on how many frames of a shard were played, once a second."""
        last_s = time.monotonic()

        def say(frames: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= LISTEN_S:
                last_s = time.monotonic()
                self._job.board.write.remote({"shard": shard, "frames": frames})

        return say

    def _begin(self, shard: str, sources: list[VideoSource], card: ModelCard) -> "Attempt":
        """A new attempt, noted in the store so that the next one can count it if this worker is lost."""
        job = self._job
        run = hashlib.sha256(job.run_id.encode()).hexdigest()[:8]
        earlier = {key.split("/")[-2] for key in self._store.list(f"{LAYOUT}/_work/{job.plan_id}/{shard}")}
        if sum(run in name for name in earlier) >= MAX_ATTEMPTS:
            raise RuntimeError(
                f"shard {shard} lost its worker {MAX_ATTEMPTS} times. If the machine has memory to spare, one of its "
                f"videos crashes the decoder: {', '.join(source.video_id for source in sources)}"
            )
        number = len(earlier) + 1
        attempt = Attempt(job, card, shard, f"{number:03d}-{run}-{uuid.uuid4().hex[:8]}", number)
        note = {"host": platform.node(), "pid": os.getpid(), "started_at": now()}
        self._store.write_json(work_key(job.plan_id, shard, attempt.name, "started.json"), note)
        return attempt


@dataclass(frozen=True)
class Attempt:
    """One try at a shard, which writes under keys of its own."""

    job: ShardJob
    card: ModelCard
    shard: str
    name: str
    number: int

    def write(self, store: Store, outcomes: list[Outcome]) -> dict[str, FileRef]:
        """The four tables of these videos, which are sorted by id."""
        refs: dict[str, FileRef] = {}
        rows: dict[str, list[dict[str, Any]]] = {"videos": [], "tracks": [], "errors": []}
        with tables.create(store, self._key("masks"), "masks", self.job.lineage, refs) as writer:
            for outcome in outcomes:
                tracks, low = self._tracks(outcome, writer)
                rows["videos"].append(self._video_row(outcome, len(tracks), low))
                rows["tracks"] += tracks
                if outcome.error:
                    rows["errors"].append(self._error_row(outcome, outcome.error))
        for name, found in rows.items():
            with tables.create(store, self._key(name), name, self.job.lineage, refs) as writer:
                writer.write(tables.from_rows(name, found))
        return refs

    def _key(self, name: str) -> str:
        return work_key(self.job.plan_id, self.shard, self.name, f"{name}.parquet")

    def _tracks(self, outcome: Outcome, writer: tables.TableWriter) -> tuple[list[dict[str, Any]], int]:
        """(rows of the table tracks, number of tracks under min_score); their masks are written on the way."""
        if outcome.record is None:
            return [], 0
        kept, low = outcome.record.tracks(self.job.min_score)
        rows = []
        for track_id, tally in kept.items():
            category = self.card.classes[tally.category]
            common = {
                "plan_id": self.job.plan_id,
                "video_id": outcome.source.video_id,
                "category_id": category.id,
            }
            rows.append(common | {"category": category.name} | track_row(track_id, tally))
            for masks in outcome.record.masks(track_id, common):
                writer.write(masks)
        return rows, low

    def _video_row(self, outcome: Outcome, tracks: int, low_score_tracks: int) -> dict[str, Any]:
        source, video, record = outcome.source, outcome.video, outcome.record
        frames = record.frames if record else 0
        timed = video is not None and video.clock.end_s is not None
        return {
            "plan_id": self.job.plan_id,
            "video_id": source.video_id,
            "uri": source.uri,
            "status": outcome.status,
            "content_id": source.content_id,
            "container": video and video.container,
            "codec": video and video.codec,
            "width": video and video.info.width,
            "height": video and video.info.height,
            "fps_num": video.fps.numerator if video and video.fps else None,
            "fps_den": video.fps.denominator if video and video.fps else None,
            "vfr": video.clock.uneven if video and timed else None,
            "n_frames": frames,
            "duration_s": video.clock.end_s if video and timed else None,
            "sampled_frames": frames,
            "n_tracks": tracks,
            "n_low_score_tracks": low_score_tracks,
            "n_dropped_births": record.dropped_births if record else 0,
            "decode_ms": round(outcome.decode_s * 1000),
            "infer_ms": round(outcome.infer_s * 1000),
            "run_id": self.job.run_id,
        }

    def _error_row(self, outcome: Outcome, error: BadVideo) -> dict[str, Any]:
        return {
            "plan_id": self.job.plan_id,
            "video_id": outcome.source.video_id,
            "uri": outcome.source.uri,
            "stage": "decode" if error.frames_kept else "open",
            "code": error.code,
            "detail": str(error),
            "attempt": self.number,
            "t0": outcome.video.clock.last_s if outcome.video else None,
            "t1": None,
            "retryable": error.code in LATER,
            "host": platform.node(),
        }


PLAN = pa.schema([
    ("shard", pa.string()), ("video_id", pa.string()), ("uri", pa.string()), ("kind", pa.string()),
    ("content_id", pa.string()), ("size_bytes", pa.int64()), ("frames", pa.list_(pa.string())), ("listed", pa.bool_()),
    ("height", pa.int32()), ("width", pa.int32()),
])  # fmt: skip


def write_plan(store: Store, plan_id: str, shards: dict[str, list[VideoSource]]) -> None:
    """The shards of a plan, in order, as one small table."""
    rows = [source.model_dump() | {"shard": shard} for shard, sources in shards.items() for source in sources]
    with store.create(plan_key(plan_id, "plan.parquet")) as output:
        pq.write_table(pa.Table.from_pylist(rows, schema=PLAN), output, compression="zstd", row_group_size=4096)


def read_plan(store: Store, plan_id: str, shard: str) -> list[VideoSource]:
    """The videos of one shard, in playing order."""
    return _read_plan(store, plan_id, ("shard", "=", shard))


def find_sources(store: Store, plan_id: str, video_ids: Sequence[str]) -> dict[str, VideoSource]:
    """Where some videos of a plan were read, by id."""
    return {source.video_id: source for source in _read_plan(store, plan_id, ("video_id", "in", list(video_ids)))}


def _read_plan(store: Store, plan_id: str, wanted: tuple[str, str, Any]) -> list[VideoSource]:
    path = store.path(plan_key(plan_id, "plan.parquet"))
    rows = pq.read_table(path, filesystem=store.arrow, filters=[wanted]).to_pylist()
    return [VideoSource.model_validate({key: row[key] for key in row if key != "shard"}) for row in rows]
