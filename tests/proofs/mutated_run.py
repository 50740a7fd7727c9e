"""Thousands of damaged films in one archive, segmented by a run: each is one row, and every damage has its reason."""

import functools
from collections import Counter
from pathlib import Path

from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode, mutated
from tests.jobs.barcoded import one_row_each

FILMS = 3000


def test_thousands_of_damaged_films_are_one_row_each(tmp_path: Path):
    whole = mutated.write(tmp_path / "whole", "mp4").read_bytes()
    (tmp_path / "films").mkdir()
    for seed in range(FILMS):
        (tmp_path / f"films/{seed:05d}.mp4").write_bytes(mutated.mutate(whole, seed))
    settings = Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1, decode_timeout_s=20)
    model = barcode.write_model(tmp_path / "barcode")
    job = SegmentJob(archive=str(tmp_path / "films"), model=str(model), max_failed=1)
    summary = segment(job, settings, load=functools.partial(barcode.load, blind=True))
    print(summary)
    codes = one_row_each(Store.open(settings), FILMS)
    assert set(codes) <= mutated.ANSWERS
    assert codes == Counter(summary.errors)
