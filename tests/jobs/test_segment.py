import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from pycocotools import mask as coco

from jobs import tables
from jobs.archives.archive import VideoSource, list_videos
from jobs.lake import Lake
from jobs.segmentation import segment as segmenting
from jobs.segmentation.plans import Unit
from jobs.segmentation.segment import CRASHES, SHARD_VIDEOS, SegmentJob, _HowFar, segment, split
from jobs.segmentation.work import Publisher
from jobs.settings import Settings
from jobs.store import Part, Store
from tests.jobs import barcode, mutated, odd_models
from vis_models.config import BadConfig

ray.cloudpickle.register_pickle_by_value(barcode)  # workers cannot import the tests

LENGTHS = {"1.mp4": 12, "2.mp4": 30, "3.mp4": 5, "deep/4.mp4": 21, "5": 9}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five whole videos, one that breaks off and two that do not open."""
    folder = tmp_path_factory.mktemp("films")
    for name, frames in LENGTHS.items():
        if name.endswith(".mp4"):
            barcode.write_film(folder / name, int(Path(name).stem), frames)
    barcode.write_frames(folder / "5", 5, range(9))
    barcode.write_frames(folder / "6", 6, range(7))
    (folder / "6/00004.jpg").write_bytes(b"\xff\xd8 no more")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no film")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return barcode.write_model(tmp_path_factory.mktemp("models") / "barcode")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One worker, which needs no Ray."""
    return Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1)


@pytest.fixture
def two_workers(settings: Settings, local_ray: None) -> Settings:
    """On Ray."""
    return settings.model_copy(update={"workers": 2})


@pytest.fixture(params=["settings", "two_workers"])
def either(request: pytest.FixtureRequest) -> Settings:
    return request.getfixturevalue(request.param)


def many_films(folder: Path, count: int, frames: int = 6) -> Path:
    """More films than one shard holds."""
    for film in range(count):
        barcode.write_film(folder / f"{film}.mp4", film, frames)
    return folder


def read(settings: Settings, plan_id: str | None = None) -> dict[str, list[dict[str, Any]]]:
    opened = tables.open(Store.open(settings), plan_id)
    return {name: dataset.to_table().to_pylist() for name, dataset in opened.items()}


def check_barcodes(rows: dict[str, list[dict[str, Any]]], lengths: dict[str, int]) -> None:
    """Every frame of every video was seen once, in its own video, and by a track of its own."""
    found = sorted((row["video_id"], row["track_id"], row["frame_idx"], row["area_px"]) for row in rows["masks"])
    wanted = []
    for name, frames in lengths.items():
        film = int(Path(name).stem)
        wanted += [(name, film, frame, 10 * (1 + frame % 20)) for frame in range(frames)]
        wanted += [(name, 1000, frame, 100) for frame in range(0, frames, 2)]
    assert found == sorted(wanted)


def test_an_archive_becomes_four_tables(films: Path, model: Path, settings: Settings):
    reports: list[tuple] = []
    job = SegmentJob(archive=str(films), model=str(model), frame_folder_fps=5, command="vis segment films")
    summary = segment(job, settings, progress=lambda *report: reports.append(report), run_id="r1", load=barcode.load)
    assert reports[0] == ("segment", 0, 1, {"note": f"looks for videos in {films}"})
    rows = read(settings)
    check_barcodes(rows, LENGTHS | {"6": 4})

    videos = {row["video_id"]: row for row in rows["videos"]}
    assert [row["video_id"] for row in rows["videos"]] == sorted(videos)
    assert {name: row["status"] for name, row in videos.items()} == dict.fromkeys(LENGTHS, "done") | {
        "6": "partial",
        "empty.mp4": "failed",
        "text.mp4": "failed",
    }
    film = videos["deep/4.mp4"]
    assert (film["n_frames"], film["sampled_frames"], film["width"], film["height"]) == (21, 21, 128, 96)
    assert (film["fps_num"], film["fps_den"], film["vfr"], film["clock_breaks"]) == (25, 1, False, 0)
    assert film["stream"] is None, "there was no choice"
    assert film["duration_s"] == pytest.approx(21 / 25)
    assert (film["n_tracks"], film["n_low_score_tracks"], film["n_dropped_births"]) == (2, 1, 1)
    assert (film["codec"], film["uri"], film["run_id"]) == ("h264", str(films / "deep/4.mp4"), "r1")
    assert (videos["5"]["fps_num"], videos["5"]["duration_s"]) == (5, pytest.approx(9 / 5))
    assert (videos["empty.mp4"]["n_frames"], videos["empty.mp4"]["width"]) == (0, None)

    errors = {row["video_id"]: row for row in rows["errors"]}
    assert {name: (row["stage"], row["code"]) for name, row in errors.items()} == {
        "6": ("decode", "bad_image"),
        "empty.mp4": ("open", "empty_file"),
        "text.mp4": ("open", "not_a_video"),
    }
    assert errors["6"]["t0"] == pytest.approx(3 / 5)
    assert "00004.jpg" in errors["6"]["detail"]

    track = next(row for row in rows["tracks"] if (row["video_id"], row["track_id"]) == ("2.mp4", 1000))
    assert (track["category"], track["category_id"], track["gap_count"]) == (
        "bird",
        12,
        14,
    )  # film 2, every second frame
    assert (track["score"], track["score_mean"]) == pytest.approx((0.4, 0.6))
    categories = [(row["category_id"], row["video_id"], row["track_id"]) for row in rows["tracks"]]
    assert categories == sorted(categories)
    mask = rows["masks"][-1]
    assert coco.area({"counts": mask["rle"], "size": [mask["height_px"], mask["width_px"]]}) == mask["area_px"]
    assert mask["category_id"] in (10, 11, 12)

    assert summary.videos == {"done": 5, "partial": 1, "failed": 2}
    assert summary.rows == {name: len(found) for name, found in rows.items()}
    assert summary.errors == {"bad_image": 1, "empty_file": 1, "not_a_video": 1}
    assert (summary.frames, summary.worked, summary.exit_code) == (sum(LENGTHS.values()) + 4, True, 0)
    assert sum(summary.shares.values()) == pytest.approx(1)
    assert all(summary.shares[stage] > 0 for stage in ("decode", "encode", "step", "rle", "write"))
    assert summary.worker_frames_per_s > summary.frames_per_s > 0
    assert reports[-1][:3] == ("segment", summary.frames, summary.frames)
    assert reports[-1][3]["videos"] == "8 of 8"
    assert "5 done, 1 partial, 2 failed" in str(summary)
    assert summary.passed_over == (
        {"why": "no kind of film or frame", "kind": "txt", "files": 1, "first": "notes.txt"},
    )
    assert "not read: 1 txt (no kind of film or frame)" in str(summary)
    assert summary.tables in str(summary)


@pytest.mark.usefixtures("in_process")
def test_every_file_says_where_it_comes_from(films: Path, model: Path, settings: Settings):
    summary = segment(SegmentJob(archive=str(films), model=str(model), name="street"), settings, load=barcode.load)
    store = Store.open(settings)
    plan = store.plan(summary.plan_id)
    assert plan is not None
    assert (plan.archive, plan.name, plan.model_sha256) == (str(films), "street", "0" * 64)
    for keys in Lake(store).files().values():
        for key in keys:
            footer = pq.read_metadata(store.path(key)).metadata
            assert {name: footer[name.encode()].decode() for name in plan.lineage} == plan.lineage
            assert footer[b"schema_version"] == tables.SCHEMA_VERSION.encode()
    assert json.loads(plan.lineage["class_map_json"]) == {"10": "dog", "11": "cat", "12": "bird"}
    assert tables.categories(plan) == {10: "dog", 11: "cat", 12: "bird"}
    for name, rows in read(settings).items():
        assert {(row["archive"], row["model"]) for row in rows} == {("street", "barcode")}, name
        assert all(len(row["unit"]) == 32 for row in rows)
    scores = {(row["unit"], row["track_id"]): row["score"] for row in read(settings)["tracks"]}
    for mask in read(settings)["masks"]:
        assert mask["track_score"] == scores[mask["unit"], mask["track_id"]]


@pytest.mark.usefixtures("in_process")
def test_the_same_command_again_does_no_work(films: Path, model: Path, settings: Settings):
    job = SegmentJob(archive=str(films), model=str(model))
    first = segment(job, settings, load=barcode.load)
    before = {key: Store.open(settings).read_bytes(key) for key in Store.open(settings).list("vis")}

    def no_model(*_: Any) -> Any:
        raise AssertionError("the model was loaded")

    again = segment(job, settings, load=no_model)
    assert {key: Store.open(settings).read_bytes(key) for key in Store.open(settings).list("vis")} == before
    assert not again.worked
    assert "nothing to do" in str(again)
    assert (again.plan_id, again.rows, again.videos) == (first.plan_id, first.rows, first.videos)


@pytest.mark.usefixtures("in_process")
def test_what_is_new_in_an_archive_is_done_and_nothing_else(
    films: Path, model: Path, settings: Settings, tmp_path: Path
):
    archive = many_films(tmp_path / "films", 3)
    job = SegmentJob(archive=str(archive), model=str(model))
    first = segment(job, settings, load=barcode.load)
    units = {row["video_id"]: row["unit"] for row in read(settings)["videos"]}
    barcode.write_film(archive / "7.mp4", 7, 4)
    second = segment(job, settings, load=barcode.load)
    assert (second.found, second.known, second.todo, second.new_frames) == (4, 3, 1, 4)
    assert "4 videos found, 3 done before, 1 to do" in str(second)
    assert second.plan_id == first.plan_id
    check_barcodes(read(settings), {"0.mp4": 6, "1.mp4": 6, "2.mp4": 6, "7.mp4": 4})
    assert units.items() < {row["video_id"]: row["unit"] for row in read(settings)["videos"]}.items()
    part = segment(SegmentJob(archive=str(archive / "1.mp4"), model=str(model)), settings, load=odd_models.does_not_fit)
    assert (part.worked, part.videos["done"], part.plan_id != first.plan_id) == (False, 1, True), "of another archive"
    assert [row["video_id"] for row in read(settings, part.plan_id)["videos"]] == ["1.mp4"]
    assert len(read(settings)["videos"]) == 4


@pytest.mark.usefixtures("in_process")
def test_a_changed_file_or_a_lower_score_replaces_what_was_there(
    films: Path, model: Path, settings: Settings, tmp_path: Path
):
    archive = tmp_path / "films"
    shutil.copytree(films / "5", archive / "5")
    job = SegmentJob(archive=str(archive), model=str(model))
    first = segment(job, settings, load=barcode.load)
    assert len(read(settings)["masks"]) == 9 + 5
    shutil.rmtree(archive / "5")
    barcode.write_frames(archive / "5", 5, range(3))
    second = segment(job, settings, load=barcode.load)
    assert len(read(settings)["masks"]) == 3 + 2
    everything = segment(job.model_copy(update={"min_score": 0}), settings, load=barcode.load)
    assert len(read(settings)["masks"]) == 3 + 2 + 3, "with the track of score 0.01"
    higher = segment(job.model_copy(update={"min_score": 0.3}), settings, load=odd_models.does_not_fit)
    assert not higher.worked, "a higher score is a question, not work"
    assert len({first.plan_id, second.plan_id, everything.plan_id}) == 1
    assert len(read(settings)["videos"]) == 1


@pytest.mark.usefixtures("in_process")
def test_a_film_that_was_moved_is_found_under_its_new_name_and_a_copy_is_a_video_of_its_own(
    model: Path, settings: Settings, tmp_path: Path
):
    archive = many_films(tmp_path / "films", 2)
    (archive / "deep").mkdir()
    job = SegmentJob(archive=str(archive), model=str(model), verify=True)
    segment(job, settings, load=barcode.load)
    (archive / "1.mp4").rename(archive / "deep/1.mp4")
    (archive / "0.mp4").touch()
    again = segment(job, settings, load=odd_models.does_not_fit)
    assert (again.worked, again.videos["done"]) == (False, 2)
    check_barcodes(read(settings), {"0.mp4": 6, "deep/1.mp4": 6})
    assert {row["uri"] for row in read(settings)["videos"]} == {f"{archive}/0.mp4", f"{archive}/deep/1.mp4"}
    (archive / "copy").mkdir()
    shutil.copy(archive / "0.mp4", archive / "copy/0.mp4")
    assert segment(job, settings, load=barcode.load).videos["done"] == 3
    check_barcodes(read(settings), {"0.mp4": 6, "copy/0.mp4": 6, "deep/1.mp4": 6})
    (archive / "0.mp4").unlink()
    (archive / "deep/1.mp4").rename(archive / "copy/0.mp4")
    over = segment(job, settings, load=odd_models.does_not_fit)
    assert (over.worked, over.videos["done"]) == (False, 1)
    assert [row["area_px"] for row in read(settings)["masks"] if row["video_id"] == "copy/0.mp4"]
    names = sorted(row["video_id"] for row in read(settings)["videos"])
    assert names == ["0.mp4", "copy/0.mp4"], "what is no longer in the archive stays as it was"


@pytest.mark.usefixtures("in_process")
def test_only_what_is_asked_for_is_done(model: Path, settings: Settings, tmp_path: Path):
    archive = many_films(tmp_path / "films", 2)
    (archive / "broken.mp4").touch()
    manifest = tmp_path / "films.csv"
    names = ["0.mp4", "broken.mp4", "not-yet.mp4"]
    manifest.write_text("id,uri,place\n" + "".join(f"{name},films/{name},gate {name[0]}\n" for name in names))
    job = SegmentJob(archive=str(manifest), model=str(model))
    first = segment(job, settings, load=barcode.load)
    assert first.videos == {"done": 1, "partial": 0, "failed": 2}
    assert {row["video_id"]: dict(row["tags"])["place"] for row in read(settings)["videos"]}["0.mp4"] == "gate 0"
    assert not segment(job.model_copy(update={"only": "new"}), settings, load=odd_models.does_not_fit).worked
    missing = segment(job.model_copy(update={"only": "missing"}), settings, load=barcode.load)
    assert (missing.todo, missing.new_frames) == (1, 0)
    shutil.copy(archive / "1.mp4", archive / "broken.mp4")
    assert segment(job.model_copy(update={"only": "missing"}), settings, load=barcode.load).todo == 1
    mended = segment(job, settings, load=barcode.load)
    assert (mended.videos["done"], mended.videos["failed"]) == (2, 1)
    assert len(read(settings)["videos"]) == 3


@pytest.mark.usefixtures("in_process")
def test_another_model_or_setting_is_other_work_and_the_newest_is_seen(
    films: Path, model: Path, settings: Settings, tmp_path: Path
):
    job = SegmentJob(archive=str(films / "5"), model=str(model))
    first = segment(job, settings, load=barcode.load)
    other = segment(job.model_copy(update={"slot_recycling": False}), settings, load=barcode.load)
    assert first.plan_id != other.plan_id
    assert {row["plan_id"] for row in read(settings)["videos"]} == {other.plan_id}
    assert {row["plan_id"] for row in read(settings, first.plan_id)["masks"]} == {first.plan_id}


def test_archive_and_store_may_lie_on_s3(
    films: Path, model: Path, s3_settings: Settings, local_ray: None, tmp_path: Path
):
    settings = s3_settings.model_copy(update={"workers": 2, "cpus_per_worker": 1, "scratch": tmp_path})
    store = Store.open(settings)
    store.fs.put(str(films), f"{store.root}/films", recursive=True)
    store.fs.put(str(model), f"{store.root}/vis/v1/models/barcode", recursive=True)
    summary = segment(SegmentJob(archive=store.uri("films")), settings, load=barcode.load)
    assert summary.videos == {"done": 5, "partial": 1, "failed": 2}
    check_barcodes(read(settings), LENGTHS | {"6": 4})
    secret = settings.s3_secret_key.get_secret_value().encode()
    assert all(secret not in store.read_bytes(key) for key in [*store.list("vis"), *store.list("tables")])


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


def test_a_long_film_says_how_far_it_is(model: Path, settings: Settings, tmp_path: Path):
    barcode.write_film(tmp_path / "films/3.mp4", 3, 60)
    reports: list[tuple] = []
    slow = functools.partial(barcode.load, delay_s=0.1)
    job = SegmentJob(archive=str(tmp_path / "films"), model=str(model))
    segment(job, settings, progress=lambda *report: reports.append(report), load=slow)
    frames = [done for _stage, done, _total, _info in reports]
    assert frames == sorted(frames)
    playing = [report for report in reports if 0 < report[1] < 60]
    assert playing, "something is said while the only video plays"
    assert all(total == 60 for _stage, _done, total, _info in playing), "what the header promises"
    assert {(info["frames"], info["videos"]) for *_, info in playing} == {("(total estimated)", "0 of 1")}
    assert (reports[-1][1:3], reports[-1][3]["frames"], reports[-1][3]["videos"]) == ((60, 60), "", "1 of 1")


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


def test_an_archive_or_model_that_is_not_there_costs_no_cluster(films: Path, tmp_path: Path, model: Path):
    settings = Settings(store=str(tmp_path / "lake"), ray_address="127.0.0.1:1")
    with pytest.raises(BadConfig, match=r"archive .*nowhere does not exist"):
        segment(SegmentJob(archive=str(tmp_path / "nowhere"), model=str(model)), settings)
    with pytest.raises(BadConfig, match="no model is registered"):
        segment(SegmentJob(archive=str(films)), settings)
    assert not (tmp_path / "lake").exists()


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


@pytest.mark.unit
def test_where_most_videos_end_their_worker_the_run_stops():
    shards = {unit.id: [unit] for unit in map(film, range(40))}
    played = {"done": 1, "frames": 6}
    ended = {"failed": 1, "frames": 0, "crashed": 1}

    def play(counts: list[dict[str, int]]) -> None:
        how_far = _HowFar(shards, None)
        for shard, each in zip(shards, counts, strict=False):
            how_far.committed(part_of(shard, each))

    play([ended] * (CRASHES - 1) + [played])
    play([played] * CRASHES + [ended] * CRASHES)
    with pytest.raises(RuntimeError, match=f"{CRASHES} videos ended their worker and 2 did not"):
        play([played] * 2 + [ended] * CRASHES)


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
def test_a_summary_says_what_the_work_was_and_cost(films: Path, model: Path, settings: Settings):
    priced = settings.model_copy(update={"worker_hour_price": 3600.0})
    summary = segment(SegmentJob(archive=str(films), model=str(model)), priced, load=barcode.load)
    assert summary.footage_s == pytest.approx(sum(row["duration_s"] or 0 for row in read(settings)["videos"]), abs=0.3)
    assert f"{summary.worker_s:.2f} at 3600 an hour" in str(summary)


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


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("in_process")
def test_real_films_have_one_row_each_with_the_counts_of_the_index(shared_data: Path, model: Path, settings: Settings):
    archive = str(shared_data / "data/real/videos")
    blind = functools.partial(barcode.load, blind=True)
    summary = segment(SegmentJob(archive=archive, model=str(model)), settings, load=blind)
    rows = read(settings)
    assert {row["video_id"]: (row["status"], row["n_frames"]) for row in rows["videos"]} == {
        "animal_dog.mp4": ("done", 289),
        "indoor_kids_bedroom.mp4": ("done", 200),
        "objects_cups.mp4": ("done", 300),
        "street_cars.mp4": ("done", 377),
    }
    assert summary.frames == 289 + 200 + 300 + 377
    for mask in rows["masks"][::100]:
        assert coco.area({"counts": mask["rle"], "size": [mask["height_px"], mask["width_px"]]}) == mask["area_px"]


@pytest.mark.unit
def test_slots_are_recycled_in_archives_and_not_in_data_sets_unless_told():
    assert SegmentJob(archive="films/").recycles
    assert not SegmentJob(archive="val.json").recycles
    assert SegmentJob(archive="val.json", slot_recycling=True).recycles
    assert not SegmentJob(archive="films/", slot_recycling=False).recycles


def film(number: int, size_bytes: int = 2**20) -> Unit:
    name = f"{number:05d}"
    return Unit(name, VideoSource(video_id=name, uri="", kind="film", content_id="", size_bytes=size_bytes))


def frames(number: int, count: int) -> Unit:
    """A folder of frames, whose size says nothing of its footage."""
    names = tuple(str(name) for name in range(count))
    source = {"uri": "", "kind": "frames", "content_id": "", "size_bytes": 2**30, "frames": names}
    return Unit(f"{number:05d}", VideoSource(video_id=f"{number:05d}", **source))


def part_of(shard: str, counts: dict[str, int]) -> Part:
    names = dict.fromkeys(("run_id", "plan_id", "lake", "archive", "model", "attempt", "created_at"), "")
    return Part(shard=shard, units=("u",), files={}, counts=counts, seconds={}, **names)


@pytest.mark.unit
@pytest.mark.usefixtures("in_process")
def test_small_files_of_a_run_are_merged_at_its_end(
    model: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segmenting, "SHARD_VIDEOS", 1)
    archive = many_films(tmp_path / "films", 12, frames=3)
    segment(SegmentJob(archive=str(archive), model=str(model)), settings, load=barcode.load)
    assert {name: len(keys) for name, keys in Lake(Store.open(settings)).files().items()} == {
        "masks": 1, "tracks": 1, "errors": 0, "videos": 1,
    }  # fmt: skip


def one_row_each(store: Store, films: int) -> Counter[str]:
    """Errors by code, of an archive in which every film is one row of `videos`, and has one of `errors` if not done."""
    opened = {name: dataset.to_table().to_pylist() for name, dataset in tables.open(store).items()}
    assert len({row["video_id"] for row in opened["videos"]}) == len(opened["videos"]) == films
    damaged = {row["video_id"] for row in opened["videos"] if row["status"] != "done"}
    assert sorted(damaged) == sorted(row["video_id"] for row in opened["errors"])
    assert {row["video_id"] for row in opened["masks"]} <= {row["video_id"] for row in opened["videos"]}
    return Counter(row["code"] for row in opened["errors"])


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


def test_shards_hold_every_video_once_in_the_order_of_the_tables_and_cost_about_the_same():
    units = [frames(n, 1 + 100 * (n % 7)) for n in range(100)]
    shards = split(units)
    in_order = [unit.id for _, shard in sorted(shards.items()) for unit in shard]
    assert in_order == [unit.id for unit in units]
    assert max(len(shard) for shard in shards.values()) <= SHARD_VIDEOS
    costs = [sum(len(unit.source.frames) for unit in shard) for shard in shards.values()]
    assert costs == sorted(costs, reverse=True), "what takes long begins first"
    assert max(costs) <= 1100
    assert split(list(reversed(units))) == shards, "the order of listing does not matter"


@pytest.mark.unit
@pytest.mark.parametrize("video", [functools.partial(film, size_bytes=2**17), functools.partial(frames, count=300)])
def test_a_few_films_of_some_seconds_are_shared_among_workers_and_a_kill_costs_one_of_them(video: Any):
    assert [len(shard) for shard in split([video(n) for n in range(7)]).values()] == [1] * 7


@pytest.mark.unit
def test_in_a_large_archive_a_kill_costs_little_of_it_and_workers_play_side_by_side():
    clips = split([frames(n, 36) for n in range(3000)])
    assert max(len(shard) for shard in clips.values()) == SHARD_VIDEOS
    hours = split([frames(n, 1000) for n in range(2000)])
    assert 64 <= len(hours) <= 200
    assert min(len(shard) for shard in hours.values()) >= 8


def test_one_worker_brings_neither_ray_nor_torch_into_the_process_that_waits_for_it():
    code = "import sys, jobs.segmentation.segment; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "[]\n", done.stderr
