"""A flow, run here and now."""

import signal
import sys
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from flows.terminal import as_interrupt, held_signals, typed

SEGMENTING = frozenset({"flows.segment", "flows.evaluate"})
"""Flows in which a model runs."""


def _interruptible(flow: Any, run: Any, state: Any) -> None:
    """As a flow begins: Prefect has taken SIGTERM for itself, to crash the run without a word."""
    signal.signal(signal.SIGTERM, as_interrupt)


def run_segment(**parameters: Any) -> dict[str, Any]:
    """The flow `segment-archive`, here and now; its job alone where Prefect has nothing to do.

    Its API would be gone with the command, so nobody would see the run, and one worker on this machine is watched by
    the job itself: it is there in half the time.

    Raises:
        BadConfig: as the job says.
    """
    from flows.embedded import named_elsewhere
    from jobs.child import started_early
    from jobs.segmentation.alone import PLAYS
    from jobs.settings import Settings
    from jobs.workers import may_be_alone

    settings = Settings()
    if named_elsewhere() or not may_be_alone(settings):
        return run_flow("flows.segment", "segment_archive", **parameters)
    with started_early(PLAYS, settings):
        with held_signals():
            from flows.progress import at_terminal
            from jobs.segmentation.segment import SegmentJob, segment
        with at_terminal() as progress:
            summary = segment(SegmentJob(**parameters, command=typed()), settings, progress)
    return summary.model_dump(mode="json") | {"text": str(summary)}


def run_flow(module: str, flow: str, **parameters: Any) -> dict[str, Any]:
    """Run a flow here and now.

    Raises:
        BadConfig: as the flow says.
        KeyboardInterrupt: Ctrl-C, which Ray Train turns into an exit without an error.
    """
    from flows.embedded import prefect_api
    from jobs.child import started_early
    from jobs.segmentation.alone import PLAYS
    from jobs.settings import Settings
    from vis_models.config import BadConfig

    if sys.stderr.isatty():  # the first words of the flow itself take a while on a busy machine
        print(f"{flow.replace('_', ' ')}: starts", file=sys.stderr, flush=True)
    with started_early(PLAYS, Settings()) if module in SEGMENTING else nullcontext(), prefect_api() as wait:
        with held_signals():
            run = getattr(import_module(module), flow)  # brings Prefect while the API and the worker start
        wait()
        run = run.with_options(on_running=[_interruptible])
        try:
            state = run(**parameters, return_state=True)
        except SystemExit:
            raise KeyboardInterrupt from None
    result = state.result(raise_on_failure=False)
    if state.name == BadConfig.__name__:
        raise BadConfig(state.message)
    if isinstance(result, BaseException):
        raise result
    return result
