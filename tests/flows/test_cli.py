"""The installed command, as a user types it."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from jobs import tables
from tests.flows.conftest import Program, Trained

VERBS = ("world", "train", "segment", "evaluate", "report", "query", "models", "up")


def test_the_help_names_every_verb_and_brings_nothing_heavy():
    code = "import sys, flows.cli; print(sorted({'torch', 'ray', 'prefect', 'duckdb', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_verb_is_there(vis: Program):
    text = vis("--help").stdout
    assert all(f" {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu", "models"], "'auto', 'cpu' or 'cuda'"),
        (["world", "w", "--height", "33"], "even number of pixels"),
        (["train", "--set", "gate_ap50"], "KEY=VALUE"),
        (["train", "--recipe", "nobody"], "unknown recipe 'nobody'"),
        (["train", "--set", "stages.0.iteration=5"], "unknown config key 'stages.0.iteration'"),
        (["train", "--set", "gate_ap50=7"], "less than or equal to 1"),
        (["segment", "f", "--min-score", "2"], "less than or equal to 1"),
        (["evaluate", "--oracle", "best"], "identity, frame, clip or image"),
        (["query", "SELECT 1"], "no published tables"),
        (["query"], "vis query --list"),
        (["--store", "s3://", "models"], "names no bucket"),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_exit_code_2(vis, tmp_path, arguments, says):
    done = vis(*arguments, code=2, VIS_STORE=str(tmp_path))
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("archive", ["nowhere", "empty"])
def test_an_archive_without_videos_stops_before_anything_is_written(vis, trained, tmp_path, archive):
    (tmp_path / "empty").mkdir()
    done = vis("segment", tmp_path / archive, code=2)
    assert str(tmp_path / archive) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_drawn_data_set_says_where_it_is_and_is_drawn_once(vis, tmp_path):
    first = vis("world", tmp_path / "w", "--train", 2, "--val", 1, "--frames", 3)
    assert str(tmp_path / "w") in first.stdout
    assert "draw train: 2 of 2" in first.stderr
    assert len(json.loads((tmp_path / "w/val.json").read_text())["videos"]) == 1
    assert "draw" not in vis("world", tmp_path / "w", "--train", 2, "--val", 1, "--frames", 3).stderr


def test_ctrl_c_ends_a_training_with_a_hint_and_no_traceback(trained: Trained):
    assert "random weights" in trained.stopped
    assert "Traceback" not in trained.stopped
    assert "Crash" not in trained.stopped


def test_a_resumed_training_goes_on_at_its_checkpoint_and_registers_the_model(vis: Program, trained: Trained):
    assert re.search(r"train detector: goes on after iteration [1-6]0\n", trained.resumed)
    assert f"models/{trained.run}" in trained.resumed
    listed = vis("models").stdout
    assert trained.run in listed
    assert "loss" in listed


def test_recipes_are_listed(vis: Program):
    assert "rgnn_r50_ytvis2019" in vis("models", "--recipes").stdout


def test_a_segmented_archive_has_a_row_for_every_film_and_films_to_look_at(vis, trained, films):
    done = vis("segment", films, "--min-score", 0, "--overlay")
    assert "3 done, 1 partial, 1 failed" in done.stdout
    rows = tables.open(vis.environment["VIS_STORE"])["videos"].to_table().to_pylist()
    assert {row["video_id"]: row["status"] for row in rows} == {
        "000000.mp4": "done", "000001.mp4": "done", "000002.mp4": "done", "text.mp4": "failed", "frames": "partial",
    }  # fmt: skip
    assert Path(done.stdout.split("the first is ")[1].strip()).stat().st_size > 1000
    assert "nothing to do" in vis("segment", films, "--min-score", 0).stdout


def test_an_archive_of_which_nothing_could_be_read_ends_with_exit_code_1(vis, trained, tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    assert "1 failed" in vis("segment", tmp_path, code=1).stdout


def test_an_evaluation_needs_no_argument_and_a_report_ends_with_the_score_and_its_place(vis, trained):
    scored = vis("evaluate").stdout
    assert scored.startswith("AP 0.")
    assert re.search(r"HOTA 0\.\d+  DetA .* IDSW \d+  \(score >= 0.3\)", scored)
    assert Path(scored.split()[-1]).is_file()
    last = vis("report").stdout.splitlines()[-1]
    assert last.startswith("AP 0.")
    assert "<html" in Path(last.split("report ")[1]).read_text()


def test_a_question_is_answered_as_table_csv_json_and_parquet(vis, trained, films):
    vis("segment", films, "--min-score", 0)
    sql = "SELECT status, sum(n_frames)::INT AS frames FROM videos WHERE uri LIKE '%/films/%' GROUP BY 1 ORDER BY 1"
    expected = [("done", 24), ("failed", 0), ("partial", 3)]
    assert "partial" in vis("query", sql).stdout
    assert vis("query", sql, "--format", "csv").stdout == "status,frames\ndone,24\nfailed,0\npartial,3\n"
    assert [tuple(row.values()) for row in json.loads(vis("query", sql, "--format", "json").stdout)] == expected
    file = vis.folder / "answer.parquet"
    assert str(file) in vis("query", sql, "--format", "parquet", "--output", file).stdout
    assert [tuple(row.values()) for row in pq.read_table(io.BytesIO(file.read_bytes())).to_pylist()] == expected
    assert duckdb.sql(f"SELECT sum(frames) FROM '{file}'").fetchone() == (27,)


def test_named_queries_are_listed(vis: Program):
    assert "objects-per-class" in vis("query", "--list").stdout
