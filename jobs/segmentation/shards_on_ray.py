"""Shards on Ray Data: as many workers as the settings ask for, here or on a cluster."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.data

from jobs.cluster import listening
from jobs.segmentation.plans import ShardJob
from jobs.segmentation.shards import ShardWorker
from jobs.workers import Say, Workers

WAIT_S = 15
"""How long no worker may begin before it is said what they wait for."""


class OnRay:
    """A pool of workers on the Ray that this process is connected to. Ray runs a shard again whose worker was lost."""

    def __init__(self, workers: Workers, say: Say) -> None:
        self.workers, self._say = workers, say

    def play(
        self, shards: list[str], job: ShardJob, hear: Callable[[dict[str, Any]], None]
    ) -> Iterator[dict[str, str]]:
        """What `ShardWorker` answers for each shard, as they come; its notes go to `hear`."""
        count, cpus = min(self.workers.count, len(shards)), self.workers.cpus
        gpus = 1 if self.workers.device == "cuda" else 0
        waiting = threading.Timer(WAIT_S, lambda: self._say(_what_lacks(count, cpus, gpus)))
        waiting.daemon = True

        def heard(note: dict[str, Any]) -> None:
            waiting.cancel()
            hear(note)

        with _quiet(), listening(heard) as board:
            rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map(
                ShardWorker,  # type: ignore[arg-type]  # Ray takes a class, its annotation does not
                fn_constructor_args=(job, partial(_write, board)),
                compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
                num_cpus=cpus,
                num_gpus=gpus,
            )
            waiting.start()
            try:
                yield from rows.iter_rows()
            finally:
                waiting.cancel()


def _write(board: Any, note: dict[str, Any]) -> None:
    board.write.remote(note)


def _what_lacks(count: int, cpus: int, gpus: int) -> str:
    wanted = f"{cpus} CPUs" + (f" and {gpus} GPU" if gpus else "")
    free, there = ray.available_resources(), ray.cluster_resources()
    state = ", ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
    return f"waiting for Ray to start {count} workers of {wanted} each; free there: {state}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without its own progress bars and reports; errors are shown."""
    context = ray.data.DataContext.get_current()
    loud = context.enable_progress_bars, context.print_on_execution_start
    context.enable_progress_bars = context.print_on_execution_start = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = loud
        logger.setLevel(level)
