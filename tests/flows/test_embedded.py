"""The Prefect API that a command brings along."""

import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.embedded import _copy, _keep, prefect_api
from tests.flows.conftest import PATIENCE_S, processes
from vis_models.config import BadConfig

HOLD = """
import time
from flows.embedded import prefect_api
from prefect.client.orchestration import get_client
with prefect_api() as wait:
    wait()
    print(get_client(sync_client=True).api_healthcheck(), flush=True)
    time.sleep(600)
"""

LAST_WORDS = """
from flows.embedded import prefect_api
from prefect.events import emit_event
with prefect_api() as wait:
    wait()
    for n in range(300):
        emit_event("last.word", {"prefect.resource.id": f"word.{n}"})
"""


def test_what_was_still_to_be_sent_reaches_the_api_before_it_goes(environment):
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    assert "failed" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_api_and_its_database_are_gone_with_the_command_however_it_ends(environment, tmp_path, how):
    mark = f"TMPDIR={tmp_path}"
    command = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdout.readline() == "None\n"  # healthy
    assert len(processes(mark)) == 2
    assert [folder.name[:11] for folder in tmp_path.iterdir()] == ["vis-prefect"]
    command.send_signal(how)
    command.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes(mark) == []
    assert list(tmp_path.iterdir()) == []


def test_an_api_that_the_user_names_is_used_and_none_is_started(api_url, monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    with temporary_settings({PREFECT_API_URL: api_url}), prefect_api() as wait:
        wait()
        assert PREFECT_API_URL.value() == api_url
    dead = "http://127.0.0.1:9/api"
    with (
        temporary_settings({PREFECT_API_URL: dead}),
        pytest.raises(BadConfig, match=f"no Prefect API answers at {re.escape(dead)}"),
        prefect_api(),
    ):
        pass


@pytest.fixture
def api_url() -> Iterator[str]:
    """Of somebody's API that answers that it is well."""

    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"true")

    with ThreadingHTTPServer(("127.0.0.1", 0), Well) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """What a command keeps for the next one: a database with its version."""
    whole = tmp_path / "made.db"
    with closing(sqlite3.connect(whole)) as database:
        database.executescript("CREATE TABLE alembic_version (v); INSERT INTO alembic_version VALUES ('head');")
    _keep(whole, tmp_path / "scratch/template.db")
    return tmp_path / "scratch/template.db"


@pytest.mark.unit
@pytest.mark.parametrize(
    "damage", [lambda data: data, lambda data: data[:5000], lambda data: b"", lambda data: b"x" * 9000]
)
def test_a_kept_database_is_taken_when_it_is_whole_and_else_there_is_none(template, tmp_path, damage):
    whole = template.read_bytes()
    template.write_bytes(damage(whole))
    taken = _copy(template, tmp_path / "taken.db")
    assert taken == (tmp_path / "taken.db").exists() == (damage(whole) == whole)


@pytest.mark.unit
def test_where_nothing_can_be_kept_nothing_is(template, tmp_path):
    _keep(template, Path("/proc/scratch/template.db"))
    _keep(tmp_path / "not a database", tmp_path / "other.db")
    assert not _copy(Path("/proc/scratch/template.db"), tmp_path / "taken.db")
