import csv
import io
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from jobs.evaluate import EvaluateJob, evaluate
from jobs.query import FORMS, NAMED_QUERIES, run, write
from jobs.settings import Settings
from jobs.store import Store
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def test_the_views_hold_the_published_rows(labelled_lake):
    counts = {view: f"(SELECT count(*) FROM {view})" for view in ("videos", "tracks", "masks", "errors", "evaluations")}
    sql = "SELECT " + ", ".join(f"{count} AS {view}" for view, count in counts.items())
    expected = {"videos": 4, "tracks": 4, "masks": 6 + 6 + 3 + 6, "errors": 1, "evaluations": 0}
    assert run(sql, labelled_lake.store).to_pylist() == [expected]


def test_evaluations_are_a_view_too(labelled_lake):
    done = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    (row,) = run("score-history", labelled_lake.store).to_pylist()
    assert (row["evaluation_id"], row["AP"], row["scored"]) == (done.evaluation_id, done.figures["AP"], "drawn")
    assert row["HOTA"] == done.tracking["HOTA"]
    by_category = run("ap-per-category", labelled_lake.store)
    assert sorted(by_category["category"].to_pylist()) == ["disc", "square"]
    assert sum(by_category["AP"].to_pylist()) / 2 == pytest.approx(done.figures["AP"])
    assert run("identity-switches", labelled_lake.store).num_rows == done.tracking["IDSW"]


@pytest.mark.parametrize("name", NAMED_QUERIES)
def test_each_named_query_answers_and_says_what_it_asks(labelled_lake, name):
    assert run(name, labelled_lake.store).num_columns > 2
    assert NAMED_QUERIES[name].asks.endswith(("?", ")"))


def test_the_named_queries_count_what_was_drawn(labelled_lake):
    def ask(name):
        return run(name, labelled_lake.store).to_pylist()

    assert [(row["category"], row["objects"], row["videos"]) for row in ask("objects-per-class")] == [
        ("disc", 2, 2),
        ("square", 2, 2),
    ]
    busiest = {"video_id": "2", "objects_at_once": 2, "at_frame": 0, "at_s": None, "mean_objects": 1.5}
    assert ask("busiest-videos")[0] == busiest  # the square in 6 frames, the disc in the first 3
    assert ask("seen-together") == [{"category": "disc", "with_category": "square", "frames": 3, "videos": 1}]
    assert [row["area_px"] for row in ask("area-over-time")] == [225] * 6  # the square of video 1: 15 x 15 px
    assert [(row["code"], row["videos"]) for row in ask("errors-by-code")] == [("missing", 1)]
    assert {row["status"]: row["frames"] for row in ask("video-status")} == {"done": 18, "failed": 0}
    assert ask("lost-and-found") == []


def test_tables_in_s3_are_queried_without_an_extension(s3_settings, draw_lake):
    tables = draw_lake(settings=s3_settings).store
    answer = run("SELECT video_id, count(*) AS n FROM masks WHERE area_px > 200 GROUP BY 1 ORDER BY 1", tables)
    assert answer.to_pylist()[0] == {"video_id": "1", "n": 6}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM masks", "nope"),
        ("SELECT * FROM films", "films"),
        ("SELECT 1 / 'x'", "Conversion Error"),
        ("", "asks for nothing"),
        ("-- only a remark", "asks for nothing"),
        ("longest-track", "longest-tracks"),
    ],
)
def test_a_mistake_in_the_sql_is_explained(labelled_lake, sql, message):
    with pytest.raises(BadConfig, match=message):
        run(sql, labelled_lake.store)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM glob('/*')",
        "COPY masks TO '{file}'",
        "COPY (SELECT 1) TO '{file}' (FORMAT parquet)",
        "EXPORT DATABASE '{file}'",
        "ATTACH '{file}.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM secret",
    ],
)
def test_a_statement_reaches_nothing_but_the_views(labelled_lake, tmp_path, sql):
    secret = pa.table({"key": [1]})
    file = tmp_path / "private.csv"
    file.write_text("key\n1\n")
    with pytest.raises(BadConfig):
        run(sql.format(file=file), labelled_lake.store)
    assert file.read_text() == "key\n1\n"
    assert secret.num_rows == 1


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
    assert max(map(len, printed(pa.table({"video_id": ["x" * 100]})).splitlines())) <= 48


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


def test_an_unknown_format_is_refused():
    with pytest.raises(BadConfig, match="expected one of table, csv, json, parquet"):
        write(pa.table({"a": [1]}), "xml", io.BytesIO())


def test_a_store_without_tables_says_what_to_do(tmp_path):
    with pytest.raises(BadConfig, match="run `vis segment` or `vis evaluate` first"):
        run("SELECT 1", Store.open(Settings(store=str(tmp_path))))


def printed(answer: pa.Table) -> str:
    text = io.BytesIO()
    write(answer, "table", text)
    return text.getvalue().decode()


def test_scores_of_results_files_can_be_asked_without_any_table(labelled_lake, tmp_path):
    results = labelled_lake.write("results.json", labelled_lake.results)
    settings = Settings(store=str(tmp_path / "scores"))
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), settings)
    store = Store.open(settings)
    assert run("score-history", store)["AP"].to_pylist() == [done.figures["AP"]]
    assert run("SELECT count(*) AS n FROM switches", store)["n"].to_pylist() == [done.tracking["IDSW"]]
    assert run("SELECT count(*) AS n FROM masks", store)["n"].to_pylist() == [0]


def test_what_an_archive_holds_and_is_not_read_is_a_view(labelled_lake):
    (snapshot,) = labelled_lake.store.snapshots()
    rows = ({"why": "no kind of film or frame", "kind": "heic", "files": 3, "first": "a/1.heic"},)
    labelled_lake.store.publish(snapshot.model_copy(update={"passed_over": rows}))
    answer = run("SELECT archive, why, kind, files, first FROM passed_over", labelled_lake.store).to_pylist()
    assert answer == [{"archive": snapshot.archive} | rows[0]]
