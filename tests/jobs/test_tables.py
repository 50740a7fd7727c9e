from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from jobs import tables
from jobs.settings import Settings
from jobs.store import FileRef, Snapshot, Store
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


def publish(store: Store, plan_id: str, rows: list[dict], created_at: str = "2026-01", archive: str = "a") -> FileRef:
    """A snapshot with one file per table; only `masks` has rows."""
    refs: dict[str, FileRef] = {}
    for name in tables.SCHEMAS:
        key = f"vis/v1/_work/{plan_id}/s/1/{name}.parquet"
        with tables.create(store, key, name, {"plan_id": plan_id}, refs) as writer:
            writer.write(tables.from_rows(name, rows if name == "masks" else []))
    store.publish(
        Snapshot(
            plan_id=plan_id,
            archive=archive,
            model_sha256="m",
            created_at=created_at,
            lineage={"class_map_json": '{"3": "dog"}'},
            tables={name: (ref,) for name, ref in refs.items()},
            counts={},
            seconds={},
        )
    )
    return refs["masks"]


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


def test_the_newest_plan_of_each_archive_and_model_is_read(store: Store):
    publish(store, "old", [mask_row("a", 1, 0, "old")], created_at="2026-01")
    publish(store, "new", [mask_row("a", 1, 0, "new")], created_at="2026-03")
    publish(store, "other", [mask_row("a", 1, 0, "other")], created_at="2026-02", archive="b")

    def plans(plan_id: str | None) -> list[str]:
        return sorted(tables.open(store, plan_id)["masks"].to_table()["plan_id"].to_pylist())

    assert plans(None) == ["new", "other"]
    assert plans("latest") == ["new"]
    assert plans("old") == ["old"]
    with pytest.raises(BadConfig, match=r"no published plan missing .*newest last\): old, other, new"):
        tables.open(store, "missing")


def test_a_store_without_tables_says_what_to_do(store: Store):
    with pytest.raises(BadConfig, match="run `vis segment` or `vis evaluate` first"):
        tables.open(store)


def test_files_are_written_for_pruning(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    rows = [mask_row("a", track, frame) for track in range(3) for frame in range(50_000)]
    ref = publish(store, "p", rows)
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
            row = mask_row("a", 1, frame) | {"rle": bytes(tables.ROW_GROUP_BYTES)}
            writer.write(tables.from_rows("masks", [row]))
    assert pq.ParquetFile(store.path("vis/v1/big")).num_row_groups == 3


def test_a_row_that_lacks_a_value_is_refused(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    row = mask_row("a", 1, 0) | {"score": None}
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
