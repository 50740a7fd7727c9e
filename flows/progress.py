"""How far a run is: a bar or lines for the person at the terminal, artifacts for the person at the browser.

Jobs report as often as they like, from any thread: `progress("train detector", 300, 4500, {"loss": 3.1})`. A report
with a `note` is a sentence of its own and says nothing about how far the stage is.
"""

import contextvars
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from vis_models.progress import Progress

LINE_EVERY_S = 10.0
ARTIFACT_EVERY_S = 5.0


@contextmanager
def at_terminal() -> Iterator[Progress]:
    """Bars where stderr is a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _serial(_Lines(lambda line: print(line, file=sys.stderr, flush=True)))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.fields[info]}"), console=console) as bars:
        yield _serial(_Bars(bars))


@contextmanager
def of_flow(flow: str) -> Iterator[Progress]:
    """Inside a flow run: progress artifacts, and lines in its log or, where a person started it, at the terminal."""
    from prefect import get_run_logger, runtime

    artifacts = _serial(_Artifacts(flow))
    if runtime.deployment.id is not None:
        lines = _serial(_Lines(get_run_logger().info))
        yield lambda *report: (lines(*report), artifacts(*report))[0]
        return
    with at_terminal() as shown:
        yield lambda *report: (shown(*report), artifacts(*report))[0]


def say(sentence: str) -> None:
    """To whoever follows a flow run: a line in its log or, where a person started it, at the terminal."""
    from prefect import get_run_logger, runtime

    if runtime.deployment.id is not None:
        get_run_logger().warning(sentence)
    else:
        print(sentence, file=sys.stderr, flush=True)


@contextmanager
def shown(what: str = "the result is whole, but its artifact") -> Iterator[None]:
    """Around artifacts: what is done stays done, also where Prefect's API does not take a picture of it."""
    from httpx import HTTPError
    from prefect.exceptions import PrefectException

    try:
        yield
    except (HTTPError, PrefectException, OSError, ValueError) as error:  # ValueError: what answers is no such API
        say(f"{what} was not recorded: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _serial(report: Progress) -> Progress:
    """Calls from several threads, one after the other."""
    lock = threading.Lock()

    def one_by_one(stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        with lock:
            report(stage, done, total, info)

    return one_by_one


class _Rate:
    """Lets a report through when it is due: the first of a stage, its end, and one every so many seconds."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.last: dict[str, float] = {}

    def due(self, stage: str, done: int, total: int) -> bool:
        now = time.monotonic()
        if stage in self.last and done < total and now - self.last[stage] < self.every_s:
            return False
        self.last[stage] = now
        return True


class _Lines:
    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.rate = _Rate(LINE_EVERY_S)

    def __call__(self, stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        if "note" in info:
            self.say(f"{stage}: {info['note']}")
        elif self.rate.due(stage, done, total):
            self.say(_sentence(stage, done, total, info))


class _Bars:
    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.stages: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        if stage not in self.stages:
            self.stages[stage] = self.bars.add_task(stage, total=total, info="")
        if "note" in info:
            self.bars.console.print(f"{stage}: {info['note']}", markup=False, highlight=False)
        else:
            self.bars.update(self.stages[stage], completed=done, total=total, info=_figures(info))


class _Artifacts:
    """One progress artifact per stage. An API that does not answer must not end a day of training."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self.rate = _Rate(ARTIFACT_EVERY_S)
        self.ids: dict[str, UUID] = {}
        self.run = contextvars.copy_context()  # says to which flow run an artifact belongs, also in other threads

    def __call__(self, stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        if "note" not in info and self.rate.due(stage, done, total):
            self.run.run(self._record, stage, done, total, info)

    def _record(self, stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        percent = 100.0 * done / max(total, 1)
        description = _sentence(stage, done, total, info)
        with shown(f"progress of {stage}"):
            if stage in self.ids:
                update_progress_artifact(self.ids[stage], percent, description)
            else:
                key = re.sub(r"[^a-z0-9]+", "-", f"{self.flow}-{stage}".lower()).strip("-")
                self.ids[stage] = cast(UUID, create_progress_artifact(percent, key, description))


def _sentence(stage: str, done: int, total: int, info: dict[str, Any]) -> str:
    return f"{stage}: {done} of {total}  {_figures(info)}".rstrip()


def _figures(info: dict[str, Any]) -> str:
    return "  ".join(f"{key} {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in info.items())
