"""Tracking metrics of an evaluation: summed video by video, then rows beside those of AP, and a list of the switches.

The rows of `evaluations.py` that are written here, `HOTA` standing for any of the figures:

    category, video_id null   HOTA pooled over the categories; HOTA_class_mean; HOTA@0.50, DetA@0.50, AssA@0.50, ... at
                              each IoU threshold; tracking_min_score, the least score of a track that took part
    category, or video_id     HOTA of that category or video, where the labels show an object

Each identity switch is a row of the record of `switches.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vis_models.data.dialects import VideoId
from vis_models.metrics.clear import Switch
from vis_models.metrics.hota import ALPHAS
from vis_models.metrics.scenes import ANY, Scene
from vis_models.metrics.tracking import Tracking, by_category, class_mean, pooled, track_scene
from vis_models.metrics.youtube_vis import GroundTruth

MIN_SCORE = "tracking_min_score"
CURVES = ("HOTA", "DetA", "AssA")


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
