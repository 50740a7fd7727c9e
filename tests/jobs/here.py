"""Workers in the process of the test: for what is decided around them, without waiting for another Python to start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jobs.segmentation.plans import ShardJob
from jobs.segmentation.shards import ShardWorker
from jobs.workers import Workers


class Here:
    """A pool of one worker."""

    workers = Workers(count=1, cpus=1, device="cpu")

    def play(self, shards: list[str], job: ShardJob, hear: Callable[[dict[str, Any]], None]) -> Iterator[dict]:
        worker = ShardWorker(job, hear)
        for shard in shards:
            yield worker({"shard": shard})


@contextmanager
def here(*_: Any) -> Iterator[Here]:
    yield Here()
