"""A flow around a job: tried again, ended with a sentence, or stopped with its trace. Against a real Prefect API."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from ray.exceptions import ActorDiedError

from flows import steps
from flows.embedded import prefect_api
from flows.progress import shown
from flows.report import report
from flows.segment import segment_archive
from jobs.reporting.report import ReportJob
from jobs.segmentation.segment import SegmentJob
from jobs.settings import Settings
from vis_models.config import BadConfig, Config


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


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of artifacts outside of a run
def test_where_the_api_does_not_take_a_picture_of_a_result_that_is_said_and_the_flow_goes_on(capsys):
    gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(gone), shown():
        create_markdown_artifact(key="page", markdown="# done")
    assert "the result is whole, but its artifact was not recorded" in capsys.readouterr().err


@pytest.mark.unit
def test_a_stopped_run_says_how_to_go_on():
    number = "42ea14c6-2a1b-4b4b-a38a-ab87dfe874fb"
    new = steps.goes_on("train-tiny", {"recipe": "tiny"}, number)
    assert "--param resume=tiny-42ea14c6`" in new
    assert "--param resume=tiny-1` " in steps.goes_on("train-tiny", {"recipe": "tiny", "resume": "tiny-1"}, number)
    assert steps.goes_on("segment-/films", {"archive": "/films"}, number) == "run it again: what is done is kept"


@pytest.mark.unit
@pytest.mark.parametrize(("a_flow", "job"), [(segment_archive, SegmentJob), (report, ReportJob)])
def test_the_parameters_of_a_flow_are_the_fields_of_its_job_with_their_defaults(a_flow, job):
    parameters = inspect.signature(a_flow.fn).parameters.values()
    given = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    expected = {name: field.default for name, field in job.model_fields.items() if not field.is_required()}
    of_evaluations = {"labels": None, "purpose": "archive"} if job is SegmentJob else {}
    not_for_users = {"command": "", **of_evaluations}
    assert given | not_for_users == expected
