"""Models that cannot be loaded, or do something to the archive while they are. Workers import them by name."""

import errno
import os
from pathlib import Path
from typing import Any

from tests.jobs import barcode
from vis_models.config import BadConfig


def does_not_fit(folder: Path, device: str, slot_recycling: bool) -> Any:
    raise BadConfig(f"{folder.name} does not fit its card on {device}")


def finds_the_disk_full(folder: Path, device: str, slot_recycling: bool) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/lake/videos.parquet")


def ends_the_process(folder: Path, device: str, slot_recycling: bool) -> Any:
    os._exit(3)


def hides(folder: Path, device: str, slot_recycling: bool, film: str) -> Any:
    """A film is listed and gone when it is played, as where a network drive drops out."""
    Path(film).rename(f"{film}.hidden")
    return barcode.load(folder, device, slot_recycling)
