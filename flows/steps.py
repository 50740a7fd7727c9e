"""What the four flows have in common: starting a job, trying again, ending with a sentence instead of a traceback."""

import functools
import json
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar

from prefect import State, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed
from pydantic import WithJsonSchema

from flows.progress import of_flow
from flows.surroundings import enter_folder
from flows.terminal import typed
from jobs.launch import LostWorker, launcher
from jobs.settings import Settings
from jobs.training.recipes.catalogue import DEFAULT
from vis_models.config import BadConfig, Config

P = ParamSpec("P")
Result = TypeVar("Result")
Address = Annotated[
    str,
    WithJsonSchema(
        {"type": "string", "pattern": r"^(?!\w+://(?!arn:)[^/]*@)(?!s3://(?!arn:)[^/]*:)(?!https?://[^#]*\?)"}
    ),
]
"""A parameter in which Prefect's server takes no `KEY:SECRET@...` and no signature (`https://...?...`): it would keep
them in its database and show them."""
RETRIES = 2
"""How often a run that lost its workers is continued from the start, with a new Ray."""


def mendable(run: Callable[P, Result]) -> Callable[P, Result | State]:
    """A flow's function: BadConfig becomes a final state of this name, anything else keeps its full trace."""

    @functools.wraps(run)
    def ends_with_a_sentence(*args: P.args, **kwargs: P.kwargs) -> Result | State:
        try:
            enter_folder()
            return run(*args, **kwargs)
        except BadConfig as error:
            return Failed(name=BadConfig.__name__, message=str(error))

    return ends_with_a_sentence


def launch(function: Callable[..., Result], job: Config, **more: Any) -> Result:
    """Run a job with this machine's settings; a run that lost its workers is continued, twice at most.

    Raises:
        BadConfig: as the job says.
    """
    done: Any = _launch.with_options(name=function.__name__)(function, job, more)
    if isinstance(done, BadConfig):
        raise done
    return done


def _was_lost(task: Any, run: TaskRun, state: State) -> bool:
    return isinstance(state.result(raise_on_failure=False), LostWorker)


@task(
    retries=RETRIES, retry_delay_seconds=10, retry_condition_fn=_was_lost, cache_policy=NO_CACHE, persist_result=False
)
def _launch(function: Callable[..., Any], job: Config, more: dict[str, Any]) -> Any:
    settings = Settings()
    with of_flow(runtime.flow_run.flow_name) as progress:
        try:
            return launcher(settings).launch(function, job, settings, progress=progress, **more)
        except BadConfig as error:
            return error  # a result, as for the task there is nothing to try again
        except LostWorker as error:
            attempt = runtime.task_run.run_count
            again = f". Tried again, {attempt} of {RETRIES} times" if attempt <= RETRIES else ""
            note = str(error).rstrip(".") + again
            progress(function.__name__, 0, 1, {"note": note})
            raise


def command() -> str:
    """What was typed to start this flow run, for the record."""
    if runtime.deployment.id is None:
        return typed()
    given = {key: value for key, value in runtime.flow_run.parameters.items() if value is not None}
    parameters = [part for key, value in given.items() for part in ("--param", f"{key}={json.dumps(value)}")]
    return shlex.join(["prefect", "deployment", "run", runtime.deployment.name, *parameters])


def run_name(recipe: str, flow_run_id: str | None = None) -> str:
    """The same in every attempt of a flow run, so that a retry continues; new in a new one."""
    return f"{recipe}-{(flow_run_id or runtime.flow_run.id).replace('-', '')[:8]}"


def training_run(parameters: Mapping[str, Any], flow_run_id: str | None = None) -> str:
    """Name of the run that the parameters of a training mean; those of a server leave out what is not given."""
    given = parameters.get("resume") or parameters.get("name")
    return given or run_name(parameters.get("origin") or parameters.get("recipe") or DEFAULT, flow_run_id)


def goes_on(name: str, parameters: dict[str, Any], flow_run_id: str) -> str:
    """How to continue a flow run that was stopped; `name`: of the run."""
    if not name.startswith("train-"):
        return "run it again: what is done is kept"
    run = training_run(parameters, flow_run_id)
    return f"`prefect deployment run train-rgnn --param resume={run}` goes on"
