"""A crew of one, in a child process: what it needs of Ray is nothing."""

import torch

from jobs.child import Child, ChildDied, Line
from jobs.training.crew import Hear, Lost, Place, Task
from jobs.workers import Workers

TRAINS = f"{__name__}:serve"
"""The duty of the child."""


class Alone:
    """One worker on this machine."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self._child: Child | None = None

    def run(self, task: Task, name: str, hear: Hear) -> None:
        child = self._child = self._child or Child(TRAINS)
        child.say((task, self.workers))
        try:
            child.answer(hear)
        except ChildDied as lost:
            self.close()
            raise Lost(f"its process ended with {lost}") from lost
        except BaseException as end:
            if not isinstance(end, Exception):
                hear({"note": "ends after this iteration"})
            raise

    def try_out(self, task: Task) -> None:
        try:
            self.run(task, "", lambda note: None)
        finally:
            self.close()

    def close(self) -> None:
        if self._child:
            self._child.stop()
        self._child = None


def serve(line: Line) -> None:
    """In the child: one task after the other until nobody listens."""
    while True:
        task, workers = line.hear()
        line.answer(task, Place(workers, torch.device(workers.device), line.note, asked_to_end=line.asked_to_end))
