"""Proof that no short process which reads tables leaves a thread behind that aborts or hangs it: hundreds of runs.

A quarter of an hour on two busy cores. `VIS_PROOF_RUNS=20` takes a tenth of it and finds what was wrong: a query with
LIMIT ended in an abort, or hung, in every second run. Each run is a process of its own, several at a time.
"""

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.evaluation import evaluations
from jobs.reporting.answers import FORMS
from jobs.reporting.query import NAMED_QUERIES
from tests.jobs.conftest import *  # noqa: F403  # the store in a folder or in S3, and a labelled lake
from tests.long_lake import publish_long, scored_twice

RUNS = int(os.environ.get("VIS_PROOF_RUNS", "200"))
AT_ONCE = 8
"""More than there are cores: the threads of a process that ends are late."""
PATIENCE_S = 300
VIS = [sys.executable, "-c", "from flows.cli import main; main()"]
PYTHON = [
    "next(lake['masks'].to_batches())",
    "lake['masks'].head(3)",
    "lake['masks'].to_table(columns=['video_id', 'rle']).slice(0, 3).to_pylist()",
    "lake['videos'].count_rows()",
]


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, draw_lake: Callable) -> Iterator:
    """Long enough that a reader which stops after a few rows leaves most of it unread."""
    settings = request.getfixturevalue("s3_settings") if request.param == "s3" else None
    drawn = draw_lake(settings=settings)
    publish_long(drawn.store, files=20, rows=20_000)
    return drawn


def questions(folder: Path) -> list[list[str]]:
    limited = [f"SELECT * FROM {table} LIMIT {rows}" for table in ("masks", "tracks") for rows in (1, 3)]
    asked = [["query", sql, "--format", form] for sql in limited for form in FORMS]
    asked += [["query", limited[1], "--output", str(folder / f"{form}.{form}")] for form in ("csv", "json", "parquet")]
    return asked + [["query", name] for name in NAMED_QUERIES]


def endings(commands: list[list[str]], runs: int, environment: dict[str, str], folder: Path) -> Counter[int | str]:
    def end(command: list[str]) -> int | str:
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{command} hangs"
        return done.returncode or (f"{command}: {done.stderr!r}" if b"Traceback" in done.stderr else 0)

    with ThreadPoolExecutor(AT_ONCE) as some:
        return Counter(some.map(end, itertools.islice(itertools.cycle(commands), runs)))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("verb", ["query", "python", "evaluate", "compare", "report"])
def test_every_process_that_reads_tables_ends_with_0(verb: str, lake, tmp_path: Path):
    one, other = scored_twice(lake)
    assert evaluations.find(lake.store) == other
    commands = {
        "query": [[*VIS, *asked] for asked in questions(tmp_path)],
        "python": [
            [sys.executable, "-c", f"from jobs import tables; lake = tables.open({lake.settings.store!r}); {line}"]
            for line in PYTHON
        ],
        "evaluate": [[*VIS, "evaluate", "--gt", str(lake.data), "--plan", "plan"]],
        "compare": [[*VIS, "compare", one, other]],
        "report": [[*VIS, "report", "--videos", "1"]],
    }[verb]
    secret = {"VIS_S3_ACCESS_KEY": "key", "VIS_S3_SECRET_KEY": "a-secret-value"}
    server = {"VIS_S3_ENDPOINT": lake.settings.s3_endpoint, **secret} if lake.settings.s3_endpoint else {}
    environment = os.environ | server | {"VIS_STORE": lake.settings.store, "PREFECT_HOME": str(tmp_path / "prefect")}
    runs = RUNS if verb != "report" else max(1, RUNS // 10)  # each brings a server of its own
    assert endings(commands, runs, environment, tmp_path) == {0: runs}
