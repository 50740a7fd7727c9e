"""An archive becomes tables: what is in them, what is done again and what is not."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from pycocotools import mask as coco

from jobs import tables
from jobs.lake import Lake
from jobs.segmentation import segment as segmenting
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode, odd_models
from tests.jobs.barcoded import LENGTHS, check_barcodes, many_films, read
from vis_models.config import BadConfig

ray.cloudpickle.register_pickle_by_value(barcode)  # workers cannot import the tests

REPOSITORY = Path(__file__).resolve().parents[2]


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


def test_an_archive_or_model_that_is_not_there_costs_no_cluster(films: Path, tmp_path: Path, model: Path):
    settings = Settings(store=str(tmp_path / "lake"), ray_address="127.0.0.1:1")
    with pytest.raises(BadConfig, match=r"archive .*nowhere does not exist"):
        segment(SegmentJob(archive=str(tmp_path / "nowhere"), model=str(model)), settings)
    with pytest.raises(BadConfig, match="no model is registered"):
        segment(SegmentJob(archive=str(films)), settings)
    assert not (tmp_path / "lake").exists()


@pytest.mark.usefixtures("in_process")
def test_a_summary_says_what_the_work_was_and_cost(films: Path, model: Path, settings: Settings):
    priced = settings.model_copy(update={"worker_hour_price": 3600.0})
    summary = segment(SegmentJob(archive=str(films), model=str(model)), priced, load=barcode.load)
    assert summary.footage_s == pytest.approx(sum(row["duration_s"] or 0 for row in read(settings)["videos"]), abs=0.3)
    assert f"{summary.worker_s:.2f} at 3600 an hour" in str(summary)


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


def test_one_worker_brings_neither_ray_nor_torch_into_the_process_that_waits_for_it():
    code = "import sys, jobs.segmentation.segment; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "[]\n", done.stderr
