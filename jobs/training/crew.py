"""Who does the work of a run: one worker in a process of its own, or several on Ray Train.

Both do the same: a task, such as `partial(train_on_worker, job, stage, ...)`, is called by every worker with its place.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from jobs.settings import Settings
from jobs.store import Store
from jobs.workers import Workers, may_be_alone, ray_to_join, share
from vis_models.progress import Progress

Hear = Callable[[dict[str, Any]], None]
"""Takes the notes of a worker about how far it is."""


def _unshared(module: nn.Module) -> nn.Module:
    return module


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Place:
    """Where a worker stands among those that share a task."""

    workers: Workers
    device: torch.device
    say: Hear
    """To whoever waits; of the first worker alone."""
    rank: int = 0
    local_rank: int = 0
    """Among the workers of its machine,"""
    local_count: int = 1
    """and how many these are."""
    share: Callable[[nn.Module], Any] = _unshared
    """A module whose gradients become the mean over all workers."""
    asked_to_end: Callable[[], bool] = _never
    """Whether somebody stopped the run, and waits for a checkpoint."""


Task = Callable[[Place], None]


class Lost(Exception):
    """A process or a machine was lost, not the task: another try goes on where the last one wrote a checkpoint."""


class Crew(Protocol):
    workers: Workers

    def run(self, task: Task, name: str, hear: Hear) -> None:
        """The task, called by all workers.

        Raises:
            Lost: a process or a machine, with how.
            Exception: what the task raised on a worker.
        """
        ...

    def try_out(self, task: Task) -> None:
        """The task, called by one worker, who leaves nothing in the memory of its device. Raises what the task does."""
        ...


@contextmanager
def gathered(settings: Settings, folder: str, progress: Progress) -> Iterator[Crew]:
    """The workers that the settings ask for.

    Args:
        folder: of the run, in the store.

    Raises:
        BadConfig: as `jobs.cluster.cluster` does; a GPU was asked for and there is none.
    """
    if may_be_alone(settings) and (workers := share(settings, torch.cuda.device_count())).count == 1:
        from jobs.training.alone import Alone

        if why := ray_to_join(settings)[1]:
            progress("train", 0, 1, {"note": why})
        alone = Alone(workers)
        try:
            yield alone
        finally:
            alone.close()
        return
    from jobs.cluster import cluster  # Ray, which one worker does without
    from jobs.training.on_ray import OnRay, prepare

    prepare(settings)
    progress("start Ray", 0, 1, {})
    with cluster(settings) as workers:
        progress("start Ray", 1, 1, {})
        yield OnRay(workers, Store.open(settings), folder)
