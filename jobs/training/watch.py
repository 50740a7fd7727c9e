"""What a training run shows while it runs: how far it is for the driver, and its curves."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tensorboardX import SummaryWriter

from jobs.store import Store
from jobs.training.recipes.base import Stage
from jobs.training.run_files import CURVE, read_curve
from vis_models.progress import Progress

REPORT_EVERY_S = 1.0
MEAN_OVER = 20
"""Iterations whose mean is a point of the curve."""
Item = TypeVar("Item")


class Curve:
    """What a stage was like on its way: the same numbers at the same iterations in every run of the same job.

    It lies beside the checkpoints of the stage as `curve.jsonl`, an object of `iteration` and values a line, and as
    event files for TensorBoard under `events/`. Both are brought to the store with every checkpoint, by the first
    worker.
    """

    def __init__(self, store: Store, folder: str, rank: int, first: int) -> None:
        """`first`: the iteration of the checkpoint from which the stage goes on; later points are drawn again."""
        self.store, self.folder = store, folder
        self.points = [point for point in read_curve(store, folder) if point["iteration"] <= first]
        self.local = tempfile.TemporaryDirectory(prefix="vis-events-")
        self.writer = SummaryWriter(self.local.name) if rank == 0 else None

    def add(self, iteration: int, values: dict[str, float]) -> None:
        """Values of the newest iteration; more of the same one join its point."""
        if not self.points or self.points[-1]["iteration"] != iteration:
            self.points.append({"iteration": iteration})
        self.points[-1] |= values
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, iteration)

    @property
    def loss(self) -> float | None:
        """Of the newest point that has one."""
        return next((point["loss"] for point in reversed(self.points) if "loss" in point), None)

    def save(self, last: bool) -> None:
        """Only closing the writer of event files brings its newest values for certain."""
        if self.writer:
            lines = "".join(f"{json.dumps(point)}\n" for point in self.points)
            self.store.write_bytes(f"{self.folder}/{CURVE}", lines.encode())
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


def hearing(stage: Stage, progress: Progress) -> Callable[[dict[str, Any]], None]:
    """Passes on what the workers of a stage say of it."""

    def hear(note: dict[str, Any]) -> None:
        if "encoded" in note:
            progress(f"encode for {stage.name}", note["encoded"], note["of"], {})
        else:
            info = {key: value for key, value in note.items() if key != "done"}
            progress(f"train {stage.name}", note.get("done", 0), stage.iterations, info)

    progress(f"train {stage.name}", 0, stage.iterations, {})  # the workers take their time until they say a word
    return hear
