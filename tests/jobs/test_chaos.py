"""Runs that are killed at any of their steps, again and again, until one comes through; each seed is another story.

A step is whatever a run writes, commits or removes, in worker and driver; a killed run does no step after it. On S3 two
runs go on at once, and what lies between them and the server loses, cuts and refuses requests. `make chaos` tells some
hundred stories, the ordinary tests twenty. Processes are killed for real in `test_faults.py`.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest

from jobs.delta import DeltaTables
from jobs.lake import Lake
from jobs.segmentation import segment as segmenting
from jobs.segmentation import upkeep
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store
from tests.faulty_s3 import faulty
from tests.jobs import barcode
from tests.jobs.barcoded import check_barcodes, read
from tests.jobs.here import here
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit

STORIES = int(os.environ.get("VIS_CHAOS_STORIES", 20))
ON_S3 = STORIES // 5
FILMS = {f"{film}.mp4": 3 + film % 3 for film in range(12)}


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_after(steps: int) -> Iterator[Counter[str]]:
    """From its so-manieth step on a run can do nothing any more; before or after the step, as the number is odd."""
    done: Counter[str] = Counter()

    def mortal(name: str, method: Callable) -> Callable:
        def step(*given: Any, **more: Any) -> Any:
            done[name] += 1
            if done.total() == steps and steps % 2:
                method(*given, **more)
            if done.total() >= steps:
                raise Killed
            return method(*given, **more)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Store, "write_bytes"), (DeltaTables, "put"), (Store, "forget"), (Lake, "compact")):
            patch.setattr(owner, name, mortal(name, getattr(owner, name)))
        yield done


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, frames in FILMS.items():
        barcode.write_film(folder / name, int(Path(name).stem), frames)
    return folder


@pytest.mark.parametrize("seed", range(STORIES - ON_S3))
def test_nothing_is_lost_doubled_or_mixed_whatever_is_killed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    chance = random.Random(seed)
    monkeypatch.setattr(segmenting, "_pool", here)
    monkeypatch.setattr(segmenting, "SHARD_VIDEOS", 2)
    monkeypatch.setattr("jobs.segmentation.work.BATCH_PARTS", chance.choice([1, 2, 100]))
    monkeypatch.setattr("jobs.segmentation.work.COMPACT_FILES", chance.choice([2, 100]))
    model = barcode.write_model(tmp_path / "barcode")
    settings = Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1)
    archives = [SegmentJob(archive=str(films), model=str(model)), SegmentJob(archive=f"{films}/*", model=str(model))]
    for _ in range(chance.randint(1, 4)):
        with killed_after(chance.randint(1, 40)):
            try:
                segment(chance.choice(archives), settings, load=barcode.load)
            except Killed:
                continue
    summary = segment(archives[0], settings, load=barcode.load)
    assert summary.videos == {"done": len(FILMS), "partial": 0, "failed": 0}
    check_barcodes(read(settings), FILMS)
    store = Store.open(settings)
    assert upkeep.verify(store) == []
    assert store.finished() == []
    assert not segment(archives[1], settings, load=barcode.load).worked, "every unit was done, by whatever name"


@pytest.fixture(scope="module")
def bucket(films: Path, s3_server: str) -> str:
    """Address of the first half of the films on S3."""
    client = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="key", aws_secret_access_key="secret", region_name="us-east-1"
    )
    client.create_bucket(Bucket="films")
    for name in sorted(FILMS)[:6]:
        client.upload_file(str(films / name), "films", f"cam/{name}")
    return "s3://films/cam"


@pytest.mark.parametrize("seed", range(ON_S3))
def test_nothing_is_lost_doubled_or_mixed_however_s3_fails(
    bucket: str, s3_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    chance = random.Random(seed)
    monkeypatch.setattr(segmenting, "_pool", here)
    monkeypatch.setattr(segmenting, "SHARD_VIDEOS", 2)
    monkeypatch.setattr("jobs.segmentation.work.BATCH_PARTS", 1)
    monkeypatch.setattr("jobs.delta.WAIT_S", 0.1)
    model = barcode.write_model(tmp_path / "barcode")
    archives = [SegmentJob(archive=bucket, model=str(model)), SegmentJob(archive=f"{bucket}/*", model=str(model))]
    endpoint = s3_settings.s3_endpoint
    assert endpoint
    with faulty(endpoint, seed, chance.choice([0.02, 0.05, 0.1]), conditions=seed % 4 != 3) as (proxy, faults):
        settings = s3_settings.model_copy(update={"s3_endpoint": proxy, "workers": 1, "cpus_per_worker": 1})

        def run(job: SegmentJob) -> None:
            with suppress(Killed, BadConfig):
                segment(job, settings, load=barcode.load)

        with killed_after(chance.randint(1, 40)), ThreadPoolExecutor(2) as both:
            list(both.map(run, archives))
        run(archives[1])
        assert faults.met
    summary = segment(archives[0], s3_settings, load=barcode.load)
    films = {name: FILMS[name] for name in sorted(FILMS)[:6]}
    assert summary.videos == {"done": len(films), "partial": 0, "failed": 0}
    check_barcodes(read(s3_settings), films)
    store = Store.open(s3_settings)
    assert upkeep.verify(store) == []
    assert store.finished() == []
    assert not segment(archives[1], s3_settings, load=barcode.load).worked, "every unit was done, by whatever name"
