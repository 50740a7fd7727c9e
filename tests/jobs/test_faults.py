"""Workers that die, models and disks that fail, runs that are stopped: no video is lost, and none is done twice."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from jobs.archives.archive import list_videos
from jobs.segmentation import segment as segmenting
from jobs.segmentation.plans import Unit
from jobs.segmentation.segment import SegmentJob, segment, split
from jobs.segmentation.work import Publisher
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode, mutated, odd_models
from tests.jobs.barcoded import LENGTHS, check_barcodes, many_films, one_row_each, read
from vis_models.config import BadConfig

ray.cloudpickle.register_pickle_by_value(barcode)  # workers cannot import the tests

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(model: Path, either: Settings, tmp_path: Path):
    settings = either
    archive = many_films(tmp_path / "films", 20, frames=10)
    slow = functools.partial(barcode.load, delay_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(segment, SegmentJob(archive=str(archive), model=str(model)), settings, load=slow)
        note = wait_for_note(settings)
        time.sleep(0.3)
        os.kill(note["pid"], signal.SIGKILL)
        summary = running.result(timeout=120)
    rows = read(settings)
    check_barcodes(rows, {f"{film}.mp4": 10 for film in range(20)})
    assert len(rows["videos"]) == 20
    assert summary.videos["done"] == 20
    attempts = [key for key in Store.open(settings).list("vis/v1/_work") if key.endswith("started.json")]
    assert len(attempts) == 3, "two shards, one of which was begun twice"


def test_what_a_run_finished_and_did_not_publish_is_published_by_the_next(
    films: Path, model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    job = SegmentJob(archive=str(films), model=str(model))
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_publish", lambda self: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            segment(job, settings, load=barcode.load)
    store = Store.open(settings)
    assert len(store.finished()) > 0
    with pytest.raises(BadConfig, match="no published tables"):
        read(settings)
    nowhere = settings.model_copy(update={"device": "cuda"})  # would be refused if a worker were asked for
    assert segment(job, nowhere, load=barcode.load).videos == {"done": 5, "partial": 1, "failed": 2}
    check_barcodes(read(settings), LENGTHS | {"6": 4})
    assert store.finished() == []


def wait_for_note(settings: Settings) -> dict[str, Any]:
    """The note of the first attempt: which process is at work."""
    store = Store.open(settings)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        notes = [key for key in store.list("vis/v1/_work") if key.endswith("started.json")]
        if notes:
            return store.read_json(notes[0])
        time.sleep(0.05)
    raise TimeoutError("no worker began")


def test_two_runs_at_once_give_each_video_once(model: Path, settings: Settings, tmp_path: Path):
    archive = many_films(tmp_path / "films", 20)
    job = SegmentJob(archive=str(archive), model=str(model))
    slow = functools.partial(barcode.load, delay_s=0.05)
    barrier = threading.Barrier(2)

    def run(name: str) -> Any:
        barrier.wait()
        return segment(job, settings, run_id=name, load=slow)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(run, ["one", "two"])
    assert one.plan_id == two.plan_id
    assert one.rows == two.rows
    rows = read(settings)
    check_barcodes(rows, {f"{film}.mp4": 6 for film in range(20)})
    assert sorted(row["video_id"] for row in rows["videos"]) == sorted(f"{film}.mp4" for film in range(20))


def test_a_fault_of_ours_stops_loudly_and_the_next_run_does_the_rest(model: Path, settings: Settings, tmp_path: Path):
    archive = many_films(tmp_path / "films", 20)
    job = SegmentJob(archive=str(archive), model=str(model))
    shards = split_of(archive, settings)
    spoilt = int(Path(shards[1][0]).stem)
    with pytest.raises(Exception, match=f"film {spoilt} is one too many"):
        segment(job, settings, load=functools.partial(barcode.load, fails_on=spoilt))
    before = {row["video_id"]: row["run_id"] for row in read(settings)["videos"]}
    assert sorted(before) == sorted(shards[0]), "what was finished is published"
    summary = segment(job, settings, load=barcode.load)
    after = {row["video_id"]: row["run_id"] for row in read(settings)["videos"]}
    assert before.items() < after.items(), "and not done again"
    assert (summary.videos["done"], summary.known) == (20, len(before))
    check_barcodes(read(settings), {f"{film}.mp4": 6 for film in range(20)})


def split_of(archive: Path, settings: Settings) -> list[list[str]]:
    shards = split([Unit(source.video_id, source) for source in list_videos(str(archive), Store.open(settings))])
    return [[unit.source.video_id for unit in shard] for shard in shards.values()]


def test_what_the_user_can_mend_comes_out_of_a_worker_as_it_went_in(films: Path, model: Path, settings: Settings):
    with pytest.raises(BadConfig, match=r"^barcode does not fit its card on cpu$"):
        segment(SegmentJob(archive=str(films), model=str(model)), settings, load=odd_models.does_not_fit)


def test_a_full_disk_is_a_sentence(films: Path, model: Path, settings: Settings):
    with pytest.raises(BadConfig, match=r"^/lake/videos.parquet: No space left on device. Make room there"):
        segment(SegmentJob(archive=str(films), model=str(model)), settings, load=odd_models.finds_the_disk_full)


@pytest.mark.timeout(300)
def test_a_model_that_ends_its_process_does_not_do_so_for_ever(films: Path, model: Path, settings: Settings):
    with pytest.raises(RuntimeError, match=r"lost its worker 4 times, .*exit code 3.* memory to spare"):
        segment(SegmentJob(archive=str(films), model=str(model)), settings, load=odd_models.ends_the_process)


@pytest.mark.usefixtures("in_process")
def test_when_every_video_fails_there_are_tables_and_a_bad_exit_code(model: Path, settings: Settings, tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").write_text("no film")
    summary = segment(SegmentJob(archive=str(tmp_path), model=str(model)), settings, load=barcode.load)
    assert (summary.exit_code, summary.videos["failed"], summary.frames) == (1, 2, 0)
    rows = read(settings)
    assert [row["status"] for row in rows["videos"]] == ["failed", "failed"]
    assert len(rows["errors"]) == 2
    assert rows["tracks"] == rows["masks"] == []


@pytest.mark.timeout(300)
def test_a_video_that_kills_its_worker_is_a_row_and_the_others_are_done(model: Path, either: Settings, tmp_path: Path):
    archive = many_films(tmp_path / "films", 5)
    killer = functools.partial(barcode.load, kills_on=1)
    summary = segment(SegmentJob(archive=str(archive), model=str(model)), either, load=killer)
    assert summary.videos == {"done": 4, "partial": 0, "failed": 1}
    (error,) = read(either)["errors"]
    assert (error["video_id"], error["code"], error["retryable"]) == ("1.mp4", "decoder_crashed", False)
    assert "the second time when it was played alone" in error["detail"]
    assert ("SIGKILL" in error["detail"]) == (either.workers == 1), "Ray does not say how a worker ended"
    check_barcodes(read(either), {f"{film}.mp4": 6 for film in (0, 2, 3, 4)})
    whole = segment(SegmentJob(archive=str(archive), model=str(model), retry_errors=True), either, load=barcode.load)
    assert (whole.plan_id, whole.videos) == (summary.plan_id, {"done": 5, "partial": 0, "failed": 0})
    check_barcodes(read(either), {f"{film}.mp4": 6 for film in range(5)})


@pytest.mark.usefixtures("in_process")
def test_where_most_videos_fail_the_run_ends_with_the_reasons_and_what_was_done_stays(
    model: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segmenting, "JUDGED", 6)
    monkeypatch.setattr(segmenting, "SHARD_VIDEOS", 1)
    films = barcode.write_film(tmp_path / "films/12.mp4", 12, 6).parent
    for film in range(12):
        (films / f"{film}.mp4").write_bytes(b"\0" * 2000)
    job = SegmentJob(archive=str(films), model=str(model))
    one_worker = settings.model_copy(update={"workers": 1})
    with pytest.raises(BadConfig, match=r"5 of the first 6 videos failed \(\w+ 5\).*errors.*--max-failed 1"):
        segment(job, one_worker, load=barcode.load)
    done = len(read(one_worker)["videos"])
    assert 6 <= done < 13
    summary = segment(job.model_copy(update={"max_failed": 1}), one_worker, load=barcode.load)
    assert summary.videos == {"done": 1, "partial": 0, "failed": 12}
    assert summary.known == done, "what the first run did"


@pytest.mark.usefixtures("in_process")
def test_a_video_that_was_not_there_for_a_while_is_tried_again_by_the_same_command(
    model: Path, settings: Settings, tmp_path: Path
):
    archive = many_films(tmp_path / "films", 3)
    job = SegmentJob(archive=str(archive), model=str(model))
    gone_for_now = functools.partial(odd_models.hides, film=str(archive / "1.mp4"))
    first = segment(job, settings, load=gone_for_now)
    assert (first.videos["done"], first.errors) == (2, {"missing": 1})
    (archive / "1.mp4.hidden").rename(archive / "1.mp4")
    second = segment(job, settings, load=barcode.load)
    assert (second.plan_id, second.videos["done"], second.errors) == (first.plan_id, 3, {})
    check_barcodes(read(settings), {f"{n}.mp4": 6 for n in range(3)})
    assert not segment(job, settings, load=odd_models.does_not_fit).worked


def test_ctrl_c_says_what_is_kept_and_the_next_run_goes_on_there(model: Path, settings: Settings, tmp_path: Path):
    archive = many_films(tmp_path / "films", 20)
    job = SegmentJob(archive=str(archive), model=str(model))
    notes = []

    def interrupts(_stage: str, _done: int, _total: int, info: dict[str, Any]) -> None:
        if "note" in info:
            notes.append(info["note"])
        elif info["videos"] == "10 of 20":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(job, settings, progress=interrupts, load=functools.partial(barcode.load, delay_s=0.05))
    assert notes[1:] == ["stopped. 10 of 20 videos (60 frames) are done and kept; the same command goes on after them"]
    before = {row["video_id"]: row["run_id"] for row in read(settings)["videos"]}
    assert len(before) == 10
    summary = segment(job, settings, load=barcode.load)
    after = {row["video_id"]: row["run_id"] for row in read(settings)["videos"]}
    assert before.items() < after.items()
    assert summary.videos["done"] == 20


@pytest.mark.timeout(300)
def test_a_killed_run_resumes_and_leaves_no_process(model: Path, settings: Settings, tmp_path: Path):
    archive = many_films(tmp_path / "films", 40)
    script = (
        "import functools, sys; from tests.jobs import barcode; from jobs.segmentation.segment import *;"
        "segment(SegmentJob(archive=sys.argv[1], model=sys.argv[2]), Settings(store=sys.argv[3]),"
        " load=functools.partial(barcode.load, delay_s=0.05))"
    )
    command = [sys.executable, "-c", script, str(archive), str(model), settings.store]
    store = Store.open(settings)
    run = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not store.finished():
            assert run.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker = wait_for_note(settings)["pid"]
    finally:
        run.kill()
        run.wait()
    finished = {unit for part in store.finished() for unit in part.units}
    assert 0 < len(finished) < 40
    summary = segment(SegmentJob(archive=str(archive), model=str(model)), settings, load=barcode.load)
    assert summary.known == len(finished)
    assert summary.videos["done"] == 40
    check_barcodes(read(settings), {f"{film}.mp4": 6 for film in range(40)})
    assert gone(worker), "a worker of the killed run is still there"


def gone(pid: int) -> bool:
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.usefixtures("in_process")
def test_damaged_films_are_one_row_each(model: Path, settings: Settings, tmp_path: Path):
    whole = mutated.write(tmp_path / "whole", "mp4").read_bytes()
    (tmp_path / "films").mkdir()
    for seed in range(100):
        (tmp_path / f"films/{seed}.mp4").write_bytes(mutated.mutate(whole, seed))
    job = SegmentJob(archive=str(tmp_path / "films"), model=str(model), max_failed=1)
    summary = segment(job, settings, load=functools.partial(barcode.load, blind=True))
    codes = one_row_each(Store.open(settings), 100)
    assert set(codes) <= mutated.ANSWERS
    assert codes == Counter(summary.errors)
