"""`vis up`: what it starts, what it refuses, and that nothing of it stays."""

import os
import re
import signal
import socket
import sqlite3
import time
from contextlib import closing

import pytest

from flows import up
from flows.up import free_address
from jobs.training.alone import TRAINS
from tests.flows.conftest import PATIENCE_S, SECRET, Server, files_with, processes
from vis_models.config import BadConfig

DEPLOYMENTS = (
    "train-rgnn",
    "train-masktrack-rcnn",
    "train-idol",
    "train-visstg",
    "train-maskprop",
    "segment-archive",
    "evaluate-youtube-vis",
    "report",
)


def ask(server: Server, question: str) -> list[tuple]:
    """What stands in the database, whether the server runs or not."""
    with closing(sqlite3.connect(server.home / "prefect.db")) as database:
        return database.execute(question).fetchall()


def test_it_says_where_the_server_is_and_what_to_type_next(server: Server):
    assert f"export PREFECT_API_URL={server.api_url}" in server.said
    assert "prefect deployment run train-rgnn" in server.said


def test_a_run_sees_the_folder_and_the_settings_of_vis_up_and_says_in_its_log_why_it_ended(server: Server):
    given = {"in the folder": "labels.json", "in S3": "s3://lake/labels.json"}
    runs = {}
    for name, data in given.items():
        parameters = ("--param", f"data={data}", "--param", "results=results.json")
        said = server.prefect("deployment", "run", "evaluate-youtube-vis", *parameters).stdout
        runs[name] = re.search(r"UUID: (\S+)", said)[1]
    server.prefect("flow-run", "watch", runs["in the folder"], code=1)
    server.prefect("flow-run", "watch", runs["in S3"], code=1)
    logs = {name: re.sub(r"\s+", " ", server.prefect("flow-run", "logs", run).stdout) for name, run in runs.items()}
    assert "labels.json does not exist, expected a YouTube-VIS JSON with labels" in logs["in the folder"]
    assert "no answer from http://127.0.0.1:9" in logs["in S3"]  # as the vis.toml beside `vis up` says


def test_an_address_with_keys_does_not_come_into_the_server_nor_do_those_of_the_settings(server: Server):
    typed = ("--param", "archive=s3://ME:hunter2/With/Slashes@films")
    refused = server.prefect("deployment", "run", "segment-archive", *typed, code=1)
    assert "Validation failed for field 'archive'" in re.sub(r"\s+", " ", refused.stdout + refused.stderr)
    assert (server.home / "prefect.db").stat().st_size > 0
    assert files_with("hunter2/With/Slashes", server.home) == []
    assert files_with(SECRET, server.home) == []


def test_a_second_one_on_the_same_home_is_refused_in_a_sentence(server: Server, vis):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    refused = vis("up", "--port", port, "--home", server.home, code=2).stderr
    assert f"another `vis up` (process {server.process.pid}) keeps its database in {server.home}" in refused


@pytest.mark.parametrize(
    ("host", "address"),
    [("::1", "http://[::1]:{}"), ("127.0.0.1", "http://127.0.0.1:{}"), ("0.0.0.0", "http://127.0.0.1:{}")],
)
def test_an_address_of_either_family_is_taken(host, address):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadConfig, match="is not free"):
            free_address(host, port)
    assert free_address(host, port) == address.format(port)


def test_an_address_that_is_not_of_this_machine_is_refused():
    with pytest.raises(BadConfig, match="expected an address of this machine"):
        free_address("no.such.host.invalid", 4200)


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


def test_a_server_that_does_not_come_up_in_time_or_ends_is_a_sentence_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(up, "START_S", 0.5)
    children = up._Children(tmp_path, print)
    with socket.create_server(("127.0.0.1", 0)) as freed:
        url = f"http://127.0.0.1:{freed.getsockname()[1]}/api/health"
    with pytest.raises(BadConfig, match=rf"no answer from {url} within 0.5 s, see {tmp_path}/server.log: .* busy"):
        children.wait_for(url)
    children.start("server", "no-such-command")
    children.running["server"].wait(PATIENCE_S)
    with pytest.raises(BadConfig, match=rf"the server ended with code 2, see {tmp_path}/server.log"):
        children.wait_for(url)
    assert b"no-such-command" in (tmp_path / "server.log").read_bytes()


def test_ctrl_c_cancels_a_run_that_is_under_way_and_leaves_no_process_and_what_an_operator_set(server: Server):
    server.prefect("work-pool", "set-concurrency-limit", "vislake", "3")
    server.prefect("deployment", "run", "train-rgnn", "--param", "recipe=rgnn_r18_world_tiny")
    deadline = time.monotonic() + PATIENCE_S
    while not any(TRAINS in command for command in processes(server.mark)):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.5)
    os.killpg(server.process.pid, signal.SIGINT)
    said, _ = server.process.communicate(timeout=PATIENCE_S)
    assert server.process.returncode == 130
    assert processes(server.mark) == []
    resume = re.search(r"`prefect deployment run train-rgnn --param resume=rgnn_r18_world_tiny-\w{8}` goes on", said)
    assert resume, said
    latest = (
        "SELECT run.state_type, state.message FROM flow_run run JOIN flow_run_state state ON state.id = run.state_id"
    )
    ((state, why),) = ask(server, f"{latest} ORDER BY run.created DESC LIMIT 1")
    assert state == "CANCELLED"
    assert resume[0] in why
    begun = "SELECT name FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING', 'CANCELLING')"
    assert ask(server, begun) == []
    assert ask(server, "SELECT concurrency_limit, is_paused FROM work_pool WHERE name = 'vislake'") == [(3, 0)]
    port = int(re.findall(r":(\d+)/api", server.api_url)[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
