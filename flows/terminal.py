"""What a command owes to the terminal it was typed in: its streams, its signals, its tables. Nothing heavy."""

import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def typed() -> str:
    """What was typed, for the record."""
    return shlex.join(["vis", *sys.argv[1:]])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """The first row is the heading. Columns are as wide as what stands in them, the last one ragged."""
    if len(rows) == 1:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def as_interrupt(number: int, frame: Any) -> None:
    """A handler for SIGTERM: a verb ends as it does after Ctrl-C, whoever listens to that by now."""
    listener = signal.getsignal(signal.SIGINT)
    if not callable(listener):  # a shell's background jobs begin with Ctrl-C ignored
        raise KeyboardInterrupt
    listener(number, frame)


@contextmanager
def held_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect after what is inside: raised in the middle of an import of torch, whose C++ code
    lets no exception through, they would end the process with a dump.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in before.items() if callable(handler)}
    for number in heard:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def open_closed_streams() -> None:
    """A stream that was closed, or whose reader went away (`| head -1`), takes what nobody reads: work goes on."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stdout is sys.__stdout__:  # and not a test's
        sys.stdout = _writer(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _writer(2, sys.stderr)


def unwritten() -> OSError | None:
    """Why a part of the answer was lost, if it was."""
    sys.stdout.flush()
    return getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failed", None)


def _writer(number: int, stream: Any) -> io.TextIOWrapper:
    raw = _Outlet(number, "w", closefd=False)
    lines = raw.isatty() or number == 2
    encoding, errors = (stream.encoding, stream.errors) if stream else (None, "backslashreplace")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)


class _Outlet(io.FileIO):
    """A file that takes everything once it cannot be written, as its reader is gone or its disk is full."""

    failed: OSError | None = None
    """What was lost, other than a reader."""

    def write(self, data: Any) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            self.failed = None if isinstance(error, BrokenPipeError) else error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
