"""How many workers a job gets, what each may use, and on which Ray, if any. No Ray and no torch."""

import os
import re
import socket
import tempfile
from collections.abc import Callable

from jobs.settings import Settings
from vis_models.config import BadConfig, Config

LISTEN_S = 0.5
"""How often workers say how far they are, and how often their notes are read."""
ANSWER_S = 5
"""How long a Ray may take to accept a connection."""

Say = Callable[[str], None]
"""Takes a sentence for the person who waits."""


class Workers(Config):
    """How many workers a job gets and what each of them may use."""

    count: int
    cpus: int
    device: str
    """`cpu` or `cuda`; with `cuda` each worker has one GPU of its own."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(settings: Settings, gpus: int) -> Workers:
    """Workers of a machine or cluster of so many GPUs. Raises BadConfig: GPUs were asked for that are not there."""
    if settings.device == "cuda" and not gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES={hidden!r} hides them" if hidden is not None else "check the driver"
        raise BadConfig(f"device cuda was asked for, there is no GPU to be seen: set VIS_DEVICE=cpu or {why}")
    use_gpus = gpus > 0 and settings.device != "cpu"
    count = settings.workers or (gpus if use_gpus else 1)
    if use_gpus and count > gpus:
        raise BadConfig(f"{count} workers need a GPU each, there are {gpus}: set VIS_WORKERS, or VIS_DEVICE=cpu")
    cpus = settings.cpus_per_worker or max(1, cores() // count)
    return Workers(count=count, cpus=cpus, device="cuda" if use_gpus else "cpu")


def ray_to_join(settings: Settings) -> tuple[str | None, str]:
    """(address of a running Ray, or None to work on this machine; a sentence where the environment decided).

    `settings.ray_address` is obeyed. RAY_ADDRESS, which stands in every Ray job and pod, is obeyed where it answers.

    Raises:
        BadConfig: there is no Ray at `settings.ray_address`.
    """
    if settings.ray_address:
        if settings.ray_address == "local":
            return None, ""
        if why := unanswered(settings.ray_address):
            raise BadConfig(
                f"no Ray at {settings.ray_address}: {why}. Start it, correct VIS_RAY_ADDRESS, or leave it out to work "
                "on this machine"
            )
        return settings.ray_address, ""
    given = os.environ.get("RAY_ADDRESS", "")
    if given in ("", "local"):
        return None, ""
    if why := unanswered(given):
        return None, f"RAY_ADDRESS={given} is not used: {why}. This machine does the work (VIS_RAY_ADDRESS=local)"
    return given, f"joined the Ray at RAY_ADDRESS={given}; VIS_RAY_ADDRESS=local works on this machine alone"


def may_be_alone(settings: Settings) -> bool:
    """Whether one worker on this machine may be what the settings ask for; how many GPUs there are decides the rest."""
    return settings.workers <= 1 and ray_to_join(settings)[0] is None


def unanswered(address: str) -> str:
    """Why there can be no Ray at this address, which Ray itself finds out after minutes; empty: something answers."""
    if address == "auto":
        try:
            with open(os.path.join(ray_folder(), "ray_current_cluster")) as file:
                return unanswered(file.read().strip())
        except OSError:
            return ""  # Ray knows other ways to find one, and says at once when it does not
    at = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:([0-9]{1,5})", address)
    if at is None:
        return "expected HOST:PORT, ray://HOST:PORT, auto or local"
    try:
        socket.create_connection((at[1], int(at[2])), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""


def ray_folder() -> str:
    """Where a Ray that others started keeps its notes."""
    return os.path.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")


LONGEST_PATH = 107
"""Bytes in the path of a socket."""
RAY_NAMES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.0")


def own_ray_folder() -> tuple[str, str]:
    """(folder for the sessions of a Ray of our own, a sentence where it is not the one that TMPDIR names).

    Raises:
        BadConfig: no temporary folder can be written.
    """
    wished = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    why = ""
    for folder in (wished, "/tmp", "/var/tmp", "/dev/shm"):
        place = os.path.join(os.path.abspath(folder), "ray")
        if len(os.fsencode(place)) + RAY_NAMES > LONGEST_PATH:
            wrong = f"its path is too long for the sockets of Ray ({LONGEST_PATH} bytes with their names)"
        else:
            wrong = _unwritable(place)
        if not wrong:
            return place, f"the temporary folder {wished} is not used by Ray: {why}. {place} is" if why else ""
        why = why or wrong
    raise BadConfig(f"no folder for temporary files: {wished}: {why}; /tmp cannot be written either. Set TMPDIR")


def _unwritable(folder: str) -> str:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        return error.strerror or str(error)
    return ""
