"""What a training run shows while it runs: how far it is for the driver, curves for TensorBoard."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from tensorboardX import SummaryWriter

from jobs.recipes import Stage
from jobs.store import Store

REPORT_EVERY_S = 1.0
Item = TypeVar("Item")
Progress = Callable[[str, int, int, dict[str, Any]], None]


class Events:
    """TensorBoard event files of a stage, copied to the store with every checkpoint."""

    def __init__(self, store: Store, folder: str, rank: int) -> None:
        self.store, self.folder = store, folder
        self.local = tempfile.TemporaryDirectory(prefix="vis-events-")
        self.writer = SummaryWriter(self.local.name) if rank == 0 else None

    def write(self, iteration: int, values: dict[str, float]) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, iteration)

    def save(self, last: bool) -> None:
        """Bring the files to the store; only closing the writer brings the newest values for certain."""
        if self.writer:
            self.writer.close() if last else self.writer.flush()
            for file in Path(self.local.name).iterdir():
                self.store.write_bytes(f"{self.folder}/events/{file.name}", file.read_bytes())


class Stopwatch:
    """When it is time to say something, how fast it goes, and how much of the time passes waiting."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.waited_s = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < REPORT_EVERY_S:
            return False
        self.last = now
        return True

    def rate(self, iterations: int) -> float:
        return iterations / max(time.monotonic() - self.start, 1e-9)

    def waits_for(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time from asking for one until it comes counts as waiting."""
        ahead = iter(items)
        while True:
            asked = time.monotonic()
            try:
                item = next(ahead)
            except StopIteration:
                return
            self.waited_s += time.monotonic() - asked
            yield item

    def waiting(self) -> float:
        """Share of the time so far, 0 to 1."""
        return self.waited_s / max(time.monotonic() - self.start, 1e-9)


@ray.remote
class Board:
    """Where the first worker writes how far it is, and the driver reads it."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def write(self, note: dict[str, Any]) -> None:
        self.notes.append(note)

    def take(self) -> list[dict[str, Any]]:
        notes, self.notes = self.notes, []
        return notes


def say(board: Any, rank: int, note: dict[str, Any]) -> None:
    if rank == 0:
        board.write.remote(note)


@contextmanager
def relay(board: Any, stage: Stage, progress: Progress) -> Iterator[None]:
    """Pass on what the workers say while the driver waits for them."""
    over = threading.Event()

    def pass_on() -> None:
        for note in ray.get(board.take.remote()):
            if "encoded" in note:
                progress(f"encode for {stage.name}", note["encoded"], note["of"], {})
            else:
                info = {key: value for key, value in note.items() if key != "done"}
                progress(f"train {stage.name}", note.get("done", 0), stage.iterations, info)

    def listen() -> None:
        while not over.wait(0.5):
            pass_on()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        over.set()
        listener.join()
        pass_on()
