"""Where a job runs: in the flow's own process today, on a cluster tomorrow.

A flow decides what runs and when; it hands the job and the settings to a launcher and gets a small result back.
"""

import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from jobs.settings import Settings
from vis_models.config import Config

Result = TypeVar("Result")


class LostWorker(RuntimeError):
    """The machine failed, not the job: running the same job again continues it."""


class Launcher(Protocol):
    def launch(self, function: Callable[..., Result], job: Config, settings: Settings, **more: Any) -> Result:
        """`function(job, settings, **more)`, wherever that may be.

        Raises:
            LostWorker: a process or a machine was lost more often than the job itself could make good.
        """
        ...


class LocalLauncher:
    """This process, with the Ray that the job starts on this machine or finds at `settings.ray_address`."""

    def launch(self, function: Callable[..., Result], job: Config, settings: Settings, **more: Any) -> Result:
        try:
            return function(job, settings, **more)
        except Exception as error:
            if _lost(error):
                raise LostWorker(f"{type(error).__name__}: {error}") from error
            raise


def launcher(settings: Settings) -> Launcher:
    return {"local": LocalLauncher}[settings.launcher]()


def _lost(error: Exception) -> bool:
    """Did Ray itself fail, and not the code that it ran? A job without Ray has not imported it."""
    if "ray" not in sys.modules:
        return False
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayError) and not isinstance(error, RayTaskError)
