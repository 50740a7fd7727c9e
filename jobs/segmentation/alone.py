"""A pool of one worker, in a child process. One that dies of a video is replaced, and the new one reads in the store
what the last one was at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jobs.child import Child, ChildDied, Line, new_child
from jobs.settings import Settings
from jobs.workers import Workers, share

PLAYS = f"{__name__}:serve"
"""The duty of the child."""


class Alone:
    """A pool of one worker."""

    def __init__(self, child: Child, workers: Workers) -> None:
        self._child, self.workers = child, workers

    def play(self, shards: list[str], job: Any, hear: Callable[[dict[str, Any]], None]) -> Iterator[dict[str, str]]:
        """What `ShardWorker` answers for each shard; its notes go to `hear`.

        Raises:
            Exception: what it raised, with its trace; ChildDied: it ends before it begins with a shard.
        """
        self._child.say(job)
        for shard in shards:
            row = {"shard": shard}
            while (answer := self._answer(row, hear)) is None:
                self._child.stop()
                self._child = Child(PLAYS)
                self._child.say(job)
            yield answer

    def _answer(self, row: dict[str, str], hear: Callable[[dict[str, Any]], None]) -> dict[str, str] | None:
        """None: the worker died of it; how stands in `row` then."""
        began = False

        def heard(note: dict[str, Any]) -> None:
            nonlocal began
            began = True
            hear(note)

        self._child.say(row)
        try:
            return self._child.answer(heard)
        except ChildDied as lost:
            if not began:  # nothing in the store counts these deaths
                raise
            row["died"] = str(lost)
            return None

    def close(self) -> None:
        self._child.stop()


@contextmanager
def alone(settings: Settings) -> Iterator[Alone | None]:
    """A worker in a child process; None where the GPUs of this machine want more of them.

    Raises:
        BadConfig: a GPU was asked for and there is none.
    """
    child = new_child(PLAYS)
    pool = None
    try:
        workers = share(settings, child.gpus)
        pool = Alone(child, workers) if workers.count == 1 else None
        yield pool
    finally:
        (pool.close if pool else child.stop)()


def serve(line: Line) -> None:
    """In the child: a job, then its shards until nobody listens."""
    from jobs.segmentation.shards import ShardWorker

    worker = ShardWorker(line.hear(), line.note)
    while True:
        line.answer(worker, line.hear())
