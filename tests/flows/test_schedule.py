"""Scores on a real server: a schedule fires, a registered model is evaluated, a regression is told and nothing else."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.events import REGISTERED, REGRESSED
from jobs.settings import Settings
from jobs.store import Store
from tests.drawn_results import Drawing, write
from tests.flows.conftest import PATIENCE_S, Program, Server

NAME = "evaluate-youtube-vis"
Found = dict[str, Any]


class Api:
    """The server's, as its user interface asks it."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)
        self.deployment = self.ask("GET", f"/deployments/name/{NAME}/{NAME}")

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """Asks again while the server's database is busy, as Prefect's own client does."""
        deadline = time.monotonic() + 60
        while True:
            answer = self.client.request(method, path, json=content)
            if answer.status_code != 503 or time.monotonic() > deadline:
                return answer.raise_for_status().json() if answer.content else answer.raise_for_status()
            time.sleep(1)

    def post(self, path: str, content: object) -> Any:
        return self.ask("POST", path, content)

    def runs(self) -> list[Found]:
        """Flow runs of the deployment, oldest first."""
        mine = {"deployments": {"id": {"any_": [self.deployment["id"]]}}, "sort": "START_TIME_ASC"}
        return self.post("/flow_runs/filter", mine)

    def finished(self, wanted: Callable[[Found], bool]) -> Found:
        """The first flow run that is wanted, when it has ended."""
        return self.soon(lambda: [run for run in self.runs() if wanted(run) and run["end_time"]])

    def events(self, name: str) -> list[Found]:
        return self.post("/events/filter", {"filter": {"event": {"name": [name]}}})["events"]

    def artifacts(self, key: str) -> list[Found]:
        return self.post("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})

    def soon(self, find: Callable[[], list[Found]]) -> Found:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := find()):
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s in vain; the flow runs are {self.runs()}"
            time.sleep(0.5)
        return found[0]


@pytest.fixture
def api(server: Server) -> Api:
    return Api(server.api_url)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Labels of drawn videos, results for them, the same without a change, and with masks that stop half-way."""
    labels, results = write(Drawing(24, 4, 2, 2, 6), tmp_path, Store.open(Settings(store=str(tmp_path / "lake"))))
    entries = json.loads(results.read_text())
    versions = {
        "harmless": [*entries[::-1], entries[0] | {"score": 0.0}],
        "damaged": [entry | {"segmentations": entry["segmentations"][:2] + [None] * 2} for entry in entries],
    }
    for name, content in versions.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return {
        "labels": str(labels),
        "good": str(results),
        **{name: str(tmp_path / f"{name}.json") for name in versions},
    }


@pytest.mark.timeout(600)
def test_a_schedule_fires_and_a_regression_is_told_but_a_harmless_change_is_not(
    api: Api, files: dict[str, str], vis: Program
):
    def given(version: str) -> dict[str, str]:
        return {"data": files["labels"], "results": files[version]}

    def ended(version: str) -> Found:
        run = api.finished(lambda run: run["parameters"].get("results") == files[version])
        assert run["state_type"] == "COMPLETED", api.ask("GET", f"/flow_runs/{run['id']}")["state"]
        return run

    every = {"interval": 60, "anchor_date": (datetime.now(UTC) + timedelta(seconds=10)).isoformat()}
    schedule = {"schedule": every, "active": True, "parameters": given("good")}
    (made,) = api.post(f"/deployments/{api.deployment['id']}/schedules", [schedule])
    fired = api.soon(lambda: [run for run in api.runs() if run["auto_scheduled"] and run["start_time"]])
    api.ask("DELETE", f"/deployments/{api.deployment['id']}/schedules/{made['id']}")
    assert ended("good")["id"] == fired["id"]

    for version in ("harmless", "damaged"):
        api.post(f"/deployments/{api.deployment['id']}/create_flow_run", {"parameters": given(version)})
        ended(version)
    told = api.soon(lambda: api.events(REGRESSED))
    assert [event["payload"]["subject"] for event in api.events(REGRESSED)] == [files["damaged"]]
    assert told["payload"]["compared"]["p_value"] < 0.05
    assert told["resource"]["prefect.resource.id"] == f"vis.evaluation.{told['payload']['evaluation_id']}"
    (page,) = api.artifacts("evaluate-youtube-vis-regression")
    assert page["data"].startswith("# AP fell by 0.")

    store = Store.open(Settings(store=vis.environment["VIS_STORE"]))
    accepted = [store.read_json(key) for key in store.list("vis/v1/accepted")]
    assert told["payload"]["against"] in [record["evaluation_id"] for record in accepted]
    assert told["payload"]["evaluation_id"] not in [record["evaluation_id"] for record in accepted]


@pytest.mark.timeout(600)
def test_a_model_that_was_registered_is_evaluated(api: Api):
    event = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": REGISTERED,
        "resource": {"prefect.resource.id": "vis.model.newcomer"},
        "payload": {"model": "newcomer"},
        "id": "11111111-1111-4111-8111-111111111111",
    }
    api.post("/events", [event])
    run = api.finished(lambda run: run["parameters"].get("model") == "newcomer")
    message = api.ask("GET", f"/flow_runs/{run['id']}")["state"]["message"]
    assert run["state_name"] == "BadConfig", message  # the name came through, and there is no such model here
    assert "newcomer is neither a registered model" in message


def test_the_weekly_schedule_is_off_until_somebody_names_the_data(api: Api):
    (weekly,) = [each for each in api.deployment["schedules"] if "cron" in each["schedule"]]
    assert (weekly["active"], weekly["schedule"]["cron"]) == (False, "0 6 * * 1")
