"""The Prefect API that a command brings along."""

import signal
import subprocess
import sys
import time

import pytest

from tests.flows.conftest import PATIENCE_S, processes

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


def test_an_api_that_the_user_names_is_used_and_none_is_started(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.embedded import prefect_api

    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    with temporary_settings({PREFECT_API_URL: "http://example.invalid/api"}), prefect_api() as wait:
        wait()
        assert PREFECT_API_URL.value() == "http://example.invalid/api"
