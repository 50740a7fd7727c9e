import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import tables
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.evaluation.evaluations import FOLDER, find, read
from jobs.reporting.query import NAMED_QUERIES, Scope, ask, run
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs.test_tables import publish
from tests.long_lake import publish_long
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def test_the_views_hold_the_published_rows(labelled_lake):
    counts = {view: f"(SELECT count(*) FROM {view})" for view in ("videos", "tracks", "masks", "errors", "evaluations")}
    sql = "SELECT " + ", ".join(f"{count} AS {view}" for view, count in counts.items())
    expected = {"videos": 4, "tracks": 4, "masks": 6 + 6 + 3 + 6, "errors": 1, "evaluations": 0}
    assert run(sql, labelled_lake.store).to_pylist() == [expected]


def test_a_damaged_evaluation_stops_neither_queries_nor_evaluations(draw_lake, s3_settings: Settings):
    for lake in (draw_lake(), draw_lake(settings=s3_settings)):
        first = evaluate(EvaluateJob(data=str(lake.data), plan="plan"), lake.settings).evaluation_id
        for name, damage in {"cut": b"PAR1\x15", "empty": b""}.items():  # names that are newer than every time
            lake.store.write_bytes(f"{FOLDER}/{name}.parquet", damage)
        assert find(lake.store) == first
        again = evaluate(EvaluateJob(data=str(lake.data), plan="plan"), lake.settings)
        assert again.before_id == first
        seen = run("SELECT DISTINCT evaluation_id FROM evaluations", lake.store)["evaluation_id"].to_pylist()
        assert {*seen} == {first, again.evaluation_id}
        with pytest.raises(BadConfig, match=r"cut.parquet is damaged .*: evaluate once more"):
            read(lake.store, "cut")


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
        ("objects-per-clas", r"no named query objects-per-clas, did you mean objects-per-class\?"),
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
        "CREATE TABLE mine AS SELECT * FROM masks",
        "SELECT 1; SELECT 2",
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


def test_what_each_commit_added_can_be_asked(labelled_lake):
    (batch,) = run("SELECT number, plan_id, units, done, failed, frames FROM batches", labelled_lake.store).to_pylist()
    assert batch == {"number": 1, "plan_id": "plan", "units": 4, "done": 3, "failed": 1, "frames": 18}


def test_a_store_without_tables_says_what_to_do(tmp_path):
    with pytest.raises(BadConfig, match="run `vis segment` or `vis evaluate` first"):
        run("SELECT 1", Store.open(Settings(store=str(tmp_path))))


def test_scores_of_results_files_can_be_asked_without_any_table(labelled_lake, tmp_path):
    results = labelled_lake.write("results.json", labelled_lake.results)
    settings = Settings(store=str(tmp_path / "scores"))
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), settings)
    store = Store.open(settings)
    assert run("score-history", store)["AP"].to_pylist() == [done.figures["AP"]]
    assert run("SELECT count(*) AS n FROM switches", store)["n"].to_pylist() == [done.tracking["IDSW"]]
    assert run("SELECT count(*) AS n FROM masks", store)["n"].to_pylist() == [0]


def ids(answer: pa.Table) -> list[str]:
    return sorted(answer["plan_id"].to_pylist())


def test_a_question_sees_one_result_of_each_video_and_says_whose(store: Store):
    publish(store, "old", [], "2026-01", "films", videos=[("/films/a.mp4", "A"), ("/films/b.mp4", "B")])
    publish(store, "new", [], "2026-02", "films/b.mp4", videos=[("/films/b.mp4", "B")])
    publish(store, "scored", [], "2026-03", "val.json", videos=[("/films/a.mp4", "A")], purpose="evaluation")
    for table in ("videos", "masks"):
        assert ids(run(f"SELECT * FROM {table}", store)) == ["new", "old"]
        assert ids(run(f"SELECT * FROM {table}", store, "latest")) == ["new"]
        assert ids(run(f"SELECT * FROM {table}", store, "sco")) == ["scored"]
        assert ids(run(f"SELECT * FROM {table}", store, "all")) == ["new", "old", "old", "scored"]
    plans = run("SELECT plan_id, purpose, read FROM plans", store).to_pylist()
    assert [tuple(plan.values()) for plan in plans] == [
        ("old", "archive", True),
        ("new", "archive", True),
        ("scored", "evaluation", False),
    ]
    said = ask("SELECT count(*) FROM masks", store).read
    assert [line.split(":")[0] for line in said] == ["plan new", "plan old"]
    assert ask("SELECT count(*) FROM plans", store).read == ()


def test_of_an_archive_that_two_models_segmented_the_newer_result_is_seen(store: Store):
    films = [("/films/a.mp4", "A"), ("/films/b.mp4", "B")]
    publish(store, "one", [], "2026-01", "films", videos=films)
    publish(store, "part", [], "2026-02", "more", videos=[*films, ("/more/c.mp4", "C")])
    publish(store, "two", [], "2026-03", "films", videos=films)
    for table in ("videos", "masks"):
        assert ids(run(f"SELECT * FROM {table}", store)) == ["part", "two", "two"]
        assert ids(run(f"SELECT * FROM {table}", store, "all")) == ["one"] * 2 + ["part"] * 3 + ["two"] * 2
    assert run("SELECT 1 AS one", store).to_pylist() == [{"one": 1}]


def test_an_archive_is_asked_for_by_its_name_the_newest_plan_of_it(store: Store):
    rows = ({"why": "no kind of film or frame", "kind": "heic", "files": 3, "first": "a/1.heic"},)
    publish(store, "old", [], "2026-01", "/films", videos=[("/films/a.mp4", "A")], name="holidays")
    publish(store, "new", [], "2026-02", "/films", videos=[("/films/b.mp4", "B")], name="holidays", passed_over=rows)
    publish(store, "other", [], "2026-03", "/more", videos=[("/more/c.mp4", "C")])
    assert ids(run("SELECT * FROM videos", store, "holidays")) == ["new"]
    assert run("SELECT name, archive FROM plans WHERE plan_id = 'new'", store).to_pylist() == [
        {"name": "holidays", "archive": "/films"}
    ]
    assert run("SELECT archive FROM passed_over", store)["archive"].to_pylist() == ["holidays"]
    assert ask("SELECT count(*) FROM masks", store, Scope("holidays")).read[0].startswith("plan new: holidays by ")
    with pytest.raises(BadConfig, match=r"no published plan work in .*: old \(holidays\), new \(holidays\), other"):
        ask("SELECT count(*) FROM masks", store, Scope("work"))


def test_predictions_of_an_evaluation_are_opened_by_naming_it(labelled_lake):
    store = labelled_lake.store
    publish(store, "films", [], "2026-02", "films", videos=[("/films/a.mp4", "A")])
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), plan="plan"), labelled_lake.settings)
    for name in ("latest", done.evaluation_id, done.evaluation_id[:-4], done.uri):
        answer = ask("SELECT DISTINCT plan_id FROM masks", store, Scope(evaluation=name))
        assert ids(answer.table) == ["plan"]
        assert answer.read[0].startswith("plan plan:")
    results = labelled_lake.write("results.json", labelled_lake.results)
    evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), labelled_lake.settings)
    answer = ask("SELECT count(*) AS n FROM masks", store, Scope(evaluation="latest"))
    assert answer.table["n"].to_pylist() == [0]
    assert "which has no tables" in answer.read[0]
    for scope, message in (
        (Scope(evaluation="absent"), "no evaluation absent"),
        (Scope(evaluation="2"), "2 evaluations begin with 2"),
        (Scope("plan", done.evaluation_id), "name one of the two"),
    ):
        with pytest.raises(BadConfig, match=message):
            ask("SELECT count(*) FROM masks", store, scope)


def test_newest_is_the_last_score_of_a_model_whatever_was_evaluated_since(labelled_lake):
    store, data = labelled_lake.store, str(labelled_lake.data)
    halves = []
    for row in labelled_lake.results:
        frames = row["segmentations"]
        halves += [row | {"segmentations": [*frames[:3], *[None] * 3]}]
        halves += [row | {"segmentations": [*[None] * 3, *frames[3:]]}]
    switching = evaluate(
        EvaluateJob(data=data, results=labelled_lake.write("halves.json", halves)), labelled_lake.settings
    )
    assert run("identity-switches", store).num_rows == switching.tracking["IDSW"] > 0
    clean = evaluate(EvaluateJob(data=data), labelled_lake.settings)
    assert run("identity-switches", store).num_rows == 0
    evaluate(EvaluateJob(data=data, oracle="identity", check="warn"), labelled_lake.settings)
    agnostic = evaluate(EvaluateJob(data=data, class_agnostic=True), labelled_lake.settings)
    by_category = run("ap-per-category", store)["AP"].to_pylist()
    assert sum(by_category) / 2 == pytest.approx(clean.figures["AP"])
    history = [done.evaluation_id for done in (switching, clean, agnostic)]
    assert run("score-history", store)["evaluation_id"].to_pylist() == history
    assert run("SELECT DISTINCT oracle FROM evaluations WHERE oracle IS NOT NULL", store).to_pylist() == [
        {"oracle": "identity"}
    ]
    older = Scope(evaluation=switching.evaluation_id)
    assert ask("identity-switches", store, older).table.num_rows == switching.tracking["IDSW"]
    said = [ask("ap-per-category", store, scope).read[-1] for scope in (Scope(), older)]
    assert said[0].startswith(f"evaluation {clean.evaluation_id}: ")
    assert said[1].startswith(f"evaluation {switching.evaluation_id}: ")


def test_an_evaluation_of_the_days_before_the_column_oracle_names_it_in_its_rules(labelled_lake):
    store = labelled_lake.store
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), oracle="clip", check="warn"), labelled_lake.settings)
    file = Path(done.uri)
    new = pq.read_table(file)
    provenance = json.loads(new.schema.metadata[b"provenance"])
    del provenance["oracle"]
    provenance["rules"] += ", with defects"
    rules = pa.array([provenance["rules"]] * new.num_rows)
    old = new.drop_columns(["oracle"]).set_column(new.schema.get_field_index("rules"), "rules", rules)
    pq.write_table(old.replace_schema_metadata({"provenance": json.dumps(provenance), "notes": "[]"}), file)
    assert find(store) is None
    assert find(store, oracle="clip") == done.evaluation_id
    assert run("SELECT DISTINCT oracle FROM evaluations", store).to_pylist() == [{"oracle": "clip"}]
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    assert {row["oracle"] for row in run("SELECT DISTINCT oracle FROM evaluations", store).to_pylist()} == {
        "clip",
        None,
    }


def test_columns_of_one_name_get_names_of_their_own_and_it_is_said(labelled_lake):
    answer = ask("SELECT 1 AS a, 2 AS A, 3 AS a_1, 4 AS a", labelled_lake.store)
    assert [*answer.table.to_pylist()[0].values()] == [1, 2, 3, 4]
    assert answer.table.column_names == ["a", "A_2", "a_1", "a_3"]
    assert answer.notes[0] == "column 2 is called A_2, as there is a A before it"
    joined = ask("SELECT * FROM tracks t JOIN masks m USING (plan_id, video_id, track_id)", labelled_lake.store)
    assert len(set(joined.table.column_names)) == joined.table.num_columns
    assert joined.table["score_1"].to_pylist() == joined.table["score"].to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "FROM masks",
        "DESCRIBE SELECT * FROM masks",
        "SUMMARIZE videos",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "SELECT 1;",
        "VALUES (1)",
    ],
)
def test_every_statement_that_reads_is_answered(labelled_lake, sql):
    assert run(sql, labelled_lake.store).num_rows > 0


OWN = {
    "tags.csv": "video_id,tag\n1,car park\n003,bridge\n",
    "tags.json": '[{"video_id": 1, "tag": "car park"}]',
    "tags.jsonl": '{"video_id": "1", "tag": "car park"}\n',
}


@pytest.mark.parametrize("name", [*OWN, "tags.parquet", "odd [1]'s.csv"])
def test_own_data_is_joined_by_name(store: Store, tmp_path: Path, name: str):
    publish(store, "p", [], videos=[("/films/1", "A"), ("/films/003", "B")])
    file = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"video_id": [1], "tag": ["car park"]}), file)
    else:
        file.write_text(OWN.get(name, OWN["tags.csv"]))
    scope = Scope(joined=(("labels", str(file)),))
    rows = ask("SELECT video_id, tag FROM videos JOIN labels USING (video_id) ORDER BY 1 DESC", store, scope).table
    assert rows.to_pylist()[0] == {"video_id": "1", "tag": "car park"}
    assert rows.num_rows == (2 if name.endswith(".csv") else 1)  # 003 is a name, not a number
    with pytest.raises(BadConfig, match="disabled by configuration"):
        ask(f"FROM read_text('{tmp_path}/tags.csv')", store, scope)


def test_own_data_in_s3_is_joined_with_the_credentials_of_the_store(s3_settings, draw_lake):
    store = draw_lake(settings=s3_settings).store
    store.write_bytes("own/tags.csv", OWN["tags.csv"].encode())
    scope = Scope(joined=(("labels", store.uri("own/tags.csv")),))
    assert ask("SELECT tag FROM videos JOIN labels USING (video_id)", store, scope).table.num_rows == 1


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("masks", "tags.csv", "a word that is none of"),
        ("my tags", "tags.csv", "a word that is none of"),
        ("tags", "tags.xlsx", "unknown ending '.xlsx', expected one of .csv, .json"),
        ("tags", "absent.csv", "there is no such file"),
        ("tags", "broken.parquet", "broken.parquet"),
    ],
)
def test_own_data_that_cannot_be_read_is_named(labelled_lake, tmp_path, monkeypatch, name, file, message):
    monkeypatch.chdir(tmp_path)
    for each in ("tags.csv", "broken.parquet"):
        (tmp_path / each).write_text("nothing")
    with pytest.raises(BadConfig, match=message):
        ask("SELECT 1", labelled_lake.store, Scope(joined=((name, file),)))


def test_a_store_whose_name_could_be_a_pattern_is_read_as_it_is(tmp_path: Path):
    for folder in ("lake [1]'s", "lake 1's"):
        publish_long(Store.open(Settings(store=str(tmp_path / folder))), files=2, rows=3 if "[" in folder else 4)
    assert run("SELECT count(*) AS n FROM masks", Store.open(Settings(store=str(tmp_path / "lake [1]'s"))))[
        "n"
    ].to_pylist() == [6]


def test_what_an_archive_holds_and_is_not_read_is_a_view(labelled_lake):
    (snapshot,) = labelled_lake.store.plans()
    rows = ({"why": "no kind of film or frame", "kind": "heic", "files": 3, "first": "a/1.heic"},)
    labelled_lake.store.write_plan(snapshot.model_copy(update={"passed_over": rows}))
    answer = run("SELECT archive, why, kind, files, first FROM passed_over", labelled_lake.store).to_pylist()
    assert answer == [{"archive": snapshot.archive} | rows[0]]


@pytest.mark.parametrize("sql", ["DESCRIBE masks", "desc MASKS;", "show table masks"])
def test_describe_says_what_columns_mean(store: Store, sql: str):
    answer = ask(sql, store).table.to_pylist()
    assert [row["column_name"] for row in answer] == tables.MASKS.names
    meaning = {row["column_name"]: (row["column_type"], row["comment"]) for row in answer}
    assert meaning["rle"][0] == "BLOB"
    assert "px" in meaning["area_px"][1] or "pixel" in meaning["area_px"][1]
    assert all(comment for _, comment in meaning.values())


@pytest.mark.parametrize("older", ["some of", "all"])
def test_a_column_that_files_of_earlier_days_lack_is_null_there(labelled_lake, older: str):
    store = Store.open(labelled_lake.settings)
    keys = tables.files(store, tables.choose(store))["tracks"]
    for key in keys if older == "all" else keys[:1]:
        path = store.path(key)
        pq.write_table(pq.read_table(path).drop_columns(["other_classes"]), path)
    answer = run("SELECT count(*) AS tracks, count(other_classes) AS told FROM tracks", store)
    assert answer.to_pylist() == [{"tracks": len(labelled_lake.results), "told": 0}]
