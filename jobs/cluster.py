"""A Ray to work on: the one that runs already, or one started on this machine for the duration of a job."""

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray

from jobs.settings import Settings
from vis_models.config import BadConfig, Config

OBJECT_STORE_BYTES = 256 * 2**20
"""Small on purpose: frames and masks never pass through Ray's object store."""

TICKETS_PER_CORE = 2
"""What Ray calls CPUs are tickets here: enough that the workers never wait for Ray's own tasks."""

LISTEN_S = 0.5
"""How often the notes of workers are read."""


class Workers(Config):
    """How many workers a job gets and what each of them may use."""

    count: int
    cpus: int
    device: str
    """`cpu` or `cuda`; with `cuda` each worker has one GPU of its own."""


@contextmanager
def cluster(settings: Settings) -> Iterator[Workers]:
    """Connects to Ray, or starts it and stops it afterwards. A Ray that this process uses already is left running.

    Raises:
        BadConfig: no Ray at `settings.ray_address`, or a GPU was asked for and there is none.
    """
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray Data's pools log a harmless error per actor
        ends = signal.getsignal(signal.SIGTERM)
        with _silent():
            _connect(settings)
        if ends is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ends)  # Ray's core aborts the process there, without last words
    try:
        yield _workers(settings)
    finally:
        if ours:
            ray.shutdown()


def _connect(settings: Settings) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if settings.ray_address:
        try:
            if at := re.fullmatch(r"(?:ray://)?([^:/]+):([0-9]+)", settings.ray_address):
                socket.create_connection((at[1], int(at[2])), timeout=10).close()  # Ray tries for minutes, then exits
            ray.init(address=settings.ray_address, **quiet)
        except OSError as error:
            raise BadConfig(
                f"no Ray at {settings.ray_address}: {error}. Start it, correct VIS_RAY_ADDRESS, or leave it out to "
                "have one started on this machine"
            ) from error
    else:
        tickets = TICKETS_PER_CORE * max(os.cpu_count() or 1, settings.workers * max(1, settings.cpus_per_worker))
        start = partial(
            ray.init, num_cpus=tickets, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet
        )
        try:
            start()
        except Exception:  # Ray gives itself 30 s to start, which a busy machine can exceed; what is wrong stays wrong
            ray.shutdown()
            start()


def _workers(settings: Settings) -> Workers:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if settings.device == "cuda" and not gpus:
        raise BadConfig("device cuda was asked for, Ray sees no GPU: set VIS_DEVICE=cpu or check the driver")
    use_gpus = gpus > 0 and settings.device != "cpu"
    count = settings.workers or (gpus if use_gpus else 1)
    cpus = settings.cpus_per_worker or max(1, (os.cpu_count() or 1) // count)
    return Workers(count=count, cpus=cpus, device="cuda" if use_gpus else "cpu")


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's core writes to standard error, past Python, that it read its log level; errors come as exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@ray.remote(num_cpus=0)
class Board:
    """Where workers write notes about how far they are, for the process that waits for them."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def write(self, note: dict[str, Any]) -> None:
        self.notes.append(note)

    def take(self) -> list[dict[str, Any]]:
        notes, self.notes = self.notes, []
        return notes


@contextmanager
def listening(hear: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """A board; its notes are passed to `hear`, in a thread, for as long as the block lasts."""
    board = Board.remote()  # type: ignore[attr-defined]
    over = threading.Event()

    def take() -> None:
        for note in ray.get(board.take.remote()):
            hear(note)

    def listen() -> None:
        while not over.wait(LISTEN_S):
            take()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield board
    finally:
        over.set()
        listener.join()
        take()
        ray.kill(board)
