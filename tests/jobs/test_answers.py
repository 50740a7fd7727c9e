import csv
import io
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from jobs.reporting.answers import FORMS, create, form_of, write
from jobs.reporting.query import run
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def printed(answer: pa.Table, **how: Any) -> str:
    text = io.BytesIO()
    write(answer, "table", text, **how)
    return text.getvalue().decode()


def test_masks_survive_csv_json_and_parquet(labelled_lake):
    answer = run("SELECT rle, height_px, width_px, area_px FROM masks ORDER BY area_px LIMIT 5", labelled_lake.store)
    texts = {form: io.BytesIO() for form in FORMS}
    for form, text in texts.items():
        write(answer, form, text)
    from_csv = [row["rle"] for row in csv.DictReader(io.StringIO(texts["csv"].getvalue().decode()))]
    from_json = [row["rle"] for row in json.loads(texts["json"].getvalue())]
    from_parquet = pq.read_table(pa.BufferReader(texts["parquet"].getvalue()))["rle"].to_pylist()
    assert from_csv == from_json == [rle.decode() for rle in from_parquet]
    areas = [int(coco.area({"size": [48, 64], "counts": rle})) for rle in from_json]
    assert areas == answer["area_px"].to_pylist()


def test_a_printed_table_lines_up_and_shows_the_size_of_bytes():
    answer = pa.table({"name": ["a", None], "n": [1.5, 20.0], "rle": [b"abc", b""]})
    assert (
        printed(answer)
        == "name    n  rle\n----  ---  ---------\na     1.5  <3 bytes>\n       20  <0 bytes>\n(2 rows)\n"
    )


def test_text_from_outside_cannot_steer_the_terminal():
    assert "\x1b" not in printed(pa.table({"video_id": ["\x1b[2Jgone", "x" * 100]}))
    assert "\x1b" not in printed(pa.table({"\x1b[2J": [1]}), footer=["\x1b[2Jgone"])


def test_values_are_cut_where_a_table_is_not_wide_and_it_is_said():
    long = pa.table({"video_id": ["x" * 100]})
    assert max(map(len, printed(long).splitlines()[:3])) == 48
    assert "--wide" in printed(long)
    assert "x" * 100 in printed(long, wide=True)
    assert "--wide" not in printed(long, wide=True) + printed(pa.table({"a": ["b"]}))


def test_json_is_json_whatever_the_values():
    answer = pa.table(
        {"x": [math.nan, math.inf, 1.0], "day": pa.array([0, 1, 2], pa.date32()), "b": [b"\xff", b"a", b""]}
    )
    text = io.BytesIO()
    write(answer, "json", text)
    rows = json.loads(text.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["x"] for row in rows] == [None, None, 1.0]
    assert [row["b"] for row in rows] == ["ff", "a", ""]
    empty = io.BytesIO()
    write(answer.slice(0, 0), "json", empty)
    assert json.loads(empty.getvalue()) == []


def read_json(answer: pa.Table) -> list[dict]:
    text = io.BytesIO()
    write(answer, "json", text)
    return json.loads(text.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


NESTED = """
SELECT sum(i) AS total, 2.50::DECIMAL(9, 2) AS money, ['nan'::DOUBLE, 1] AS list, {'a': [1::HUGEINT], 'b': 'x'} AS pair,
       MAP {'k': 'inf'::DOUBLE} AS map, INTERVAL 3 DAYS AS span, [INTERVAL 1 HOUR] AS spans, true AS yes,
       NULL AS nothing, 170141183460469231731687303715884105727 AS large, '101'::BIT AS bits
FROM range(3) t(i)
"""


def test_numbers_stay_numbers_however_deep_and_what_is_none_is_null(labelled_lake):
    answer = run(NESTED, labelled_lake.store)
    assert read_json(answer) == [
        {
            "total": 3,
            "money": 2.5,
            "list": [None, 1.0],
            "pair": {"a": [1], "b": "x"},
            "map": {"k": None},
            "span": "3 days",
            "spans": ["01:00:00"],
            "yes": True,
            "nothing": None,
            "large": 2**127 - 1,
            "bits": "101",
        }
    ]
    text = io.BytesIO()
    write(answer, "csv", text)
    (row,) = csv.DictReader(io.StringIO(text.getvalue().decode()))
    assert [row[name] for name in ("total", "pair", "spans", "yes", "nothing")] == [
        "3", '{"a": [1], "b": "x"}', '["01:00:00"]', "true", "",
    ]  # fmt: skip
    text = io.BytesIO()
    write(answer, "parquet", text)
    assert pq.read_table(pa.BufferReader(text.getvalue()))["spans"].to_pylist() == [["01:00:00"]]


def test_a_type_that_parquet_cannot_hold_is_a_sentence(labelled_lake):
    answer = run("SELECT union_value(k := 1) AS either", labelled_lake.store)
    with pytest.raises(BadConfig, match="Parquet cannot hold this answer"):
        write(answer, "parquet", io.BytesIO())
    assert read_json(answer) == [{"either": 1}]


def test_rows_of_equal_names_keep_their_places():
    answer = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    text = io.BytesIO()
    write(answer, "csv", text)
    assert text.getvalue() == b"a,a\n1,2\n"
    assert printed(answer).splitlines()[2].split() == ["1", "2"]


@pytest.mark.parametrize(
    ("named", "file", "form"),
    [
        (None, "o.parquet", "parquet"), (None, "o.CSV", "csv"), (None, "o.json", "json"), (None, "o.txt", "table"),
        (None, "o", "table"), (None, "/dev/stdout", "table"), (None, None, "table"), ("csv", "o.parquet", "csv"),
    ],
)  # fmt: skip
def test_the_format_is_that_of_the_ending_unless_it_is_named(named, file, form):
    assert form_of(named, file and Path(file)) == form


@pytest.mark.parametrize(("named", "file"), [("xml", "o.csv"), (None, "o.jsonl"), (None, "o.csv.gz")])
def test_a_format_that_nobody_writes_is_refused(named, file):
    with pytest.raises(BadConfig, match="table, csv, json, parquet"):
        form_of(named, Path(file))


def test_a_file_is_there_when_it_is_whole_and_the_old_one_until_then(tmp_path):
    file = tmp_path / "new" / "out.csv"
    with create(file) as target:
        target.write(b"old")
    with pytest.raises(BadConfig, match="mistake"), create(file):
        raise BadConfig("mistake")  # in the question, say
    assert file.read_bytes() == b"old"
    link = tmp_path / "link.csv"
    link.symlink_to(file)
    with create(link) as target:
        target.write(b"new")
    assert (link.is_symlink(), file.read_bytes(), [*file.parent.iterdir()]) == (True, b"new", [file])


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "out.csv", "cannot be written")):
        with pytest.raises(BadConfig, match=message), create(place):
            pytest.fail("nothing was opened")
    with pytest.raises(BadConfig, match="cannot be written to its end"), create(Path("/dev/full")) as target:
        target.write(b"x" * 100_000)


def test_a_fifo_is_written_as_it_is(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as other:
        read = other.submit(fifo.read_bytes)
        with create(fifo) as target:
            target.write(b"answer")
        assert read.result(30) == b"answer"
    assert fifo.is_fifo()


def test_an_unknown_format_is_refused():
    with pytest.raises(BadConfig, match="expected one of table, csv, json, parquet"):
        write(pa.table({"a": [1]}), "xml", io.BytesIO())
