"""What came out of the rows of an ablation: a file for each run, and one CSV of all.

Two ablations of one folder that run side by side lose nothing of each other.
"""

import csv
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.store import Store
from jobs.training.recipes.base import TrainJob
from vis_models.config import Config
from vis_models.data.annotations import VideoSet, as_youtube_vis
from vis_models.metrics.average_precision import accumulate
from vis_models.metrics.scenes import scenes
from vis_models.metrics.track_matching import Matches, match_video
from vis_models.metrics.youtube_vis import GroundTruth, results_by_video

Run = tuple[str, int]
"""(row, seed)"""
RUN = ".run.json"
"""Ending of the file of a finished run."""
FIGURES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ar10": "AR10"}


@dataclass(frozen=True)
class Asked:
    """The runs that have no result yet, and what they have in common."""

    models: tuple[str, ...]
    """Registered; the first one's weights are those of the proposed approach."""
    base: TrainJob
    """The proposed approach."""
    waiting: Mapping[Run, TrainJob]
    sets: tuple[VideoSet, VideoSet]
    """Training and validation."""
    folder: str
    """Of the ablation, in the store."""


class RowResult(Config):
    """One line of the CSV."""

    row: str
    seed: int
    ap: float
    """Of the validation videos, as a fraction, as all figures here."""
    ap50: float
    ap75: float
    ar10: float
    loss: float
    """Mean of the last tenth of the iterations; NaN where it diverged, or nothing was trained."""
    iterations: int
    minutes: float
    """Of training on one core; of playing, where nothing is trained."""
    recipe: str
    detector: str
    data: str
    videos: int
    command: str
    commit: str
    created_at: str


def read_results(store: Store, folder: str) -> list[RowResult]:
    """The lines of the CSV and of the runs that it lacks, in the order in which they were finished."""
    key, found = f"{folder}/results.csv", []
    if store.exists(key):
        found = [RowResult.model_validate(line) for line in csv.DictReader(io.StringIO(store.read_bytes(key).decode()))]
    runs = [RowResult.model_validate(store.read_json(key)) for key in store.list(folder) if key.endswith(RUN)]
    whole = {(result.row, result.seed): result for result in [*found, *runs]}
    return sorted(whole.values(), key=lambda result: result.created_at)


def _add(store: Store, folder: str, result: RowResult) -> list[RowResult]:
    """Keep a finished run as a file of its own, which another ablation of the same folder does not touch, and write the
    CSV anew. All results, those that others finished meanwhile among them, come back."""
    store.write_json(f"{folder}/{result.row}-{result.seed}{RUN}", result.model_dump())
    results = read_results(store, folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RowResult.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.model_dump() for result in results)
    store.write_bytes(f"{folder}/results.csv", text.getvalue().encode())
    return results


def keep(store: Store, folder: str, result: RowResult, predictions: list[dict[str, Any]]) -> list[RowResult]:
    """A finished run, and what it predicted. All results, those that others finished meanwhile among them."""
    key = f"{folder}/{result.row}-{result.seed}.results.json.gz"
    store.write_bytes(key, gzip.compress(json.dumps(predictions).encode()))
    return _add(store, folder, result)


def predictions_of(store: Store, folder: str, row: str, seed: int) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(store.read_bytes(f"{folder}/{row}-{seed}.results.json.gz")))


def figures_of(val_set: VideoSet, predictions: list[dict[str, Any]]) -> dict[str, float]:
    """What `RowResult` says of predictions for these videos."""
    truth = truth_of(val_set)
    summary = accumulate(matches_of(truth, predictions), [*truth.categories]).summary()
    return {name: summary[figure] for name, figure in FIGURES.items()}


def truth_of(val_set: VideoSet) -> GroundTruth:
    return GroundTruth(as_youtube_vis(val_set), val_set.source)


def matches_of(truth: GroundTruth, predictions: list[dict[str, Any]]) -> list[dict[int, Matches]]:
    """The matches of every video of the labels."""
    grouped, categories = results_by_video(truth, predictions, "results"), [*truth.categories]
    return [
        match_video(scenes(truth.predictions(grouped.get(video, [])), truth.truths(video), categories))
        for video in truth.video_ids()
    ]
