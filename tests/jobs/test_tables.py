from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from jobs import tables
from jobs.settings import Settings
from jobs.store import FileRef, Store
from tests import published
from vis_models import masks
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit

SQUARE = np.zeros((1, 40, 60), bool)
SQUARE[:, 10:20, 30:50] = True


def mask_row(video_id: str, track_id: int, frame_idx: int, plan_id: str = "p") -> dict:
    return {
        "plan_id": plan_id,
        "video_id": video_id,
        "track_id": track_id,
        "frame_idx": frame_idx,
        "time_s": frame_idx / 30,
        "category_id": 3,
        "score": 0.5,
        "area_px": 200,
        "x0_px": 30,
        "y0_px": 10,
        "x1_px": 50,
        "y1_px": 20,
        "height_px": 40,
        "width_px": 60,
        "rle": masks.encode(SQUARE)[0],
    }


def video_row(uri: str, content_id: str, plan_id: str) -> dict:
    row = {"plan_id": plan_id, "video_id": uri.rsplit("/", 1)[-1], "uri": uri, "content_id": content_id}
    counts = dict.fromkeys(["n_frames", "sampled_frames", "n_tracks", "n_low_score_tracks", "n_dropped_births"], 1)
    return row | counts | {"status": "done", "decode_ms": 1, "infer_ms": 1, "run_id": "r"}


def publish(
    store: Store,
    plan_id: str,
    rows: list[dict],
    created_at: str = "2026-01",
    archive: str = "a",
    videos: Sequence[tuple[str, str]] = (),
    **more: Any,
) -> FileRef:
    """A plan with one file per table; `videos`: (uri, content id) of each, seen in one mask more."""
    seen = [video_row(uri, content_id, plan_id) for uri, content_id in videos]
    rows = rows + [mask_row(video["video_id"], 1, 0, plan_id) for video in seen]
    content = {"masks": rows, "videos": seen}
    return published.publish(store, plan_id, content, archive=archive, created_at=created_at, **more)["masks"]


def test_masks_come_back_sorted_and_as_the_same_pixels(store: Store):
    publish(store, "p", [mask_row("b", 1, 0), mask_row("a", 2, 1), mask_row("a", 2, 0), mask_row("a", 1, 5)])
    dataset = tables.open(store)["masks"]
    assert isinstance(dataset, ds.Dataset)
    table = dataset.to_table()
    assert [(r["video_id"], r["track_id"], r["frame_idx"]) for r in table.to_pylist()] == [
        ("a", 1, 5),
        ("a", 2, 0),
        ("a", 2, 1),
        ("b", 1, 0),
    ]
    rle = table["rle"][0].as_py()
    assert (masks.decode(rle, 40, 60) == SQUARE[0]).all()
    assert coco.area({"counts": rle, "size": [40, 60]}) == 200


def test_the_tables_open_from_the_path_of_the_root(tmp_path: Path):
    publish(Store.open(Settings(store=str(tmp_path))), "p", [mask_row("a", 1, 0)])
    assert tables.open(str(tmp_path))["masks"].count_rows() == 1


def test_duckdb_reads_all_four_tables_even_empty_ones(store: Store):
    publish(store, "p", [mask_row("a", 1, frame) for frame in range(10)])
    connection = duckdb.connect()
    for name, dataset in tables.open(store).items():
        connection.register(name, dataset)

    def ask(query: str) -> tuple:
        return connection.sql(query).fetchall()[0]

    assert ask("SELECT sum(area_px) FROM masks WHERE video_id = 'a' AND time_s < 0.1") == (600,)  # frames 0, 1, 2
    assert ask("SELECT count(*) FROM tracks WHERE category = 'dog'") == (0,)
    assert ask("SELECT (SELECT count(*) FROM videos) + (SELECT count(*) FROM errors)") == (0,)


def seen_in(store: Store, plan_id: str | None = None) -> list[tuple[str, str]]:
    """(plan, video) of each mask; the table videos must agree."""
    opened = tables.open(store, plan_id)
    found = [
        sorted((row["plan_id"], row["video_id"]) for row in opened[name].to_table().to_pylist())
        for name in ("masks", "videos")
    ]
    assert found[0] == found[1]
    return found[0]


def test_each_video_has_the_result_of_the_newest_plan_that_covers_it(store: Store):
    publish(store, "1", [], "2026-01", "films", videos=[("/films/a.mp4", "A"), ("/films/b.mp4", "B")])
    publish(store, "2", [], "2026-02", "films/*", videos=[("/films/b.mp4", "B"), ("/films/c.mp4", "C")])
    assert seen_in(store) == [("1", "a.mp4"), ("2", "b.mp4"), ("2", "c.mp4")]
    publish(store, "3", [], "2026-03", "backup", videos=[("/backup/c.mp4", "C"), ("/backup/d.mp4", "A")])
    assert seen_in(store) == [("1", "a.mp4"), ("2", "b.mp4"), ("3", "c.mp4"), ("3", "d.mp4")]  # d is a film of its own
    publish(store, "0", [], "2025-01", "films", videos=[("/films/a.mp4", "A"), ("/films/e.mp4", "E")])
    assert seen_in(store)[0] == ("0", "e.mp4")


def test_two_videos_that_were_not_there_are_not_one(store: Store):
    publish(store, "1", [], "2026-01", "a", videos=[("/a/x.mp4", "missing")])
    publish(store, "2", [], "2026-02", "b", videos=[("/b/x.mp4", "missing")])
    assert seen_in(store) == [("1", "x.mp4"), ("2", "x.mp4")]


def test_evaluations_are_seen_where_they_are_named(store: Store):
    publish(store, "abc1", [], "2026-01", "films", videos=[("/films/a.mp4", "A")])
    publish(store, "abd2", [], "2026-02", "val.json", videos=[("/films/a.mp4", "A")], purpose="evaluation")
    publish(store, "oracle", [], "2026-03", "val.json", videos=[("/films/a.mp4", "A")], labels="val.json")
    assert seen_in(store) == seen_in(store, "latest") == [("abc1", "a.mp4")]
    assert seen_in(store, "abd") == [("abd2", "a.mp4")]
    assert seen_in(store, "oracle") == [("oracle", "a.mp4")]
    assert seen_in(store, "all") == [("abc1", "a.mp4"), ("abd2", "a.mp4")]
    with pytest.raises(BadConfig, match=r"2 published plans begin with ab, name one .*: abc1 \(.*\), abd2"):
        tables.open(store, "ab")
    with pytest.raises(
        BadConfig, match=r"no published plan missing .*newest last\): abc1 \(films\), abd2 \(val.json\), oracle"
    ):
        tables.open(store, "missing")


def test_where_only_evaluations_are_it_says_how_to_see_them(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    publish(store, "p", [mask_row("a", 1, 0)], purpose="evaluation")
    with pytest.raises(BadConfig, match=r"no archive was segmented yet.*--evaluation latest"):
        tables.open(store)


def test_a_store_without_tables_says_what_to_do(store: Store):
    with pytest.raises(BadConfig, match="run `vis segment` or `vis evaluate` first"):
        tables.open(store)


def test_files_are_written_for_pruning(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    one = tables.from_rows("masks", [published.filled(mask_row("a", 1, 0), "p", "a")])
    rows = one.take(pa.array([0] * 150_000))
    refs: dict[str, FileRef] = {}
    with tables.create(store, "pruned.parquet", "masks", {"plan_id": "p"}, refs) as writer:
        writer.write(rows)
    ref = refs["masks"]
    file = pq.ParquetFile(store.path(ref.key))
    assert ref.rows == len(rows)
    assert ref.size_bytes == Path(store.path(ref.key)).stat().st_size
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [65_536, 65_536, 18_928]
    columns = [file.metadata.row_group(0).column(i) for i in range(file.metadata.num_columns)]
    assert {c.path_in_schema for c in columns if not c.is_stats_set} == {"rle"}
    assert {c.compression for c in columns} == {"ZSTD"}
    assert all("BYTE_STREAM_SPLIT" in c.encodings for c in columns if c.physical_type == "FLOAT")
    assert [c.column_index for c in file.metadata.row_group(0).sorting_columns] == [1, 2, 3]
    assert file.metadata.metadata[b"plan_id"] == b"p"
    assert b"column-major" in file.metadata.metadata[b"rle_encoding"]
    assert file.schema_arrow.field("rle").type == pa.large_binary()


def test_a_row_group_is_capped_by_bytes(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    refs: dict[str, FileRef] = {}
    with tables.create(store, "vis/v1/big", "masks", {}, refs) as writer:
        for frame in range(3):
            row = published.filled(mask_row("a", 1, frame), "p", "a") | {"rle": bytes(tables.ROW_GROUP_BYTES)}
            writer.write(tables.from_rows("masks", [row]))
    assert pq.ParquetFile(store.path("vis/v1/big")).num_row_groups == 3


def test_a_row_that_lacks_a_value_is_refused(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    row = published.filled(mask_row("a", 1, 0), "p", "a") | {"score": None}
    with (
        pytest.raises(ValueError, match="score"),
        tables.create(store, "vis/v1/bad", "masks", {}, {}) as writer,
    ):
        writer.write(tables.from_rows("masks", [row]))
    assert not store.exists("vis/v1/bad")


def test_every_column_says_what_it_means_and_every_measure_its_unit_and_range():
    for name, schema in tables.SCHEMAS.items():
        for field in schema:
            notes = field.metadata or {}
            assert notes.get(b"meaning"), f"{name}.{field.name}"
            assert field.nullable == (b"null" in notes), f"{name}.{field.name}"
            is_measure = pa.types.is_floating(field.type) or field.type == pa.int32()
            assert not is_measure or (notes.get(b"unit") and notes.get(b"range")), f"{name}.{field.name}"
