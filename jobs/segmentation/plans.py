"""Units of work: which they are, which make up each shard of a run, what a worker must know to play one.

No Ray and no torch.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import tables
from jobs.archives.archive import VideoSource
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, plan_key, work_key
from jobs.workers import Workers
from vis_models.cards import ModelCard

Load = Callable[[Path, str, bool], tuple[Any, ModelCard]]
"""(model folder, device, slot_recycling) -> the model and its card."""
ROWS_AT_ONCE = 4096
HALFWAY = f"{LAYOUT}/_halfway"
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
    lake: str
    """Root of the tables."""
    archive: str
    """What the tables call the archive."""
    min_score: float
    slot_recycling: bool
    videos_at_once: int
    frames_per_batch: int
    labels: str | None
    """See `SegmentJob.labels`."""
    halfway_s: float = 120.0
    """How often it is written down how far each film is."""
    halfway: frozenset[str] = frozenset()
    """Units of which earlier runs have written that."""


UNITS = pa.schema([
    ("shard", pa.string()), ("unit", pa.string()), ("replaces", pa.string()), ("video_id", pa.string()),
    ("uri", pa.string()), ("kind", pa.string()), ("content_id", pa.string()), ("size_bytes", pa.int64()),
    ("frames", pa.list_(pa.string())), ("listed", pa.bool_()), ("fps", pa.float64()), ("height", pa.int32()),
    ("width", pa.int32()), ("content_hash", pa.bool_()), ("address", pa.string()), ("spans", pa.list_(pa.int64())),
    ("start_s", pa.float64()), ("end_s", pa.float64()), ("every_s", pa.float64()), ("stride", pa.int32()),
    ("keyframes", pa.bool_()), ("tags", pa.map_(pa.string(), pa.string())), ("problem", pa.string()),
])  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit of work: one video, or a range of its time, by one model with the settings that change pixels."""

    id: str
    source: VideoSource
    replaces: str | None = None
    """The published unit whose rows go when this one's come: the same video before it changed, or its failed try."""


def write_shards(store: Store, run_id: str, shards: dict[str, list[Unit]]) -> None:
    """What a run has to do, shard by shard, as one small table."""
    _write(store, work_key(run_id, "shards.parquet"), shards)


def read_shard(store: Store, run_id: str, shard: str) -> list[Unit]:
    """The units of one shard, in playing order."""
    return _read(store, work_key(run_id, "shards.parquet"), ("shard", "=", shard))


def write_listing(store: Store, plan_id: str, units: Sequence[Unit]) -> None:
    """What an archive holds now, in its order."""
    _write(store, plan_key(plan_id, "listing.parquet"), {"": units})


def read_listing(store: Store, plan_id: str) -> dict[str, str]:
    """Video id -> unit, as an archive was when it was looked at last; empty if it never was."""
    key = plan_key(plan_id, "listing.parquet")
    if not store.exists(key):
        return {}
    with store.arrow.open_input_file(store.path(key)) as file:
        rows = pq.ParquetFile(file).read(["video_id", "unit"], use_threads=False)
    return dict(zip(rows["video_id"].to_pylist(), rows["unit"].to_pylist(), strict=True))


def drop_from_listing(store: Store, plan_id: str, units: Container[str]) -> int:
    """Forget these units of an archive, and where they were; how many there were."""
    key = plan_key(plan_id, "listing.parquet")
    if not store.exists(key):
        return 0
    rows = store.read_table(key)
    kept = rows.filter(pa.array([unit not in units for unit in rows["unit"].to_pylist()], pa.bool_()))
    if len(kept) < len(rows):
        with store.create(key) as output:
            pq.write_table(kept, output, compression="zstd")
    return len(rows) - len(kept)


def find_sources(store: Store, plan_id: str, video_ids: Sequence[str]) -> dict[str, VideoSource]:
    """Where some videos of a plan are read, by id."""
    found = _read(store, plan_key(plan_id, "listing.parquet"), ("video_id", "in", list(video_ids)))
    return {unit.source.video_id: unit.source for unit in found}


def _write(store: Store, key: str, shards: Mapping[str, Sequence[Unit]]) -> None:
    with store.create(key) as output, pq.ParquetWriter(output, UNITS, compression="zstd") as writer:
        rows = (
            unit.source.row() | {"shard": shard, "unit": unit.id, "replaces": unit.replaces}
            for shard, units in shards.items()
            for unit in units
        )
        while some := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=UNITS))


def _read(store: Store, key: str, wanted: tuple[str, str, Any]) -> list[Unit]:
    rows = pq.read_table(store.path(key), filesystem=store.arrow, filters=[wanted]).to_pylist()
    return [Unit(row["unit"], VideoSource.of_row(row), row["replaces"]) for row in rows]


def noted(store: Store) -> set[str]:
    """The units of which it is written down how far they were played, see halfway.py."""
    return {key.removeprefix(f"{HALFWAY}/").split("/")[0] for key in store.list(HALFWAY)}


# Which unit a video is


def settings_id(job: Mapping[str, Any], card: ModelCard, labels_sha256: str | None = None) -> str:
    """The model and the settings that change what it says of a video's pixels."""
    identity = {
        "schema": tables.SCHEMA_VERSION,
        "job": job,
        "model": card.model_dump(mode="json", include={"model", "config", "classes", "sha256"}),
    } | ({"labels": labels_sha256} if labels_sha256 else {})
    return digest(identity)


def units_of(sources: Sequence[VideoSource], settings: str, by_name: bool = False) -> list[Unit]:
    """The unit of each video. Equal bytes are one unit in every place, where the store has a digest of them.

    Where an archive holds equal bytes more than once, their names tell them apart: every video has its rows.

    Args:
        settings: from `settings_id`.
        by_name: the name of a video belongs to its identity.
    """
    places = ["" if source.content_hash else source.uri for source in sources]
    own = [digest([settings, place, source.identity()]) for place, source in zip(places, sources, strict=True)]
    copies = Counter(own)
    return [
        Unit(digest([unit, source.video_id]) if by_name or copies[unit] > 1 else unit, source)
        for unit, source in zip(own, sources, strict=True)
    ]


def digest(value: Any) -> str:
    """A short name for whatever JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
