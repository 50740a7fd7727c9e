"""One worker in a process of its own: what this machine alone can do needs no engine around it.

The process is started before anything heavy is imported here and imports torch meanwhile. It may die, of a decoder or
of a lack of memory: whoever waits for it is told how, and a new one can take its place. It is not hit by the Ctrl-C of
a terminal, and ends with the process that started it, however that ends: at once, or where it can stop by itself soon.
"""

import importlib
import json
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from jobs.settings import Settings
from jobs.workers import may_be_alone

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from jobs.child import main; main(*sys.argv[1:3])"
GRACE_S = 15
"""How long a process that asks whether it should end may go on to where it can."""
TIDY_S = 3
"""How long what it was at may take to leave nothing behind."""
STOP_S = GRACE_S + TIDY_S + 2
"""How long a process that nobody listens to any more may take to end."""
LOG_BYTES = 4000
"""Of the last words of a process that died."""


class ChildDied(Exception):
    """It ended by itself."""


class Child:
    """A process that waits for messages. `gpus`: how many it sees."""

    def __init__(self, duty: str) -> None:
        """`duty`: what it does with them, as `module:function`, which is called with a `Line`."""
        self._pipe, theirs = multiprocessing.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT, str(theirs.fileno()), duty, json.dumps(sys.path)],
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
            self._gpus = self._receive()[1]
        return self._gpus

    def say(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which `answer` tells with its reason
            self._pipe.send(message)

    def answer(self, hear: Callable[[Any], None]) -> Any:
        """What it answers to the last message; its notes go to `hear` until then.

        Raises:
            Exception: what it raised, with its trace.
            ChildDied: it ended before, with the way in which it did.
        """
        _ = self.gpus  # its first word
        while True:
            kind, value = self._receive()
            if kind == "note":
                hear(value)
            elif kind == "answer":
                return value
            else:
                error, trace = value
                error.add_note(f"in the worker:\n{trace}")
                raise error

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise ChildDied(self._last_words()) from None

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


_early: dict[str, Child] = {}


@contextmanager
def started_early(duty: str, settings: Settings) -> Iterator[None]:
    """Inside, the next child with this duty is there already, or on its way: worth it before slow imports."""
    child = Child(duty) if may_be_alone(settings) else None
    if child:
        _early[duty] = child
    try:
        yield
    finally:
        if child and _early.get(duty) is child:
            del _early[duty]
            child.stop()


def new_child(duty: str) -> Child:
    """The one that was started early, or another."""
    return _early.pop(duty, None) or Child(duty)


# In the child


class Line:
    """To the process that waits."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._idle, self._left = threading.Event(), threading.Event()
        self._idle.set()
        self._grace_s = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def hear(self) -> Any:
        """The next message. Ends this process where nobody is there to send one."""
        self._grace_s = 0
        self._idle.set()
        message = self._messages.get()
        if message is None:
            os._exit(0)
        self._idle.clear()
        return pickle.loads(message)

    def note(self, note: Any) -> None:
        self.send("note", note)

    def asked_to_end(self) -> bool:
        """Whether nobody listens any more. Who asks once must ask again within `GRACE_S`, and then comes to an end."""
        self._grace_s = GRACE_S
        return self._left.is_set()

    def answer(self, work: Callable[..., Any], *given: Any) -> None:
        """What the work comes to, or what it raises."""
        import traceback

        try:
            said: tuple[str, Any] = ("answer", work(*given))
        except Exception as error:
            said = ("raised", (_plain(error), traceback.format_exc()))
        self.send(*said)

    def send(self, *message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody listens, which is seen to elsewhere
            self._pipe.send(message)

    def _listen(self) -> None:
        """Messages are unpickled in the main thread: that may import what it is importing."""
        with suppress(EOFError, OSError):
            while True:
                self._messages.put(self._pipe.recv_bytes())
        self._left.set()
        self._messages.put(None)
        if not self._idle.wait(self._grace_s):
            os.kill(os.getpid(), signal.SIGINT)  # so that what it is at tidies up
            time.sleep(TIDY_S)
        os._exit(0)


def main(channel: str, duty: str) -> None:
    """Does its duty until nobody listens."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started this process may ignore it
    line = Line(Connection(int(channel)))
    import faulthandler

    faulthandler.enable()
    import torch

    module, _, function = duty.partition(":")
    serve = getattr(importlib.import_module(module), function)
    line.send("ready", torch.cuda.device_count())
    with suppress(KeyboardInterrupt):
        serve(line)
    os._exit(0)


def _plain(error: Exception) -> Exception:
    """The error, or what it says where it cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of a library may refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
