"""What an evaluation keeps of its matches, video by video, so that it can be compared with any other later.

One Parquet file each under `vis/v1/matches/`, named as the evaluation: a row per video and category, a few kilobytes
in all. Bit t of a hit or miss belongs to the t-th IoU threshold.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, UInt16

from jobs.store import LAYOUT, Store
from vis_models.config import BadConfig
from vis_models.metrics.track_matching import THRESHOLDS
from vis_models.metrics.uncertainty import Outcome

FOLDER = f"{LAYOUT}/matches"
OUTCOMES = pa.schema(
    [
        pa.field("video_id", pa.string(), False, {"meaning": "id in the labels"}),
        pa.field("category_id", pa.int32(), False, {"meaning": "id in the labels; -1: all of them"}),
        pa.field("objects", pa.int32(), False, {"meaning": "to be found", "range": ">= 0"}),
        pa.field("scores", pa.list_(pa.float64()), False, {"meaning": "of the predictions, best first"}),
        pa.field("hits", pa.list_(pa.uint16()), False, {"meaning": "bit t: found an object at THRESHOLDS[t]"}),
        pa.field("misses", pa.list_(pa.uint16()), False, {"meaning": "bit t: a false positive at THRESHOLDS[t]"}),
    ]
)
BITS = 1 << np.arange(len(THRESHOLDS))[:, None]

Outcomes = Mapping[str, Mapping[int, Outcome]]
"""By video and category; the videos in the order in which they are scored."""


def write(store: Store, evaluation_id: str, found: Outcomes) -> None:
    rows = [
        {
            "video_id": video,
            "category_id": category,
            "objects": each.objects,
            "scores": each.scores,
            "hits": _packed(each.hit),
            "misses": _packed(each.miss),
        }
        for video, outcomes in found.items()
        for category, each in outcomes.items()
    ]
    table = pa.Table.from_pylist(rows, schema=OUTCOMES).replace_schema_metadata({"videos": json.dumps([*found])})
    with store.create(_key(evaluation_id)) as file:
        pq.write_table(table, file, compression="zstd")


def kept(store: Store, evaluation_id: str) -> bool:
    """Whether the evaluation kept its matches."""
    return store.exists(_key(evaluation_id))


def read(store: Store, evaluation_id: str) -> dict[str, dict[int, Outcome]]:
    """Raises BadConfig: the evaluation kept no matches."""
    if not kept(store, evaluation_id):
        raise BadConfig(f"evaluation {evaluation_id} kept no matches in {store.uri(FOLDER)}: evaluate it once more")
    table = store.read_table(_key(evaluation_id))
    found: dict[str, dict[int, Outcome]] = {video: {} for video in json.loads(table.schema.metadata[b"videos"])}
    for row in table.to_pylist():
        outcome = Outcome(np.array(row["scores"]), _unpacked(row["hits"]), _unpacked(row["misses"]), row["objects"])
        found[row["video_id"]][row["category_id"]] = outcome
    return found


def _key(evaluation_id: str) -> str:
    return f"{FOLDER}/{evaluation_id}.parquet"


def _packed(at: Bool[np.ndarray, "T D"]) -> UInt16[np.ndarray, " D"]:
    return (at * BITS).sum(axis=0).astype(np.uint16)


def _unpacked(bits: list[int]) -> Bool[np.ndarray, "T D"]:
    return (np.array(bits, dtype=int) & BITS) != 0
