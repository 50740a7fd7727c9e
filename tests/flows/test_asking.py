"""The verb `query` as it is typed, most of it in this process."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from jobs.evaluation.evaluations import FOLDER
from jobs.settings import Settings
from jobs.store import Store
from tests.drawn_results import Drawing, write
from tests.long_lake import publish_long

VIS = [sys.executable, "-c", "from flows.cli import main; main()"]
AT_ONCE = 4


class Said(NamedTuple):
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def vis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs `vis ...` on a store with a long table, in a folder of its own."""
    publish_long(Store.open(Settings(store=str(tmp_path / "lake"))), files=3, rows=5)
    monkeypatch.setenv("VIS_STORE", str(tmp_path / "lake"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["vis", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Said(ended.value.code, *capsys.readouterr())

    return run


def test_a_table_ends_with_the_plans_that_were_read(vis):
    said = vis("query", "SELECT count(*) AS masks FROM masks")
    assert said.out.splitlines()[2:] == ["   15", "(1 row)", "plan long: /films by m, 2026-02-01T00:00, 3 videos"]
    assert "plan" not in vis("query", "SELECT 1 AS masks FROM plans", "--format", "csv").out


def test_sql_comes_from_a_file_or_from_stdin(vis, tmp_path, monkeypatch):
    (tmp_path / "q.sql").write_text("-- how many\nSELECT count(*) AS n\nFROM masks;\n")
    assert vis("query", "-f", "q.sql", "--format", "csv").out == "n\n15\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"SELECT 7 AS n FROM plans")))
    assert vis("query", "--file", "-", "--format", "csv").out == "n\n7\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["SELECT 1", "-f", "q.sql"], "one of them"),
        (["-f", "absent.sql"], "No such file"),
        (["SELECT 1", "--format", "xml"], "expected one of table, csv"),
        (["SELECT 1", "--output", "o.xlsx"], "no format has the ending .xlsx"),
        (["SELECT 1", "--output", "."], "is a folder"),
        (["SELECT 1", "--join", "labels"], "such as labels=tags.csv"),
        (["SELECT 1", "--plan", "absent"], "no published plan absent"),
        (["SELECT count(*) FROM masks", "--plan", "absent"], "no published plan absent"),
        (["FROM masks", "--evaluation", "latest"], "no model was evaluated yet"),
        (["SELECT 1; SELECT 2"], "2 statements, expected one"),
        (["DROP VIEW masks"], "a statement of the kind DROP, expected one that reads"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_the_file_that_was_there(vis, tmp_path, arguments, says):
    (tmp_path / "out.csv").write_text("precious")
    said = vis("query", *([] if "--output" in arguments else ["--output", "out.csv"]), *arguments)
    assert said.code == 2
    assert says in " ".join(said.err.replace("│", "").split())
    assert not said.out
    assert (tmp_path / "out.csv").read_text() == "precious"
    assert not [*tmp_path.glob(".*")]


def test_the_ending_of_the_file_names_the_format(vis, tmp_path):
    for name in ("o.parquet", "o.json", "o.csv", "new/o.txt"):
        assert (
            vis("query", "SELECT count(*) AS n FROM masks", "--output", name).out == f"answer      {tmp_path / name}\n"
        )
    assert pq.read_table(io.BytesIO((tmp_path / "o.parquet").read_bytes())).to_pylist() == [{"n": 15}]
    assert json.loads((tmp_path / "o.json").read_text()) == [{"n": 15}]
    assert (tmp_path / "o.csv").read_text() == "n\n15\n"
    assert (tmp_path / "new/o.txt").read_text().startswith(" n\n--\n15\n(1 row)\n")


def test_own_tags_are_joined_and_columns_of_one_name_are_said(vis, tmp_path):
    (tmp_path / "tags.csv").write_text("video_id,tag\nv1,bridge\n")
    typed = "SELECT t.video_id, l.* FROM tracks t JOIN labels l USING (video_id)"
    said = vis("query", typed, "--join", "labels=tags.csv", "--format", "csv")
    assert said.out == "video_id,video_id_1,tag\nv1,v1,bridge\n"
    assert said.err == "note        column 2 is called video_id_1, as there is a video_id before it\n"


def test_values_are_whole_where_the_table_is_wide_and_errors_always(vis):
    long = "SELECT repeat('x', 99) AS value FROM videos LIMIT 1"
    assert "x" * 99 not in vis("query", long).out
    assert "x" * 99 in vis("query", long, "--wide").out
    assert "x" * 99 in vis("query", f"{long.removesuffix('LIMIT 1')} UNION FROM (SELECT code FROM errors)").out


def test_an_oracle_is_not_accepted_and_no_work_is_done_for_it(vis, tmp_path):
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    labels, results = write(Drawing(3, 3, 2, 2, 4), tmp_path, store)
    typed = ["evaluate", "--gt", labels, "--results", results, "--oracle", "identity", "--check", "warn", "--accept"]
    said = vis(*typed)
    assert (said.code, said.out) == (2, "")
    assert "it cannot be accepted" in " ".join(said.err.replace("│", "").split())
    assert store.list(FOLDER) == []


@pytest.fixture(scope="module")
def long_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a store from which a reader of three rows leaves most unread."""
    folder = tmp_path_factory.mktemp("long")
    publish_long(Store.open(Settings(store=str(folder / "lake"))), files=12, rows=20_000)
    return os.environ | {"VIS_STORE": str(folder / "lake")}


def test_a_process_that_reads_a_few_rows_of_many_ends_with_0(long_lake, tmp_path):
    """A twin of tests/proofs/short_processes.py: before, every second of these ended in an abort or never."""
    door = f"from jobs import tables; next(tables.open({long_lake['VIS_STORE']!r})['masks'].to_batches())"
    commands = [
        [*VIS, "query", "SELECT * FROM masks LIMIT 3"],
        [*VIS, "query", "SELECT * FROM masks LIMIT 1", "--output", str(tmp_path / "o.parquet")],
        [sys.executable, "-c", door],
        [*VIS, "query", "SELECT * FROM masks LIMIT 3", "--format", "json"],
    ]

    def end(command: list[str]) -> tuple[int, str]:
        done = subprocess.run(command, env=long_lake, capture_output=True, text=True, timeout=200)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(AT_ONCE) as some:
        assert [*some.map(end, commands)] == [(0, "")] * len(commands)


@pytest.mark.parametrize("shell", ["{vis} | head -1", "{vis} >&-", "{vis} --output /dev/stdout | head -1"])
def test_a_reader_that_has_had_enough_is_no_error(long_lake, shell):
    vis = " ".join([sys.executable, "-c", "'from flows.cli import main; main()'"])
    asked = f"{vis} query 'SELECT * FROM masks LIMIT 9999' --format csv"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell.format(vis=asked)}"], env=long_lake, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("plan_id,") == ("head" in shell)
