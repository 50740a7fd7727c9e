"""A run that goes on from one checkpoint on 1, 2 and 4 workers sees the same samples. Three minutes.

python -m pytest tests/proofs/resumes_on_any_workers.py
"""

from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import Store
from jobs.training.forks import forked, take_over
from jobs.training.recipes.catalogue import build
from jobs.training.run_files import RUNS, read_curve
from jobs.training.train import train

WORKERS = (1, 2, 4)
BEGUN, ENDS = 10, 40
"""Iterations of both stages before and after the number of workers changes."""


def test_a_run_goes_on_with_the_same_samples_on_one_two_and_four_workers(tmp_path: Path):
    def with_workers(count: int) -> Settings:
        scratch = tmp_path / f"scratch-{count}"  # so that encodings of one are not taken by another
        return Settings(store=str(tmp_path / "lake"), scratch=scratch, workers=count, cpus_per_worker=1)

    short = {
        f"stages.{n}.{field}": value for n in (0, 1) for field, value in (("iterations", BEGUN), ("batch_size", 4))
    }
    whole = {
        f"stages.{n}.{field}": value for n in (0, 1) for field, value in (("cosine", False), ("precision", "fp32"))
    }
    job = build("rgnn_r18_world_tiny", {**short, **whole, "config.dropout": 0.0})  # each worker draws its own
    train(job, with_workers(1), "begun")
    store = Store.open(with_workers(1))
    longer = forked(store, "begun", job, {"stages.0.iterations": ENDS, "stages.1.iterations": 20})
    curves = {}
    for count in WORKERS:
        name = f"on-{count}"
        take_over(store, "begun", job, longer, name)
        train(longer, with_workers(count), name)
        curves[count] = [point for stage in longer.stages for point in read_curve(store, f"{RUNS}/{name}/{stage.name}")]
    points = [point["iteration"] for point in curves[1]]
    assert points == [BEGUN, 20, ENDS, 20]  # the detector goes on, the tracker begins anew
    losses = {count: [point["loss"] for point in curve] for count, curve in curves.items()}
    print(losses)
    for count in WORKERS:
        assert losses[count] == pytest.approx(losses[1], rel=2e-2)
    assert losses[1][1] != pytest.approx(losses[1][2], rel=2e-2)  # other samples have other losses
