"""Thousands of damaged films and images, decoded in child processes: none crashes, hangs or gives an unexpected answer.

`python -m tests.proofs.mutated_media FOLDER KIND FIRST LAST` decodes the seeds of one kind and prints what became
of them, a line of JSON each.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jobs.archives.archive import list_videos
from jobs.archives.frames import frames_in_time
from jobs.segmentation.records import MaskSpill
from jobs.segmentation.side_by_side import SideBySide
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode, mutated
from vis_models.config import BadVideo

REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = 500
"""Of each kind."""


@pytest.mark.parametrize("kind", mutated.KINDS)
def test_no_damage_crashes_hangs_or_surprises(tmp_path: Path, kind: str):
    command = [sys.executable, "-m", "tests.proofs.mutated_media", str(tmp_path), kind, "0", str(SEEDS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=550)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"seed {len(rows)} ended it: {done.stderr[-2000:]}"
    codes = Counter(row["code"] for row in rows)
    print(kind, dict(codes))
    assert sum(codes.values()) == SEEDS
    assert [row for row in rows if row["code"] not in mutated.ANSWERS] == []


def test_everything_bad_odd_and_tried_in_one_archive_gives_one_outcome_each(shared_data: Path, tmp_path: Path):
    for part in ("real/bad", "real/odd", "trial"):
        (tmp_path / Path(part).name).symlink_to(shared_data / "data" / part)
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    sources = list_videos(f"{tmp_path}/*", store)
    model = barcode.Barcode(blind=True)
    stage = SideBySide(model, "cpu", store, videos_at_once=8, frames_per_batch=64, threads=2)
    outcomes = {outcome.source.video_id: outcome for outcome in stage.play(sources, MaskSpill())}
    assert sorted(outcomes) == sorted(source.video_id for source in sources)
    codes = {outcome.error.code for outcome in outcomes.values() if outcome.error}
    assert codes <= mutated.ANSWERS | {"frame_gap", "lfs_pointer"}
    assert all(outcome.status == "done" for name, outcome in outcomes.items() if name.startswith("odd/"))


def main(folder: Path, kind: str, first: int, last: int) -> None:
    store = Store.open(Settings(store=str(folder / "lake"), decode_timeout_s=20))
    whole = mutated.write(folder / "whole", kind).read_bytes()
    for seed in range(first, last):
        path = folder / f"film.{kind}"
        path.write_bytes(mutated.mutate(whole, seed))
        code, detail, frames = None, "", 0
        try:
            for _ in frames_in_time(mutated.source_of(path, store), store, (48, 64)):
                frames += 1
        except BadVideo as error:
            code, detail = error.code, str(error)
        print(json.dumps({"seed": seed, "code": code, "frames": frames, "detail": detail}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
