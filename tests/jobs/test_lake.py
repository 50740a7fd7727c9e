"""Commits: each unit once, whatever happens in between."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs import tables
from jobs.filesystems import delta_options
from jobs.lake import ORDER, Lake
from jobs.reporting import query
from jobs.segmentation import upkeep
from jobs.store import FileRef, Part, Plan, Store, now
from tests import published
from tests.jobs.test_tables import mask_row, video_row
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def part(store: Store, run_id: str, videos: dict[str, int], replaces: tuple[str, ...] = ()) -> Part:
    """What a shard wrote: videos, each with so many masks; the unit of a video is its name."""
    lake = Lake(store)
    refs: dict[str, FileRef] = {}
    rows: dict[str, list[dict[str, Any]]] = {"videos": [], "masks": []}
    for video, masks in videos.items():
        own = {"plan_id": "p", "unit": video, "run_id": run_id}
        rows["videos"].append(video_row(f"/films/{video}", video, "p") | own)
        rows["masks"] += [mask_row(video, 1, frame) | own for frame in range(masks)]
    for name, content in rows.items():
        filled = [published.filled(row, "p", "films") for row in content]
        own = [{key: row[key] for key in row if key in tables.SCHEMAS[name].names} for row in filled]
        with tables.create(store, lake.new_key(name), name, {}, refs) as writer:
            writer.write(tables.from_rows(name, own))
    return Part(
        run_id=run_id,
        plan_id="p",
        lake=lake.root,
        archive="films",
        model="m",
        shard="0",
        attempt="1",
        units=tuple(videos),
        replaces=replaces,
        files=refs,
        counts={"done": len(videos)},
        seconds={},
        created_at=now(),
    )


def seen(store: Store) -> dict[str, int]:
    """Video -> its masks, as any engine counts them that reads the files of the tables."""
    keys = Lake(store).files()
    rows = {name: tables.dataset(store, tables.SCHEMAS[name], keys[name]).to_table().to_pylist() for name in keys}
    videos = [row["video_id"] for row in rows["videos"]]
    assert len(videos) == len(set(videos)), "twice"
    masks = [row["video_id"] for row in rows["masks"]]
    assert set(masks) <= set(videos)
    return {video: masks.count(video) for video in videos}


def test_a_unit_is_published_once_however_often_it_is_committed(store: Store):
    lake = Lake(store)
    first = part(store, "r1", {"a": 2, "b": 3})
    lake.commit([first])
    lake.commit([first])
    assert seen(store) == {"a": 2, "b": 3}
    Lake(store).commit([part(store, "r2", {"b": 9, "c": 1})])
    assert seen(store) == {"a": 2, "b": 3, "c": 1}, "what is published stays, what is new comes"
    assert lake.batches()["number"].to_pylist() == [1, 2]
    assert lake.known(["a", "c", "z"]) == {"a", "c"}


def test_tables_of_which_some_could_not_be_made_are_made_by_the_next_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    lake, make = Lake(store), DeltaTable.create

    def create(*given: Any, **more: Any) -> Any:
        if more["name"] == "errors":
            raise OSError("the disk is gone")
        return make(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr("jobs.delta.DeltaTable.create", create)
        with pytest.raises((OSError, BadConfig), match="the disk is gone"):
            lake.commit([part(store, "r1", {"a": 2})])
    lake.commit([part(store, "r2", {"a": 2})])
    assert seen(store) == {"a": 2}


def test_new_rows_take_the_place_of_old_ones_in_one_commit(store: Store):
    lake = Lake(store)
    lake.commit([part(store, "r1", {"a": 2, "b": 3})])
    again = part(store, "r2", {"b": 5, "c": 1}, replaces=("b",))
    lake.commit([again])
    assert seen(store) == {"a": 2, "b": 5, "c": 1}
    lake.commit([again])
    assert seen(store) == {"a": 2, "b": 5, "c": 1}, "also where the same is said twice"
    lake.remove(["a", "c"], "r3", "delete")
    assert seen(store) == {"b": 5}


def test_two_runs_that_replace_one_video_leave_one(store: Store):
    Lake(store).commit([part(store, "r0", {"old": 1, "broken": 1})])
    runs = [part(store, f"r{n}", {"new": n, "broken": n}, replaces=("old", "broken")) for n in (2, 3)]
    for each in runs:
        Lake(store).commit([each])
    for each in runs:
        Lake(store).commit([each])
    found = seen(store)
    assert found["new"] == 2, "what came first stays"
    assert found["broken"] in (2, 3)
    assert set(found) == {"new", "broken"}


@pytest.mark.parametrize("dies_at", range(5))
def test_a_writer_that_dies_between_two_tables_leaves_a_batch_that_the_next_one_ends(store: Store, dies_at: int):
    Lake(store).commit([part(store, "r0", {"z": 1})])
    dying = Lake(store)
    calls = 0
    put = dying._delta.put

    def dies(*given: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls > dies_at:
            raise KeyboardInterrupt
        return put(*given)

    dying._delta.put = dies  # type: ignore[method-assign]
    lost = part(store, "r1", {"a": 2}, replaces=("z",))
    with pytest.raises(KeyboardInterrupt):
        dying.commit([lost])
    assert seen(store) in ({"z": 1}, {"a": 2}), "all of it or nothing, whoever reads now"
    Lake(store).commit([part(store, "r2", {"b": 1})])
    Lake(store).commit([lost])
    assert seen(store) == {"a": 2, "b": 1}


def test_writers_at_once_publish_every_unit_once(store: Store):
    """Each writer has units of its own, and all of them want the shared ones of each round."""
    rounds = 5 if store.is_local else 1
    parts = [[part(store, f"r{n}", {f"own{n}-{k}": 1, f"shared{k}": 2 + n}) for k in range(rounds)] for n in range(4)]
    barrier = threading.Barrier(4)

    def commit(mine: list[Part]) -> None:
        lake = Lake(store)
        for each in mine:
            barrier.wait()
            lake.commit([each])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(commit, parts))
    found = seen(store)
    own = {f"own{n}-{k}" for n in range(4) for k in range(rounds)}
    assert set(found) == own | {f"shared{k}" for k in range(rounds)}
    assert all(found[f"shared{k}"] in (2, 3, 4, 5) for k in range(rounds))
    assert upkeep.verify(store) == []


def test_other_engines_read_the_rows_that_are_published_and_no_others(store: Store):
    lake = Lake(store)
    lake.commit([part(store, "r1", {"a": 2, "b": 3})])
    part(store, "r2", {"never": 7})  # files that no commit names
    lake.commit([part(store, "r3", {"b": 1}, replaces=("b",))])
    lake.compact()
    store.write_plan(plan_of(lake))
    wanted = [("a", 2), ("b", 1)]
    asked = query.run("SELECT video_id, count(*) AS n FROM masks GROUP BY 1 ORDER BY 1", store)
    assert list(zip(asked["video_id"].to_pylist(), asked["n"].to_pylist(), strict=True)) == wanted
    by_arrow = tables.open(store)["masks"].to_table(columns=["video_id"])["video_id"].value_counts().to_pylist()
    assert sorted((row["values"], row["counts"]) for row in by_arrow) == wanted
    access = {} if store.is_local else delta_options(store.settings)
    masks = polars.scan_delta(store.uri("tables/masks"), storage_options=access or None)
    by_polars = masks.group_by("video_id").len().sort("video_id").collect()
    assert by_polars.rows() == wanted
    table = DeltaTable(store.uri("tables/masks"), storage_options=access)
    with duckdb.connect() as connection:
        if not store.is_local:
            connection.register_filesystem(store.fs)
        files = connection.read_parquet(table.file_uris())
        assert files.aggregate("video_id, count(*)").order("video_id").fetchall() == wanted
    older = DeltaTable(store.uri("tables/masks"), version=1, storage_options=access)
    assert sum(pa.table(older.get_add_actions())["num_records"].to_pylist()) == 5, "as it was after the first commit"
    for name in ORDER:
        fields = DeltaTable(store.uri(f"tables/{name}"), storage_options=access).schema().fields
        assert all(field.metadata.get("comment") for field in fields), "every column says what it means"


def plan_of(lake: Lake) -> Plan:
    rows = dict.fromkeys((*tables.SCHEMAS, "done"), 1)
    names = dict.fromkeys(("archive", "model_sha256", "created_at"), "x")
    return Plan(plan_id="p", lake=lake.root, lineage={}, counts=rows, seconds={}, card={}, **names)
