"""A run that goes on from one checkpoint on 1, 2 and 4 workers sees the same samples. Three minutes.

python -m pytest tests/proofs/resumes_on_any_workers.py
"""

from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.forks import forked, take_over
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import build
from jobs.training.run_files import RUNS, read_curve
from jobs.training.train import train

WORKERS = (1, 2, 4)
BEGUN, ENDS = 10, 20
"""Iterations before and after the number of workers changes; rounding lets later ones drift apart."""


def test_a_run_goes_on_with_the_same_samples_on_one_two_and_four_workers(tmp_path: Path):
    def with_workers(count: int) -> Settings:
        scratch = tmp_path / f"scratch-{count}"  # so that encodings of one are not taken by another
        return Settings(store=str(tmp_path / "lake"), scratch=scratch, workers=count, cpus_per_worker=1)

    def losses(job: TrainJob, name: str, stage: int) -> dict[int, list[float]]:
        """Of the stage after `BEGUN` iterations on one worker, by the workers on which it went on."""
        train(job, with_workers(1), name)
        longer = forked(store, name, job, {f"stages.{stage}.iterations": ENDS})
        curves = {}
        for count in WORKERS:
            take_over(store, name, job, longer, f"{name}-on-{count}")
            train(longer, with_workers(count), f"{name}-on-{count}")
            curves[count] = read_curve(store, f"{RUNS}/{name}-on-{count}/{longer.stages[stage].name}")
            assert [point["iteration"] for point in curves[count]] == [BEGUN, ENDS]
        return {count: [point["loss"] for point in curve] for count, curve in curves.items()}

    store = Store.open(with_workers(1))
    fields = {"iterations": BEGUN, "batch_size": 4, "cosine": False, "precision": "fp32"}
    changes = {f"stages.{stage}.{field}": value for stage in (0, 1) for field, value in fields.items()}
    job = build("rgnn_r18_world_tiny", {**changes, "config.dropout": 0.0})  # each worker draws its own dropout
    detector = losses(job.model_copy(update={"stages": job.stages[:1]}), "detector", 0)
    trained = store.uri(f"{LAYOUT}/models/detector-on-1")
    tracker = losses(job.model_copy(update={"detector": trained}), "tracker", 1)
    print(detector, tracker)
    for found in (detector, tracker):
        assert found[2] == pytest.approx(found[1], rel=5e-3)
        assert found[4] == pytest.approx(found[1], rel=5e-3)
