"""A Ray to work on: the one that runs already, or one started on this machine for the duration of a job."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.settings import Settings
from jobs.workers import LISTEN_S, Say, Workers, cores, own_ray_folder, ray_to_join, share
from vis_models.config import BadConfig

OBJECT_STORE_BYTES = 256 * 2**20
"""Small on purpose: frames and masks never pass through Ray's object store."""

TICKETS_PER_CORE = 2
"""What Ray calls CPUs are tickets here: enough that the workers never wait for Ray's own tasks."""

TICKETS = "vislake_tickets"
"""Resource by which a Ray of ours is known: its CPUs are tickets."""


@contextmanager
def cluster(settings: Settings, say: Say = lambda line: print(f"vis: {line}", file=sys.stderr)) -> Iterator[Workers]:
    """Connects to Ray, or starts it and stops it afterwards. A Ray that this process uses already is left running.

    Args:
        say: is told where the environment decided otherwise than the settings.

    Raises:
        BadConfig: no Ray at `settings.ray_address`, one too small for the workers, or no GPU where one was asked for.
    """
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray Data's pools log a harmless error per actor
        address, why = ray_to_join(settings)
        if why:
            say(why)
        folder, why = ("", "") if address else own_ray_folder()
        if why:
            say(why)
        with _silent(), _own_sigterm():
            _join(address) if address else _start(settings, folder)
    try:
        yield _workers(settings)
    finally:
        if ours:
            ray.shutdown()


QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


def _join(address: str) -> None:
    try:
        ray.init(address=address, **QUIET)
    except (OSError, RuntimeError) as error:
        raise BadConfig(
            f"no Ray at {address}: {error}. Start it, correct VIS_RAY_ADDRESS (or RAY_ADDRESS), or set "
            "VIS_RAY_ADDRESS=local to work on this machine"
        ) from error


def _start(settings: Settings, folder: str) -> None:
    tickets = TICKETS_PER_CORE * max(cores(), settings.workers * max(1, settings.cpus_per_worker))
    start = partial(
        ray.init,
        address="local",  # not one that somebody else started, or left behind
        num_cpus=tickets,
        resources={TICKETS: 1},
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=folder,
        **QUIET,
    )
    try:
        start()
    except Exception:  # Ray gives itself 30 s to start, which a busy machine can exceed; what is wrong stays wrong
        ray.shutdown()
        start()


def _workers(settings: Settings) -> Workers:
    there = ray.cluster_resources()
    workers = share(settings, int(there.get("GPU", 0)))
    limit, largest = int(there.get("CPU", 0)), 0
    for node in ray.nodes():
        largest = max(largest, int(node["Resources"].get("CPU", 0)) if node["Alive"] else 0)
    if TICKETS not in there and not settings.cpus_per_worker:  # the cores of this machine say nothing of that Ray's
        workers = workers.model_copy(update={"cpus": max(1, min(largest, limit // workers.count))})
    if workers.count * workers.cpus > limit or workers.cpus > largest:
        raise BadConfig(
            f"{workers.count} workers of {workers.cpus} CPUs each do not fit: Ray has {limit} CPUs, at most {largest} "
            "on one machine. Set VIS_WORKERS and VIS_CPUS_PER_WORKER, or add machines"
        )
    return workers


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's core answers SIGTERM with a dump and an abort; who handled it before does so afterwards."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


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


PATIENCE_S = 30
"""How long the notes of workers may take to come."""


@contextmanager
def listening(hear: Callable[[dict[str, Any]], None]) -> Iterator[Any]:
    """A board; its notes are passed to `hear`, in a thread, for as long as the block lasts."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board = Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # no other node's end is its
    over = threading.Event()

    def take() -> None:
        try:
            notes = ray.get(board.take.remote(), timeout=PATIENCE_S)
        except RayError:  # how far the work is must not decide whether it is done
            return
        for note in notes:
            hear(note)

    def listen() -> None:
        while not over.wait(LISTEN_S):
            take()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    interrupted = False
    try:
        yield board
    except BaseException as error:
        interrupted = not isinstance(error, Exception)
        raise
    finally:
        over.set()
        if not interrupted:  # else Ray may have got the same signal and be gone: asking it takes a minute, then aborts
            listener.join()
            take()
            ray.kill(board)
