"""The installed command, as a user types it."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from flows.cli.verbs import DeviceOption
from jobs import tables
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.recipes.catalogue import build
from jobs.training.run_files import LEFT_OUT, RUNS
from jobs.training.runs import says_why_it_ends
from jobs.training.train import freeze
from tests.conftest import REPOSITORY
from tests.drawn_results import Drawing, write
from tests.flows.conftest import PROGRAMS, SECRET, Program, Trained, files_with
from vis_models.config import BadConfig

VERBS = [
    "world", "train", "ablate", "segment", "evaluate", "compare", "submission", "report", "query", "models", "up",
    "runs", "settings",
]  # fmt: skip
BEFORE_AN_ENGINE = [
    (["train", "--recipe", "nobody"], "unknown recipe 'nobody'"),
    (["train", "--set", "nonsense=1"], "unknown config key 'nonsense'"),
    (["train", "--set", "stages=[]"], "at least 1 item"),
    (["train", "--data", "/nowhere"], "/nowhere does not exist"),
    (["train", "--recipe", "rgnn_r50_ytvis2019"], "give a folder in the YouTube-VIS format"),
    (["train", "--detector", "nobody"], "nobody is neither a registered model"),
    (["train", "--resume", "nothing"], "no run 'nothing'"),
    (["train", "--from", "nothing"], "no run 'nothing'"),
    (["report", "nothing"], "no run 'nothing'"),
    (["train", "--name", "a/b"], "--name: expected letters"),
    (["segment", "/nowhere"], "archive /nowhere does not exist"),
    (["segment", ".", "--model", "nobody"], "nobody is neither a registered model"),
    (["segment", ".", "--frame-folder-fps", "0"], "over 0, got 0.0"),
    (["segment", "s3://ME:hunter2@films"], "an address must not hold keys"),
    (["evaluate", "/nowhere"], "/nowhere does not exist"),
    (["evaluate", "--model", "nobody"], "To score the results of another program, name them: --results"),
    (["evaluate", "--gt", "absent.json", "--plan", "nothing"], "absent.json does not exist"),
    (["ablate", "--detector", "nobody"], "nobody is neither a registered model"),
    (["ablate", "--recipe", "rgnn_r18_world_hard", "--detector", "m", "--row", "simpel"], "did you mean simple"),
    (["ablate", "--recipe", "masktrack_r18_world_hard", "--detector", "m", "--row", "sort"], "did you mean deepsort"),
    (
        ["ablate", "--recipe", "rgnn_r18_world_hard", "--detector", "m", "--row", "resnet101"],
        "'resnet101' changes the weights themselves",
    ),
    (["runs", "show", "nothing"], "no run 'nothing'"),
    (["models", "import", "/nowhere.pth"], "no checkpoint at /nowhere.pth"),
    (["models", "fetch", "resnet5"], "did you mean resnet50"),
    (["models", "link", "nobody"], "nobody is neither a registered model"),
    (["models", "link", "m", "--tracker", "iuo"], "unknown tracker 'iuo', did you mean iou"),
    (["models", "--device", "tpu"], "'auto', 'cpu', 'cuda'"),
    (["--workers", "-1", "models"], "greater than or equal to 0"),
    (["settings", "--store", "s3://ME:hunter2@lake"], "an address must not hold keys"),
]


def test_the_help_names_every_verb_and_brings_nothing_heavy():
    code = "import sys, flows.cli; print(sorted({'torch', 'ray', 'prefect', 'duckdb', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_every_verb_is_there(vis: Program):
    text = vis("--help").stdout
    assert all(f" {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu", "models"], "'auto', 'cpu', 'cuda'"),
        *BEFORE_AN_ENGINE,
        (["world", "w", "--height", "33"], "even number of pixels"),
        (["world", "/proc/w"], "/proc/w: No such file or directory; expected a folder that can be made"),
        (["world", __file__, "--archive", "1"], "expected a folder that can be made and written"),
        (["train", "--set", "gate_ap50"], "KEY=VALUE"),
        (["segment", "f", "--min-score", "2"], "less than or equal to 1"),
        (["evaluate", "--oracle", "best"], "'identity', 'frame', 'clip', 'image'"),
        (["query"], "vis query --list"),
        (["query", "SELECT 1"], "no published tables"),
        (["evaluate", "--results", "r.json"], "r.json is scored against labels: name them with --gt"),
        (["evaluate", "a.json", "--gt", "b.json"], "named twice"),
        (
            ["evaluate", "a.json", "--results", "r.json", "--plan", "p"],
            "r.json and p: a model, a results file or a plan",
        ),
        (["evaluate", "absent.json"], "absent.json does not exist"),
        (["evaluate", "--gt", "a.json", "--results", "r.json", "--holdout", "all"], "hold-out rule 'all'"),
        (["compare", "a", "b"], "no evaluation a"),
        (["submission", "a.json"], "a.json does not exist"),
        (["submission", "a.json", "--server-score", "AP"], "such as AP=35.3"),
        (["submission", "a.json", "--server-score", "AP=35.3"], "submission.zip is not there"),
        (["--store", "s3://", "models"], "names no bucket"),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, says):
    monkeypatch.setenv("VIS_STORE", str(tmp_path))  # set here so that what a verb sets is put back
    monkeypatch.setenv("VIS_DEVICE", "auto")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["vis", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "Traceback" not in said.err
    assert "hunter2" not in said.err
    assert not said.out


def test_a_mistake_is_found_without_torch_ray_and_prefect(tmp_path):
    code = f"""
import contextlib, io, sys
from flows.cli import main
for arguments in {[arguments for arguments, _ in BEFORE_AN_ENGINE]}:
    sys.argv = ["vis", *arguments]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    print(sorted({{"torch", "ray", "prefect"}} & set(sys.modules)), *arguments)
"""
    environment = os.environ | {"VIS_STORE": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert not done.stderr
    assert {line[:3] for line in done.stdout.splitlines()} == {"[] "}, done.stdout


def test_a_question_and_the_score_of_a_file_do_without_pandas_though_pyarrow_would_bring_it(tmp_path):
    labels = {
        "videos": [{"id": 1, "width": 8, "height": 6, "length": 1, "file_names": ["1/0.jpg"]}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "video_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentations": [{"size": [6, 8], "counts": [0, 48]}],
                "bboxes": [[0, 0, 8, 6]],
                "areas": [48],
            }
        ],
    }
    track = {"video_id": 1, "category_id": 1, "score": 1.0, "segmentations": labels["annotations"][0]["segmentations"]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "results.json").write_text(json.dumps([track]))
    code = """
import sys
from flows.cli import main
for line in ("evaluate --gt labels.json --results results.json", "query score-history"):
    sys.argv = ["vis", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(end.code, "pandas._libs" in sys.modules)
import pandas
"""
    environment = os.environ | {"VIS_STORE": str(tmp_path / "lake"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    ends = [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))]
    assert ends == ["0 False", "0 False"], done.stdout + done.stderr


def type_in(monkeypatch, capsys, tmp_path, *arguments: object) -> str:
    """What a verb prints that ends well, in this process."""
    monkeypatch.setenv("VIS_STORE", str(tmp_path / "lake"))  # set here so that what a verb sets is put back
    monkeypatch.setenv("VIS_DEVICE", "auto")
    monkeypatch.setenv("VIS_WORKERS", "0")
    monkeypatch.setattr(sys, "argv", ["vis", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    return said.out


def test_settings_say_where_they_come_from_and_hide_keys(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIS_S3_ACCESS_KEY", "hunter2")
    (tmp_path / "vis.toml").write_text('s3_secret_key = "hunter2"\nscratch = "/s"\n')
    said = type_in(monkeypatch, capsys, tmp_path, "--device", "cpu", "settings", "--workers", 2)
    rows = {row.split()[0]: " ".join(row.split()[1:]) for row in said.splitlines()}
    assert rows["store"] == f"{tmp_path / 'lake'} environment, VIS_STORE"
    assert rows["s3_region"] == "us-east-1 default"
    assert rows["s3_access_key"] == "*** environment, VIS_S3_ACCESS_KEY"
    assert rows["s3_secret_key"] == f"*** {tmp_path / 'vis.toml'}"
    assert rows["s3_endpoint"] == "- default"
    assert rows["scratch"] == f"/s {tmp_path / 'vis.toml'}"
    assert rows["device"] == "cpu command line, --device"
    assert rows["workers"] == "2 command line, --workers"
    assert set(rows) == {"setting", *Settings.model_fields}


def test_the_options_of_vis_stand_before_and_behind_every_verb_and_runs_has_them_too(monkeypatch, capsys, tmp_path):
    for typed in (["--store", tmp_path / "s", "runs"], ["runs", "--store", tmp_path / "s"]):
        assert type_in(monkeypatch, capsys, tmp_path, *typed) == f"runs        {tmp_path / 's/vis/v1/runs'}\n"
    for verb in [*VERBS, "runs show", "runs compare", "runs delete", "models link"]:
        said = type_in(monkeypatch, capsys, tmp_path, *verb.split(), "--help")
        assert all(option in said for option in ("--store", "--device", "--workers")), verb


def test_the_devices_of_the_command_line_are_those_of_the_settings():
    assert get_args(get_args(get_args(DeviceOption)[0])[0]) == get_args(Settings.model_fields["device"].annotation)


def test_the_version_is_said_with_the_commit(monkeypatch, capsys, tmp_path):
    assert type_in(monkeypatch, capsys, tmp_path, "--version").startswith(f"vislake {version('vislake')}")


def test_a_variable_that_is_no_setting_is_named_on_stderr(monkeypatch, capsys):
    monkeypatch.setenv("VIS_CANVAS", "1")
    monkeypatch.setattr(sys, "argv", ["vis", "settings"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "vis: VIS_CANVAS is no setting and not used; `vis settings` lists all\n"


@pytest.mark.parametrize("typed", ["models --recipes | head -1", "models --recipes >&-", "--help 2>&- | true"])
def test_a_stream_that_nobody_reads_is_no_error(vis: Program, typed: str):
    program = f"set -o pipefail; {PROGRAMS / 'vis'} {typed}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=vis.environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_answer_that_finds_no_space_is_a_sentence(vis: Program):
    program = f"{PROGRAMS / 'vis'} models --recipes > /dev/full"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=vis.environment)
    assert (done.returncode, done.stderr) == (2, "vis: the answer could not be written: No space left on device\n")


def test_runs_are_deleted_when_the_question_is_answered(monkeypatch, capsys, tmp_path):
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    freeze(build("rgnn_r18_world_tiny"), store, "r")
    store.write_json(f"{RUNS}/r/{LEFT_OUT}", {})
    with pytest.raises(BadConfig), says_why_it_ends(store, "r"):
        raise BadConfig("no frames")
    assert "reason      no frames" in type_in(monkeypatch, capsys, tmp_path, "runs", "show", "r")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with pytest.raises(AssertionError):
        type_in(monkeypatch, capsys, tmp_path, "runs", "delete", "r")
    assert "failed to start" in type_in(monkeypatch, capsys, tmp_path, "runs")
    assert "deleted     r, 3 files" in type_in(monkeypatch, capsys, tmp_path, "runs", "delete", "r", "--yes")
    assert type_in(monkeypatch, capsys, tmp_path, "runs").startswith("runs        ")


def test_at_a_terminal_the_first_words_come_before_anything_heavy(vis: Program):
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [PROGRAMS / "vis", "report", "--plan", "nobody"], stderr=theirs, env=vis.environment
    ) as process:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(ours, 1000):
                said += part
    os.close(ours)
    assert process.returncode == 2
    assert re.fullmatch(rb"report: starts\r\n.*vis: .* has no published tables.*", said, re.DOTALL), said


@pytest.mark.parametrize("archive", ["nowhere", "empty"])
def test_an_archive_without_videos_stops_before_anything_is_written(vis, trained, tmp_path, archive):
    (tmp_path / "empty").mkdir()
    done = vis("segment", tmp_path / archive, code=2)
    *phases, last = done.stderr.splitlines()
    assert str(tmp_path / archive) in last
    assert phases == [f"segment: looks for videos in {tmp_path / 'empty'}"] * (archive == "empty")


def test_a_drawn_data_set_says_where_it_is_and_is_drawn_once(vis, tmp_path):
    first = vis("world", tmp_path / "w", "--train", 2, "--val", 1, "--frames", 3)
    assert str(tmp_path / "w") in first.stdout
    assert "draw train: 2 of 2" in first.stderr
    assert len(json.loads((tmp_path / "w/val.json").read_text())["videos"]) == 1
    assert "draw" not in vis("world", tmp_path / "w", "--train", 2, "--val", 1, "--frames", 3).stderr


def test_ctrl_c_ends_a_training_with_a_checkpoint_a_hint_and_no_traceback(trained: Trained):
    assert "random weights" in trained.stopped
    assert "train detector: ends after this iteration\n" in trained.stopped
    assert "Traceback" not in trained.stopped
    assert "Crash" not in trained.stopped
    assert re.search(rf"^{trained.run} .* stopped +detector +[1-9]\d? of 60 ", trained.listed, re.MULTILINE)


def test_a_resumed_training_goes_on_at_its_checkpoint_and_registers_the_model(vis: Program, trained: Trained):
    assert re.search(r"train detector: goes on after iteration [1-9]\d?\n", trained.resumed)
    assert f"models/{trained.run}" in trained.resumed
    assert trained.run == "first-steps"  # --name, not taken from the recipe
    assert re.search(r"^first-steps .* whole .* tracker_loss ", vis("models").stdout, re.MULTILINE)
    assert re.search(r"^first-steps .* finished +tracker +2 of 2 .* tracker_loss ", vis("runs").stdout, re.MULTILINE)


def test_recipes_are_listed(vis: Program):
    assert "rgnn_r50_ytvis2019" in vis("models", "--recipes").stdout


@pytest.fixture(scope="module")
def segmented(vis: Program, trained: Trained, films: Path) -> str:
    """What `vis segment` said of the films."""
    return vis("segment", films, "--min-score", 0, "--overlay").stdout


def test_a_segmented_archive_has_a_row_for_every_film_and_films_to_look_at(vis, films, segmented):
    assert "3 done, 1 partial, 1 failed" in segmented
    rows = tables.open(vis.environment["VIS_STORE"])["videos"].to_table().to_pylist()
    assert {row["video_id"]: row["status"] for row in rows} == {
        "000000.mp4": "done", "000001.mp4": "done", "000002.mp4": "done", "text.mp4": "failed", "frames": "partial",
    }  # fmt: skip
    assert Path(segmented.split("the first is ")[1].strip()).stat().st_size > 1000
    assert "nothing to do" in vis("segment", films, "--min-score", 0).stdout


def test_an_archive_of_which_nothing_could_be_read_ends_with_exit_code_1(vis, trained, tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    assert "1 failed" in vis("segment", tmp_path, code=1).stdout


def test_an_evaluation_needs_no_argument_and_a_report_ends_with_the_score_and_its_place(vis, trained):
    scored = vis("evaluate").stdout
    assert re.search(r"^AP 0\.\d{3} ", scored, re.MULTILINE)
    assert re.search(r"HOTA 0\.\d+  DetA .* IDSW \d+  \(score >= 0.3\)", scored)
    assert Path(scored.split()[-1]).is_file()
    last = vis("report").stdout.splitlines()[-1]
    assert last.startswith("AP 0.")
    assert "<html" in Path(last.split("report ")[1]).read_text()


def test_an_oracle_is_no_score_of_the_model_and_training_videos_are_not_scored(vis, trained):
    said = vis("evaluate", "--oracle", "image").stdout
    assert "note        image oracle, no score of a model" in said
    assert ", image oracle)\n" in said
    assert "verdict" not in said
    refused = vis("evaluate", "--holdout", "0.5", code=2).stderr
    assert re.search(r"was trained on videos that the rule 0\.5 holds out, its training held out nothing", refused)


def test_results_that_lie_beside_their_labels_are_scored_without_a_model(vis, tmp_path, shared_data):
    folder = shared_data / "data" / "real" / "annotated" / "sav_000208"
    beside = vis("evaluate", folder, VIS_STORE=str(tmp_path)).stdout
    assert "\nAP 0.341914  AP50 0.566478" in beside
    assert "\nHOTA 0.465608  DetA 0.317328" in beside
    assert beside.startswith("AP 0.342 (no interval: that takes 20 videos with objects)")
    named = ["--gt", folder / "gt.ytvis.json.gz", "--results", folder / "results.json.gz"]
    assert "\nAP 0.341914  AP50 0.566478" in vis("evaluate", *named, VIS_STORE=str(tmp_path)).stdout


def test_a_part_is_held_out_and_its_score_accepted(vis, tmp_path):
    labels, results = write(Drawing(24, 3, 2, 2, 4), tmp_path, Store.open(Settings(store=str(tmp_path / "lake"))))
    typed = ["evaluate", "--gt", labels, "--results", results, "--holdout", "0.5", "--accept"]
    first, second = (vis(*typed, VIS_STORE=str(tmp_path / "other")).stdout for _ in range(2))
    assert re.search(
        r"note        only the \d+ of 24 videos that rule 0.5 holds out are scored: split [0-9a-f]{16}\n", first
    )
    accepted = re.search(r"accepted    (\S+)\n$", first)
    assert second.endswith(f" instead of {accepted[1]}\n")


def test_results_are_zipped_for_the_server_and_its_score_is_kept(vis, tmp_path):
    labels, results = write(Drawing(3, 3, 2, 2, 4), tmp_path, Store.open(Settings(store=str(tmp_path / "lake"))))
    zipped, store = tmp_path / "sent.zip", str(tmp_path / "other")
    said = vis("submission", labels, "--results", results, "--out", zipped, VIS_STORE=store).stdout
    assert "tracks      12 in 3 of 3 videos, every entry checked\n" in said
    assert f"submission  {zipped} (" in said
    said_by_server = ["--server-score", "AP=35.3", "--server-score", "AP50=56"]
    kept = vis("submission", labels, "--out", zipped, *said_by_server, VIS_STORE=store).stdout.split()[-1]
    rows = pq.read_table(kept).select(["rules", "results", "metric", "value"]).to_pylist()
    assert [[*row.values()] for row in rows] == [
        ["the benchmark's server", str(results), "AP", 0.353],
        ["the benchmark's server", str(results), "AP50", 0.56],
    ]


def test_two_results_files_are_compared(vis, tmp_path):
    labels, results = write(Drawing(24, 3, 2, 2, 4), tmp_path, Store.open(Settings(store=str(tmp_path / "lake"))))
    said = vis("compare", results, results, "--gt", labels, VIS_STORE=str(tmp_path)).stdout
    assert "A minus B   +0.000 +- 0.000 (p 1.000)  (24 videos, interval 95 %)" in said
    assert "0 of 24 videos differ" in said
    none = tmp_path / "none.json"
    none.write_text("[]")
    said = vis("compare", results, none, "--gt", labels, "--videos", 1, VIS_STORE=str(tmp_path)).stdout
    assert re.search(r"video +A +B +A - B .*\n +\d+ +(0\.\d{3}) +0\.000 +\+\1\n$", said)


def test_a_question_is_answered_as_table_csv_json_and_parquet(vis, segmented):
    sql = "SELECT status, sum(n_frames) AS frames FROM videos WHERE uri LIKE '%/films/%' GROUP BY 1 ORDER BY 1"
    expected = [("done", 24), ("failed", 0), ("partial", 3)]
    assert "partial" in vis("query", sql).stdout
    assert vis("query", sql, "--format", "csv").stdout == "status,frames\ndone,24\nfailed,0\npartial,3\n"
    assert [tuple(row.values()) for row in json.loads(vis("query", sql, "--format", "json").stdout)] == expected
    file = vis.folder / "answer.parquet"
    assert str(file) in vis("query", sql, "--format", "parquet", "--output", file).stdout
    assert [tuple(row.values()) for row in pq.read_table(io.BytesIO(file.read_bytes())).to_pylist()] == expected
    assert duckdb.sql(f"SELECT sum(frames) FROM '{file}'").fetchall() == [(27,)]


def test_named_queries_are_listed(vis: Program):
    assert "objects-per-class" in vis("query", "--list").stdout


def test_a_key_of_the_settings_is_in_nothing_that_the_commands_wrote(vis, trained, environment):
    """Stands last: the tests before it fill the store, with tables, scores and reports."""
    store = Path(environment["VIS_STORE"])
    assert files_with(trained.run, store), "the search finds what is there"
    assert files_with(SECRET, store, Path(environment["VIS_SCRATCH"]), vis.folder) == []
