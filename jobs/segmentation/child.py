"""One worker in a process of its own: what this machine alone can do needs no engine around it.

The process is started before anything heavy is imported here and imports torch meanwhile. It may die, of a decoder or
of a lack of memory: a new one takes its place, and the worker reads in the store what the last one was at. It is not
hit by the Ctrl-C of a terminal, and ends with the process that started it, however that ends.
"""

import json
import multiprocessing
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from jobs.settings import Settings
from jobs.workers import Workers, ray_to_join, share

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from jobs.segmentation.child import main; main(int(sys.argv[1]))"
)
STOP_S = 5
LOG_BYTES = 4000
"""Of the last words of a process that died."""


class WorkerLost(Exception):
    """The process of a worker ended by itself."""


class Child:
    """A process that waits for a job. `gpus`: how many it sees."""

    def __init__(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT, str(theirs.fileno()), json.dumps(sys.path)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )
        theirs.close()
        self._gpus: int | None = None

    @property
    def gpus(self) -> int:
        if self._gpus is None:
            self._gpus = self.hear()[1]
        return self._gpus

    def say(self, message: Any) -> None:
        """Raises WorkerLost."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which `hear` tells with its reason
            self._pipe.send(message)

    def hear(self) -> Any:
        """The next message. Raises WorkerLost."""
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerLost(self._last_words()) from None

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._log.seek(0)
        said = self._log.read()[-LOG_BYTES:].decode(errors="replace").strip()
        return how + (f": {said}" if said else "")

    def stop(self) -> None:
        self._pipe.close()  # it ends when nobody listens
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


_early: list[Child] = []


@contextmanager
def started_early(settings: Settings) -> Iterator[None]:
    """Inside, the next worker is there already, or on its way: worth it before slow imports."""
    child = Child() if may_be_alone(settings) else None
    if child:
        _early.append(child)
    try:
        yield
    finally:
        if child in _early:
            _early.remove(child)
            child.stop()


def may_be_alone(settings: Settings) -> bool:
    """Whether one worker on this machine may be what the settings ask for; how many GPUs there are decides the rest."""
    return settings.workers <= 1 and ray_to_join(settings)[0] is None


class Alone:
    """A pool of one worker, in a child process."""

    def __init__(self, child: Child, workers: Workers) -> None:
        self._child, self.workers = child, workers

    def play(self, shards: list[str], job: Any, hear: Callable[[dict[str, Any]], None]) -> Iterator[dict[str, str]]:
        """What `ShardWorker` answers for each shard; its notes go to `hear`.

        Raises:
            Exception: what it raised, with its trace; WorkerLost: it ends before it begins with a shard.
        """
        self._child.say(job)
        for shard in shards:
            row = {"shard": shard}
            while (answer := self._answer(row, hear)) is None:
                self._child.stop()
                self._child = Child()
                self._child.say(job)
            yield answer

    def _answer(self, row: dict[str, str], hear: Callable[[dict[str, Any]], None]) -> dict[str, str] | None:
        """None: the worker died of it; how stands in `row` then."""
        began = False
        self._child.say(row)
        while True:
            try:
                kind, value = self._child.hear()
            except WorkerLost as lost:
                if not began:  # nothing in the store counts these deaths
                    raise
                row["died"] = str(lost)
                return None
            began = began or kind == "note"
            if kind == "note":
                hear(value)
            elif kind == "row":
                return value
            elif kind == "raised":
                error, trace = value
                error.add_note(f"in the worker:\n{trace}")
                raise error

    def close(self) -> None:
        self._child.stop()


@contextmanager
def alone(settings: Settings) -> Iterator[Alone | None]:
    """A worker in a child process; None where the GPUs of this machine want more of them.

    Raises:
        BadConfig: a GPU was asked for and there is none.
    """
    child = _early.pop() if _early else Child()
    pool = None
    try:
        workers = share(settings, child.gpus)
        pool = Alone(child, workers) if workers.count == 1 else None
        yield pool
    finally:
        (pool.close if pool else child.stop)()


# In the child


def main(channel: int) -> None:
    """Plays shards until nobody listens."""
    pipe = Connection(channel)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, messages), daemon=True).start()
    import faulthandler
    import traceback

    faulthandler.enable()
    import torch

    from jobs.segmentation.shards import ShardWorker

    pipe.send(("ready", torch.cuda.device_count()))
    worker = ShardWorker(pickle.loads(messages.get()), lambda note: pipe.send(("note", note)))
    while True:
        row = pickle.loads(messages.get())
        try:
            answer: tuple[str, Any] = ("row", worker(row))
        except Exception as error:
            answer = ("raised", (_plain(error), traceback.format_exc()))
        pipe.send(answer)


def _listen(pipe: Connection, messages: "queue.SimpleQueue[bytes]") -> None:
    """Messages are unpickled in the main thread: that may import what it is importing."""
    import os

    while True:
        try:
            messages.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _plain(error: Exception) -> Exception:
    """The error, or what it says where it cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of a library may refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
