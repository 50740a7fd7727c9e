"""Threads that decode, with a limit to patience: work without a sign of life is left behind, and its thread replaced.

A thread cannot be killed. One that hangs in a decoder, a dead disk or a stalled connection stays until it comes back or
the process ends; it is a daemon, so that the process can end.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Hung(Exception):
    """Work gave no sign of life for so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no sign of life for {seconds:g} s")
        self.seconds = seconds


@dataclass(eq=False)
class Task(Generic[T]):
    """A piece of work, waiting, running or done."""

    work: Callable[["Task[T]"], T]
    done: Future[T] = field(default_factory=Future)
    beats: int = 0
    seen: int = -1
    idle_s: float = 0

    def beat(self) -> None:
        """A sign of life, given by the work."""
        self.beats += 1


class Decoders:
    """A pool of threads.

    Args:
        patience_s: how long a task may run from one sign of life to the next. Counted in slices that somebody waited
            for a result, so a process that was stopped for a while does not blame its decoders.
    """

    def __init__(self, threads: int, patience_s: float) -> None:
        self._patience_s = patience_s
        self._slice_s = min(1.0, patience_s / 10)
        self._tasks: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._running: dict[Task[Any], threading.Thread] = {}
        self._lock = threading.Lock()
        self._threads = {self._hire() for _ in range(threads)}

    def submit(self, work: Callable[[Task[T]], T]) -> Task[T]:
        """Runs `work(task)` in a thread; it calls `task.beat()` now and then."""
        task = Task(work)
        self._tasks.put(task)
        return task

    def result(self, task: Task[T]) -> T:
        """What the work returned or raised.

        Raises:
            Hung: it was left behind.
        """
        while not wait([task.done], timeout=self._slice_s).done:
            self._look_after()
        return task.done.result()

    def close(self) -> None:
        """Drops what waits and lets the threads go; those that hang stay behind."""
        while not self._tasks.empty():
            self._tasks.get()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(timeout=1)

    def _hire(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="decode", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while task := self._tasks.get():
            with self._lock:
                self._running[task] = threading.current_thread()
            value, error = None, None
            try:
                value = task.work(task)
            except BaseException as raised:
                error = raised
            with self._lock:
                if self._running.pop(task, None) is None:
                    return  # left behind; another thread has this one's place
            if error:
                task.done.set_exception(error)
            else:
                task.done.set_result(value)

    def _look_after(self) -> None:
        """One slice of waiting went by."""
        with self._lock:
            for task in list(self._running):
                task.idle_s = 0 if task.beats != task.seen else task.idle_s + self._slice_s
                task.seen = task.beats
                if task.idle_s >= self._patience_s:
                    self._threads.remove(self._running.pop(task))
                    self._threads.add(self._hire())
                    task.done.set_exception(Hung(self._patience_s))


@contextmanager
def decoders(threads: int, patience_s: float) -> Iterator[Decoders]:
    """A pool for the time being."""
    pool = Decoders(threads, patience_s)
    try:
        yield pool
    finally:
        pool.close()
