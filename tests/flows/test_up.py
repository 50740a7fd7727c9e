"""`vis up`: what it starts, what it refuses, and that nothing of it stays."""

import os
import re
import signal
import socket
import time

from flows.up import STOP_S
from tests.flows.conftest import PATIENCE_S, Server, processes

DEPLOYMENTS = ("train-rgnn", "segment-archive", "evaluate-youtube-vis", "report")


def test_it_says_where_the_server_is_and_what_to_type_next(server: Server):
    assert f"export PREFECT_API_URL={server.api_url}" in server.said
    assert "prefect deployment run train-rgnn" in server.said


def test_the_four_deployments_are_there_and_the_schedule_sleeps(server: Server):
    listed = server.prefect("deployment", "ls").stdout
    assert all(name[:12] in listed for name in DEPLOYMENTS)
    schedule = server.prefect("deployment", "schedule", "ls", "evaluate-youtube-vis/evaluate-youtube-vis").stdout
    assert "0 6 * * 1" in schedule
    assert "False" in schedule


def test_a_port_that_is_taken_is_refused_at_once(vis, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = vis("up", "--port", port, "--home", tmp_path, code=2)
    assert f"127.0.0.1:{port} is not free" in done.stderr


def test_ctrl_c_stops_the_server_the_worker_and_a_run_that_is_under_way(server: Server):
    server.prefect("deployment", "run", "train-rgnn", "--param", "recipe=rgnn_r18_world_demo")
    deadline = time.monotonic() + PATIENCE_S
    while not any("raylet" in command for command in processes(server.mark)):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.5)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(3 * STOP_S) == 130
    assert processes(server.mark) == []
    port = int(re.findall(r":(\d+)/api", server.api_url)[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
