"""`vis up` after the worst: it was killed, with a run under way, and is started again on the same home."""

import os
import re
import signal
import sqlite3
import time
from contextlib import closing

from jobs.training.alone import TRAINS
from tests.flows.conftest import PATIENCE_S, environment, processes, start_server, vis

__all__ = ["environment", "vis"]  # fixtures of the tests of flows


def test_what_a_killed_one_left_is_ended_and_said_by_the_next(vis, tmp_path):
    home = tmp_path / "home"
    killed = start_server(vis, home, tmp_path)
    killed.prefect("deployment", "run", "train-rgnn", "--param", "recipe=rgnn_r18_world_demo")
    deadline = time.monotonic() + PATIENCE_S
    while not any(TRAINS in command for command in processes(killed.mark)):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.5)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.communicate(timeout=PATIENCE_S)
    left = len(processes(killed.mark))
    assert left, "a killed process cannot end what it started"

    again = start_server(vis, home, tmp_path)
    resume = re.search(
        r"left over .* is Crashed; `prefect deployment run train-rgnn --param resume=\S+` goes on", again.said
    )
    assert resume, again.said
    assert not any(TRAINS in command for command in processes(again.mark))
    again.process.send_signal(signal.SIGTERM)
    again.process.wait(PATIENCE_S)
    assert processes(again.mark) == []
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("CRASHED",)]
