"""Tracking metrics of an evaluation: summed video by video, then rows beside those of AP, and a list of the switches.

The rows of `evaluations.py` that are written here, `HOTA` standing for any of the figures:

    category, video_id null   HOTA pooled over the categories; HOTA_class_mean; HOTA@0.50, DetA@0.50, AssA@0.50, ... at
                              each IoU threshold; tracking_min_score, the least score of a track that took part
    category, or video_id     HOTA of that category or video, where the labels show an object

Each identity switch is a row of one Parquet file per evaluation under `vis/v1/switches/`, never overwritten.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store import LAYOUT, Store
from vis_models.data.dialects import VideoId
from vis_models.metrics.clear import Switch
from vis_models.metrics.hota import ALPHAS
from vis_models.metrics.scenes import ANY, Scene
from vis_models.metrics.tracking import Tracking, by_category, class_mean, pooled, track_scene
from vis_models.metrics.youtube_vis import GroundTruth

FOLDER = f"{LAYOUT}/switches"
MIN_SCORE = "tracking_min_score"
CURVES = ("HOTA", "DetA", "AssA")

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


class TrackingScore:
    """Counts and switches of the videos so far; of masks nothing is kept.

    Args:
        min_score: tracks below do not take part.
    """

    def __init__(self, truth: GroundTruth, min_score: float) -> None:
        self.truth, self.min_score = truth, min_score
        self.videos: dict[VideoId, dict[int, Tracking]] = {}
        self.switches: list[dict[str, Any]] = []

    def add(self, video: VideoId, scenes: Mapping[int, Scene]) -> None:
        """Count one video; one without predictions must be added too, or what it shows is not missed."""
        self.videos[video] = {}
        rows = []
        for category, scene in scenes.items():
            self.videos[video][category], switches = track_scene(scene, self.min_score)
            rows += [self._row(video, scene, switch) for switch in switches]
        self.switches += sorted(rows, key=lambda row: (row["frame_idx"], row["object_id"]))

    def _row(self, video: VideoId, scene: Scene, switch: Switch) -> dict[str, Any]:
        truth = scene.truths[switch.object]
        return {
            "video_id": str(video),
            "frame_idx": switch.frame,
            "category": self.truth.categories[truth.category],
            "object_id": truth.truth_id,
            "from_track": scene.predictions[switch.before].track_id,
            "to_track": scene.predictions[switch.after].track_id,
            "frames_before": switch.frames_before,
            "frames_after": switch.frames_after,
            "cost_frames": switch.cost_frames,
        }

    def figures(self) -> dict[str, float]:
        """Of the whole data set: pooled, then the class means, then the least score."""
        categories = by_category([*self.videos.values()])
        means = {} if ANY in categories else class_mean(categories)
        found = pooled(categories).figures()
        return found | {f"{name}_class_mean": value for name, value in means.items()} | {MIN_SCORE: self.min_score}

    def rows(self) -> Iterator[dict[str, Any]]:
        """For `evaluations.write`."""
        categories = by_category([*self.videos.values()])
        curves = pooled(categories).hota.curves()
        points = {
            f"{name}@{alpha:.2f}": float(value)
            for name in CURVES
            for alpha, value in zip(ALPHAS, curves[name], strict=True)
        }
        yield from _rows(self.figures() | points, {})
        for category, counts in categories.items():
            if category != ANY and counts.objects_seen:
                labels = {"category_id": category, "category": self.truth.categories[category]}
                yield from _rows(counts.figures(), labels)
        for video in self.truth.video_ids():
            counts = pooled(self.videos[video])
            if counts.objects_seen:
                yield from _rows(counts.figures(), {"video_id": str(video)})


def _rows(figures: Mapping[str, float], labels: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for metric, value in figures.items():
        yield {**labels, "metric": metric, "value": value}


def write_switches(store: Store, evaluation_id: str, switches: Sequence[Mapping[str, Any]]) -> str:
    """The URI of a new file, with one row per switch."""
    key = f"{FOLDER}/{evaluation_id}.parquet"
    table = pa.Table.from_pylist([{**row, "evaluation_id": evaluation_id} for row in switches], schema=SWITCHES)
    with store.create(key) as file:
        pq.write_table(table, file, compression="zstd")
    return store.uri(key)


def worst_switches(store: Store, evaluation_id: str, count: int) -> list[dict[str, Any]]:
    """Rows of the switches that would need the most frames renamed; none where an evaluation has no such file."""
    key = f"{FOLDER}/{evaluation_id}.parquet"
    if not store.exists(key):
        return []
    rows = store.read_table(key).to_pylist()
    rows.sort(key=lambda row: (-row["cost_frames"], row["video_id"], row["frame_idx"], row["object_id"]))
    return rows[:count]
