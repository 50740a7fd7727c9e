"""Merging, cleaning, checking, taking out; stores of version 1."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import tables
from jobs.archives.archive import list_videos
from jobs.lake import ORDER, Lake
from jobs.reporting.overlay import draw_overlays
from jobs.reporting.query import run
from jobs.segmentation import upkeep
from jobs.segmentation.plans import HALFWAY, read_listing
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import OVERLAYS, Store
from tests.jobs import barcode, odd_models
from tests.jobs.test_lake import part, seen
from tests.jobs.test_tables import mask_row, video_row
from vis_models.cards import read_card
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def lake_of(store: Store, count: int = 5) -> Lake:
    """So many videos, each in a commit of its own, the last of the alphabet first."""
    lake = Lake(store)
    for n in reversed(range(count)):
        lake.commit([part(store, f"r{n}", {f"v{n}": n + 1})])
    return lake


def test_small_files_are_merged_into_one_that_is_sorted_and_has_the_same_rows(store: Store):
    lake = lake_of(store)
    assert upkeep.compact(store, dry_run=True)["tables/masks"] == (5, 1)
    assert len(lake.files()["masks"]) == 5
    before = seen(store)
    assert upkeep.compact(store, dry_run=False)["tables/videos"] == (5, 1)
    assert seen(store) == before == {f"v{n}": n + 1 for n in range(5)}
    (key,) = Lake(store).files()["masks"]
    rows = store.read_table(key)
    assert rows["video_id"].to_pylist() == sorted(rows["video_id"].to_pylist())
    assert rows.schema.equals(tables.MASKS), "as a worker writes it"
    assert Lake(store).batches()["number"].to_pylist() == [1, 2, 3, 4, 5]
    lake.commit([part(store, "more", {"w": 1, "v2": 9})])
    assert seen(store) == before | {"w": 1}, "and units are known as before"
    assert upkeep.verify(store) == []


def test_a_merge_that_somebody_commits_into_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch):
    lake, other = lake_of(store, 3), Lake(store)
    merge = lake._merge

    def meanwhile(name: str, paths: Any) -> Any:
        merged = merge(name, paths)
        if name == "videos":
            other.commit([part(store, "other", {"new": 1})])
        return merged

    monkeypatch.setattr(lake, "_merge", meanwhile)
    assert "videos" not in lake.compact()
    assert seen(store) == {"v0": 1, "v1": 2, "v2": 3, "new": 1}


def test_after_cleaning_a_glob_of_parquet_files_has_the_rows_that_are_published(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    lake = lake_of(store)
    part(store, "lost", {"never": 7})
    lake.commit([part(store, "again", {"v4": 9}, replaces=("v4",))])
    lake.remove(["v0"], "r", "delete")
    assert len(upkeep.vacuum(store, hours=0, dry_run=True)) > 0
    assert store.list("tables/masks") != lake.files()["masks"]
    upkeep.vacuum(store, hours=0, dry_run=False)
    for name in ORDER:
        there = [key for key in store.list(f"tables/{name}") if "_delta_log" not in key]
        assert there == Lake(store).files()[name]
    found = duckdb.sql(f"SELECT video_id, count(*) FROM '{tmp_path}/lake/tables/masks/*.parquet' GROUP BY 1 ORDER BY 1")
    assert found.fetchall() == [("v1", 2), ("v2", 3), ("v3", 4), ("v4", 9)]
    assert upkeep.verify(store) == []


def test_what_is_wrong_with_tables_is_said(store: Store):
    lake = lake_of(store, 3)
    key = lake.files()["masks"][0]
    whole = store.read_bytes(key)
    store.write_bytes(key, whole[:-1])
    (sentence,) = upkeep.verify(store)
    assert f"has {len(whole) - 1} bytes, the log says {len(whole)}" in sentence
    store.fs.rm(store.path(key))
    (sentence,) = upkeep.verify(store)
    assert "is not there" in sentence


def test_videos_are_taken_out_of_all_tables(labelled_lake):
    store = labelled_lake.store
    before = {name: dataset.count_rows() for name, dataset in tables.open(store).items()}
    assert upkeep.delete(store, "video_id = '1' OR status = 'failed'", dry_run=True)["videos"] == 2
    assert {name: dataset.count_rows() for name, dataset in tables.open(store).items()} == before
    gone = upkeep.delete(store, "video_id = '1' OR status = 'failed'", dry_run=False)
    assert gone["errors"] == 1
    for name, dataset in tables.open(store).items():
        assert dataset.count_rows() == before[name] - gone[name]
        assert not {"1", "4"} & {*dataset.to_table(columns=["video_id"])["video_id"].to_pylist()}
    assert upkeep.verify(store) == []
    with pytest.raises(BadConfig, match="expected a condition on columns of videos"):
        upkeep.delete(store, "colour = 'red'", dry_run=True)


@pytest.mark.usefixtures("in_process")
def test_with_a_video_go_the_film_drawn_of_it_its_notes_and_its_place_in_the_listing(tmp_path: Path):
    settings = Settings(store=str(tmp_path / "lake"))
    for film in range(2):
        barcode.write_film(tmp_path / f"films/{film}.mp4", film, 4)
    model = barcode.write_model(tmp_path / "barcode")
    job = SegmentJob(archive=str(tmp_path / "films"), model=str(model))
    plan_id = segment(job, settings, load=barcode.load).plan_id
    store = Store.open(settings)
    films = draw_overlays(store, plan_id).films
    assert len(films) == 2
    units = read_listing(store, plan_id)
    store.write_bytes(f"{HALFWAY}/{units['0.mp4']}/1/note.json", b"{}")
    would = upkeep.delete(store, "video_id = '0.mp4'", dry_run=True)
    assert (would["videos"], would["films"]) == (1, 1)
    assert set(read_listing(store, plan_id)) == {"0.mp4", "1.mp4"}
    gone = upkeep.delete(store, "video_id = '0.mp4'", dry_run=False)
    assert (gone["videos"], gone["films"], gone["listed"]) == (1, 1, 1)
    assert set(read_listing(store, plan_id)) == {"1.mp4"}
    assert store.list(HALFWAY) == []
    assert [store.uri(key) for key in store.list(OVERLAYS)] == [films[1]]
    upkeep.vacuum(store, hours=0, dry_run=False)
    traces = [key for key in store.list("") if b"0.mp4" in store.read_bytes(key) and "/films/" not in key]
    assert [key for key in traces if "_delta_log" not in key and "/batches/" not in key] == []
    (tmp_path / "films/0.mp4").unlink()
    assert segment(job, settings, load=barcode.load).worked is False


def test_what_runs_noted_goes_with_the_files_of_their_time(store: Store):
    notes = [f"vis/v1/_work/{name}/0/started.json" for name in ("new", "old")]
    for note in notes:
        store.write_bytes(note, b"{}")
    assert upkeep.vacuum(store, hours=1, dry_run=False) == []
    assert sorted(upkeep.vacuum(store, hours=0, dry_run=True)) == store.list("vis/v1/_work") == notes
    upkeep.vacuum(store, hours=0, dry_run=False)
    assert store.list("vis/v1/_work") == []


def write_version_1(store: Store, archive: str, model: Path) -> list[str]:
    """A store as it was before there were units of work; ids of its videos."""
    sources = list_videos(archive, store)
    lineage = {"run_id": "old", "command": "vis segment", "class_map_json": '{"10": "dog"}'}
    lineage |= {"config_json": json.dumps({"min_score": 0.05, "slot_recycling": True})}
    ids = [source.video_id for source in sources]
    rows: dict[str, list[dict[str, Any]]] = {"videos": [], "tracks": [], "masks": [], "errors": []}
    for source in sources:
        rows["videos"].append(video_row(source.uri, source.content_id, "old") | {"video_id": source.video_id})
        rows["masks"] += [mask_row(source.video_id, 1, frame, "old") for frame in range(3)]
        track = dict.fromkeys(("score_mean", "score_max", "score"), 0.4) | {"gap_count": 0, "stitched": False}
        track |= {"first_frame": 0, "last_frame": 2, "n_obs": 3, "area_mean_px": 1.0, "area_max_px": 1.0}
        track |= dict.fromkeys(("x0_px", "y0_px", "x1_px", "y1_px"), 1.0) | {"category": "dog", "category_id": 10}
        rows["tracks"].append(track | {"plan_id": "old", "video_id": source.video_id, "track_id": 1})
    later = {"unit", "archive", "model", "min_score", "retryable", "tags", "n_masks", "track_score"}
    refs = {}
    for name, content in rows.items():
        names = later | ({"category"} if name == "masks" else set())
        schema = pa.schema([field for field in tables.SCHEMAS[name] if field.name not in names])
        key = f"vis/v1/_work/old/0/1/{name}.parquet"
        with store.create(key) as output:
            pq.write_table(pa.Table.from_pylist(content, schema=schema), output)
        refs[name] = [{"key": key, "rows": len(content), "size_bytes": output.size_bytes, "sha256": output.sha256}]
    own = ("video_id", "uri", "kind", "size_bytes", "listed", "fps", "height", "width", "frames")
    plan = [
        {key: getattr(source, key) for key in own} | {"shard": "0", "content_id": source.content_id.replace("@", "")}
        for source in sources
    ]
    with store.create("vis/v1/_plans/old/plan.parquet") as output:
        pq.write_table(pa.Table.from_pylist(plan), output)
    card = read_card(model).model_dump(mode="json")
    store.write_json("vis/v1/_plans/old/spec.json", lineage | {"card": card})
    snapshot = {"plan_id": "old", "archive": archive, "model_sha256": "0" * 64, "created_at": "2026-01", "tables": refs}
    counts = {"done": len(ids), "partial": 0, "failed": 0, "frames": 3 * len(ids)}
    snapshot |= {"lineage": lineage, "counts": counts, "seconds": {"wall": 1.0}}
    store.write_json("vis/v1/_snapshots/old.json", snapshot)
    return ids


def test_a_store_of_version_1_is_brought_over_and_gone_on_with(tmp_path: Path):
    settings = Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1)
    store = Store.open(settings)
    for film in range(3):
        barcode.write_film(tmp_path / f"films/{film}.mp4", film, 3)
    model = barcode.write_model(tmp_path / "models/barcode")
    ids = write_version_1(store, str(tmp_path / "films"), model)
    with pytest.raises(BadConfig, match="tables of version 1: bring them over with `vis tables migrate`"):
        tables.open(store)
    assert list(upkeep.migrate(store)) == [f"brought     old {tmp_path}/films: 3 videos"]
    assert list(upkeep.migrate(store)) == [], "once"
    assert run("SELECT video_id FROM videos ORDER BY 1", store)["video_id"].to_pylist() == ids
    answer = run("SELECT DISTINCT category, track_score, archive, model FROM masks", store).to_pylist()
    assert answer == [
        {"category": "dog", "track_score": pytest.approx(0.4), "archive": f"{tmp_path}/films", "model": "barcode"}
    ]
    assert upkeep.verify(store) == []
    job = SegmentJob(archive=str(tmp_path / "films"), model=str(model))
    again = segment(job, settings, load=odd_models.does_not_fit)
    assert (again.worked, again.videos["done"]) == (False, 3), "what was done then is not done again"
