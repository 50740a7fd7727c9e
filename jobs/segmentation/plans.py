"""A frozen plan: which videos make up each shard, and what a worker must know to play one. No Ray and no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.archives.archive import VideoSource
from jobs.settings import Settings
from jobs.store import Store, plan_key
from jobs.workers import Workers
from vis_models.cards import ModelCard

Load = Callable[[Path, str, bool], tuple[Any, ModelCard]]
"""(model folder, device, slot_recycling) -> the model and its card."""
STAGES = ("decode", "encode", "step", "rle", "write")


@dataclass(frozen=True)
class ShardJob:
    """What a worker must know about the run it belongs to."""

    settings: Settings
    workers: Workers
    plan_id: str
    run_id: str
    model: str
    """Address of the model folder."""
    load: Load | None
    """None: `load_model`."""
    lineage: dict[str, str]
    """Footer of every file."""
    min_score: float
    slot_recycling: bool
    videos_at_once: int
    frames_per_batch: int
    labels: str | None
    """See `SegmentJob.labels`."""
    again: dict[str, str]
    """Shard -> the committed attempt that a new one shall replace."""
    halfway_s: float = 120.0
    """How often it is written down how far each film is."""


PLAN = pa.schema([
    ("shard", pa.string()), ("video_id", pa.string()), ("uri", pa.string()), ("kind", pa.string()),
    ("content_id", pa.string()), ("size_bytes", pa.int64()), ("frames", pa.list_(pa.string())), ("listed", pa.bool_()),
    ("fps", pa.float64()), ("height", pa.int32()), ("width", pa.int32()), ("content_hash", pa.bool_()),
    ("address", pa.string()), ("spans", pa.list_(pa.int64())), ("start_s", pa.float64()), ("end_s", pa.float64()),
    ("every_s", pa.float64()), ("stride", pa.int32()), ("keyframes", pa.bool_()),
    ("tags", pa.map_(pa.string(), pa.string())), ("problem", pa.string()),
])  # fmt: skip


def write_plan(store: Store, plan_id: str, shards: dict[str, list[VideoSource]]) -> None:
    """The shards of a plan, in order, as one small table."""
    rows = [source.row() | {"shard": shard} for shard, sources in shards.items() for source in sources]
    with store.create(plan_key(plan_id, "plan.parquet")) as output:
        pq.write_table(pa.Table.from_pylist(rows, schema=PLAN), output, compression="zstd", row_group_size=4096)


def planned(store: Store, plan_id: str) -> dict[str, list[str]] | None:
    """Shard -> ids of its videos; None: nothing was planned yet."""
    key = plan_key(plan_id, "plan.parquet")
    if not store.exists(key):
        return None
    table = store.read_table(key)
    shards: dict[str, list[str]] = {}
    for shard, video_id in zip(table["shard"].to_pylist(), table["video_id"].to_pylist(), strict=True):
        shards.setdefault(shard, []).append(video_id)
    return shards


def read_plan(store: Store, plan_id: str, shard: str) -> list[VideoSource]:
    """The videos of one shard, in playing order."""
    return _read_plan(store, plan_id, ("shard", "=", shard))


def find_sources(store: Store, plan_id: str, video_ids: Sequence[str]) -> dict[str, VideoSource]:
    """Where some videos of a plan were read, by id."""
    return {source.video_id: source for source in _read_plan(store, plan_id, ("video_id", "in", list(video_ids)))}


def _read_plan(store: Store, plan_id: str, wanted: tuple[str, str, Any]) -> list[VideoSource]:
    path = store.path(plan_key(plan_id, "plan.parquet"))
    rows = pq.read_table(path, filesystem=store.arrow, filters=[wanted]).to_pylist()
    return [VideoSource.of_row(row) for row in rows]
