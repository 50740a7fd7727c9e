"""The bare name of a deployment, through the real command `prefect` and a real server."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.flows.conftest import PROXIES, Server

PATIENCE_S = 120
"""The server shares two cores with other tests."""


def post(server: Server, path: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{server.api_url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:  # the server's database is busy: Prefect's own client asks again, too
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


@pytest.fixture
def a_second_report(server: Server) -> Iterator[None]:
    """Another flow's deployment that is called `report`, too."""
    flow = post(server, "/flows/", {"name": "monthly"})
    deployment = post(server, "/deployments/", {"name": "report", "flow_id": flow["id"]})
    yield
    request = urllib.request.Request(f"{server.api_url}/deployments/{deployment['id']}", method="DELETE")
    urllib.request.urlopen(request, timeout=PATIENCE_S).close()


@pytest.mark.parametrize("name", ["train-rgnn", "train/train-rgnn"])
def test_a_deployment_is_found_by_its_bare_and_by_its_full_name(server, name):
    said = server.prefect("deployment", "run", name, "--start-in", "1 hour").stdout
    assert "Creating flow run for deployment 'train/train-rgnn'" in said
    run = re.search(r"UUID: (\S+)", said)
    assert run
    with urllib.request.urlopen(f"{server.api_url}/flow_runs/{run[1]}", timeout=PATIENCE_S) as answer:
        assert json.load(answer)["state_name"] == "Scheduled"


def test_a_bare_name_that_nothing_has_is_refused_in_a_sentence(server):
    done = server.prefect("deployment", "run", "train-rgn", code=1)
    assert "No deployment is called 'train-rgn'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_bare_name_that_two_have_is_refused_with_both(server, a_second_report):
    done = server.prefect("deployment", "run", "report", code=1)
    assert "expected one of: monthly/report, report/report" in re.sub(r"\s+", " ", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr


def test_where_plugins_are_not_switched_on_prefect_is_as_it_was(server):
    off = {"PREFECT_PLUGINS_ENABLED": "0"}
    done = server.prefect("deployment", "run", "report", code=1, **off)
    assert "<FLOW_NAME>/<DEPLOYMENT_NAME>" in done.stdout + done.stderr or "<flow-name>/" in done.stdout


def test_the_server_is_reached_past_a_proxy_that_is_meant_for_the_world(server):
    proxies = dict.fromkeys(PROXIES, "http://127.0.0.1:9")
    assert "train-rgnn" in server.prefect("deployment", "inspect", "train/train-rgnn", **proxies).stdout
