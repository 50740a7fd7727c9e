"""A flow around a job: tried again, ended with a sentence, or stopped with its trace. Against a real Prefect API."""

import inspect
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pydantic import TypeAdapter
from ray.exceptions import ActorDiedError

from flows import steps
from flows.embedded import prefect_api
from flows.evaluate import evaluate_youtube_vis
from flows.events import REGISTERED, REGRESSED, model_registered
from flows.report import report
from flows.segment import segment_archive
from flows.train import train
from jobs.models import registered
from jobs.reporting.report import ReportJob
from jobs.segmentation.segment import SegmentJob
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.recipes.catalogue import build
from jobs.training.train import freeze
from tests.drawn_results import Drawing, write
from tests.flows.test_surroundings import Forwards
from vis_models.cards import ModelCard
from vis_models.config import BadConfig, Config

LONG_AGO = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Job(Config):
    """What the jobs of these tests are asked to do."""

    frames: int = 3


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIS_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        with prefect_api() as wait:
            wait()
            yield


@pytest.fixture
def told(api) -> Iterator[Callable[[], list[Event]]]:
    """Returns the events that were sent so far; they stay here."""
    EventsWorker.set_client_override(AssertingEventsClient)
    for client in AssertingEventsClient.all:  # of an earlier test; the worker keeps it
        client.pop_events()

    def events() -> list[Event]:
        EventsWorker.instance().wait_until_empty()
        return [event for client in AssertingEventsClient.all for event in client.events]

    yield events
    EventsWorker.set_client_override(None)


def test_a_server_is_given_no_keys_and_no_signatures_to_keep():
    pattern = TypeAdapter(steps.Address).json_schema()["pattern"]
    for kept in ("https://user:pass@host/x.mp4", "https://host/x.mp4?X-Amz-Signature=1", "s3://key:secret@bucket/x"):
        assert not re.match(pattern, kept)
    for address in ("https://host/a.tar#x.mp4", "s3://bucket/a?b", "/films/what?.mp4", "s3://arn:aws:s3:eu:1:door/x"):
        assert re.match(pattern, address)


@pytest.fixture(params=["refuses", "is a page to sign in"])
def no_artifacts(told, request: pytest.FixtureRequest) -> Iterator[None]:
    """The API, but what answers to every artifact is no API."""
    code, page = {"refuses": (500, b"full"), "is a page to sign in": (200, b"<html>")}[request.param]

    def answer(request: Forwards) -> None:
        if "/artifacts/" not in request.path:
            request.do_any()
            return
        request.rfile.read(int(request.headers["Content-Length"]))
        request.send_response(code)
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        request.wfile.write(page)

    behind = PREFECT_API_URL.value().removesuffix("/api")
    verbs = dict.fromkeys(("do_GET", "do_POST", "do_PATCH"), answer)
    NoArtifacts = type("NoArtifacts", (Forwards,), {"behind": behind, **verbs})
    with ThreadingHTTPServer(("127.0.0.1", 0), NoArtifacts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield
        server.shutdown()


def run(job: Callable[..., Any]) -> Any:
    """The final state of a flow that launches one job."""

    @flow(name="try-steps")
    @steps.mendable
    def try_steps() -> Any:
        return steps.launch(job, Job())

    return try_steps(return_state=True)


def test_a_job_that_lost_its_workers_is_tried_again_and_says_why(api, monkeypatch, capsys):
    monkeypatch.setattr(steps._launch, "retry_delay_seconds", 0)
    attempts = []

    def loses_once(job: Job, settings: Settings, progress: Any) -> int:
        attempts.append(job)
        if len(attempts) == 1:
            raise ActorDiedError
        return job.frames

    assert run(loses_once).result() == 3
    assert attempts == [Job(), Job()]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loses_once: ActorDiedError: ")]
    assert len(said) == 1
    assert said[0].endswith("before finishing this task. Tried again, 1 of 2 times")


def test_a_bug_is_not_tried_again_and_keeps_its_type(api):
    attempts = []

    def stumbles(job: Job, settings: Settings, progress: Any) -> None:
        attempts.append(job)
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(stumbles).result()
    assert len(attempts) == 1


def test_what_the_user_can_mend_is_the_final_state_of_the_run(api):
    def refuses(job: Job, settings: Settings, progress: Any) -> None:
        raise BadConfig("frames is 3, expected 4: set it")

    state = run(refuses)
    assert (state.name, state.message) == ("BadConfig", "frames is 3, expected 4: set it")
    assert state.is_failed()


def test_how_far_a_job_is_stands_in_an_artifact_of_the_run(api):
    def counts(job: Job, settings: Settings, progress: Any) -> None:
        for done in range(job.frames):
            progress("draw Films!", done + 1, job.frames, {})

    state = run(counts)
    with get_client(sync_client=True) as client:
        (artifact,) = (each for each in client.read_artifacts() if each.key == "try-steps-draw-films")
    assert artifact.data == 100
    assert artifact.flow_run_id == state.state_details.flow_run_id
    assert artifact.description == "draw Films!: 3 of 3"


def test_a_finished_run_that_is_resumed_keeps_its_card_bears_its_own_name_and_tells_nobody(
    told, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VIS_STORE", str(tmp_path))
    store = Store.open(Settings())
    freeze(build("rgnn_r18_world_tiny"), store, "first")
    typed = {"command": "vis train --name first", "commit": "0" * 40, "recipe": "rgnn_r18_world_tiny"}
    card = ModelCard(name="first", run_id="first", model="rgnn", config={}, classes=(), created_at=LONG_AGO, **typed)
    store.write_bytes(f"{LAYOUT}/models/first/model.safetensors", b"weights")
    store.write_json(f"{LAYOUT}/models/first/card.json", card.model_dump(mode="json"))
    state = train(resume="first", return_state=True)
    assert state.result()["model"] == "first"
    assert registered(store) == {"first": card}
    assert "run first is finished: its model was registered 2026-01-02 03:04 UTC" in capsys.readouterr().err
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).name == "train-first"
    assert [event.event for event in told() if event.event == REGISTERED] == []
    model_registered(card, "/models/first")
    assert [event.payload["model"] for event in told() if event.event == REGISTERED] == ["first"]


def test_a_regression_is_told_and_the_run_is_whole_where_no_artifact_is_taken(
    no_artifacts, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VIS_STORE", str(tmp_path / "lake"))
    labels, results = write(Drawing(24, 4, 2, 2, 6), tmp_path, Store.open(Settings()))
    damaged = tmp_path / "damaged.json"
    entries = [
        each | {"segmentations": each["segmentations"][:2] + [None] * 2} for each in json.loads(results.read_text())
    ]
    damaged.write_text(json.dumps(entries))
    first, second = (evaluate_youtube_vis(str(labels), results=str(each)) for each in (results, damaged))
    assert (first["regressed"], second["regressed"]) == (False, True)
    (event,) = (each for each in told() if each.event == REGRESSED)
    assert event.payload["subject"] == str(damaged)
    compared = event.payload["compared"]
    assert (len(compared["changed"]), compared["videos_changed"]) == (10, 21)  # all of very many would be no event
    said = capsys.readouterr().err
    assert "the result is whole, but its artifact was not recorded" in said
    assert "progress of compare was not recorded" in said


@pytest.mark.unit
def test_a_stopped_run_says_how_to_go_on():
    number = "42ea14c6-2a1b-4b4b-a38a-ab87dfe874fb"
    new = steps.goes_on("train-tiny", {"recipe": "tiny"}, number)
    assert "--param resume=tiny-42ea14c6`" in new
    assert "--param resume=tiny-1` " in steps.goes_on("train-tiny", {"recipe": "tiny", "resume": "tiny-1"}, number)
    assert "--param resume=mine`" in steps.goes_on("train-mine", {"recipe": "tiny", "name": "mine"}, number)
    assert "--param resume=rgnn_r18_world_easy-42ea14c6`" in steps.goes_on("train-x", {}, number)
    assert steps.goes_on("segment-/films", {"archive": "/films"}, number) == "run it again: what is done is kept"


@pytest.mark.unit
@pytest.mark.parametrize(("a_flow", "job"), [(segment_archive, SegmentJob), (report, ReportJob)])
def test_the_parameters_of_a_flow_are_the_fields_of_its_job_with_their_defaults(a_flow, job):
    parameters = inspect.signature(a_flow.fn).parameters.values()
    given = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    expected = {name: field.default for name, field in job.model_fields.items() if not field.is_required()}
    of_evaluations = {"labels": None, "purpose": "archive"} if job is SegmentJob else {}
    not_for_users = {"command": "", **of_evaluations}
    given.pop("run", None)  # a page about a training run is a job of its own
    assert given | not_for_users == expected
