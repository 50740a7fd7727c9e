"""The identity switches of all evaluations: one Parquet file each under `vis/v1/switches/`, never overwritten."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store import LAYOUT, Store

FOLDER = f"{LAYOUT}/switches"
SWITCHES = pa.schema(
    [
        pa.field("evaluation_id", pa.string(), False, {"meaning": "as in the evaluation"}),
        pa.field("video_id", pa.string(), False, {"meaning": "in the labels"}),
        pa.field("frame_idx", pa.int32(), False, {"meaning": "from this frame on the other track", "range": "0.."}),
        pa.field("category", pa.string(), False, {"meaning": "of the object, in the labels"}),
        pa.field("object_id", pa.int64(), False, {"meaning": "id of the annotation in the labels"}),
        pa.field(
            "from_track", pa.int64(), False, {"meaning": "track_id; of a results file: n-th of its video, from 1"}
        ),
        pa.field("to_track", pa.int64(), False, {"meaning": "as from_track"}),
        pa.field("frames_before", pa.int32(), False, {"meaning": "with from_track since the switch before"}),
        pa.field("frames_after", pa.int32(), False, {"meaning": "with to_track until the next switch"}),
        pa.field("cost_frames", pa.int32(), False, {"meaning": "the smaller of the two: frames to rename to mend it"}),
    ]
)


def write(store: Store, evaluation_id: str, switches: Sequence[Mapping[str, Any]]) -> str:
    """The URI of a new file, with one row per switch."""
    key = f"{FOLDER}/{evaluation_id}.parquet"
    table = pa.Table.from_pylist([{**row, "evaluation_id": evaluation_id} for row in switches], schema=SWITCHES)
    with store.create(key) as file:
        pq.write_table(table, file, compression="zstd")
    return store.uri(key)


def worst(store: Store, evaluation_id: str, count: int) -> list[dict[str, Any]]:
    """Rows of the switches that would need the most frames renamed; none where an evaluation has no such file."""
    key = f"{FOLDER}/{evaluation_id}.parquet"
    if not store.exists(key):
        return []
    rows = store.read_table(key).to_pylist()
    rows.sort(key=lambda row: (-row["cost_frames"], row["video_id"], row["frame_idx"], row["object_id"]))
    return rows[:count]
