"""Which frames of a video are looked at: a time range, and of what lies in it all, one in N, one in X seconds."""

import math
from collections.abc import Sequence

from jobs.archives.sources import Sampling
from vis_models.config import BadConfig, BadVideo

ROUNDED_S = 0.001
"""Containers round times to milliseconds: a frame that is early by so little is on time."""


def asked(
    start_s: float | None = None,
    end_s: float | None = None,
    every_s: float | None = None,
    stride: int = 1,
    keyframes: bool = False,
) -> Sampling:
    """What a user wants to see. Raises BadConfig: not to be had at once."""
    if (every_s is not None) + (stride > 1) + keyframes > 1:
        raise BadConfig("expected one of --every-s, --stride and --keyframes, got more than one of them")
    if end_s is not None and end_s <= (start_s or 0):
        raise BadConfig(f"expected an end after the start, got start {start_s or 0:g} s and end {end_s:g} s")
    return Sampling(start_s, end_s, every_s, stride, keyframes)


class Choice:
    """Says of one frame after the other whether it is looked at."""

    def __init__(self, sampling: Sampling) -> None:
        self._start_s = sampling.start_s or 0.0
        self._end_s = float("inf") if sampling.end_s is None else sampling.end_s
        self._every_s, self._stride = sampling.every_s, sampling.stride
        self._since_s = sampling.start_s
        self._due = self._seen = 0

    def over(self, time_s: float | None) -> bool:
        """Whether no frame from this time on is."""
        return time_s is not None and time_s >= self._end_s

    def takes(self, time_s: float | None) -> bool:
        """Called once for each frame, in playing order. `time_s` is None only where nothing asks for it."""
        if time_s is not None and (time_s < self._start_s or time_s >= self._end_s):
            return False
        if self._every_s is None:
            self._seen += 1
            return (self._seen - 1) % self._stride == 0
        assert time_s is not None
        if self._since_s is None:
            self._since_s = time_s
        turn = int((time_s - self._since_s + ROUNDED_S) / self._every_s)
        if turn < self._due:
            return False
        self._due = turn + 1
        return True


def needs_clock(sampling: Sampling) -> bool:
    return bool(sampling.start_s or sampling.every_s or sampling.end_s is not None)


def chosen(sampling: Sampling, times_s: Sequence[float | None]) -> list[int]:
    """The places of the frames of a folder that are looked at."""
    choice = Choice(sampling)
    return [place for place, time_s in enumerate(times_s) if choice.takes(time_s)]


def share_of(sampling: Sampling, frames: int | None, seconds: float | None) -> tuple[int | None, float | None]:
    """(frames, seconds) that are looked at of a film that promises so many."""
    if sampling.keyframes:
        frames = None
    if seconds and (sampling.start_s or sampling.end_s is not None):
        asked_s = max(0.0, min(seconds, sampling.end_s or seconds) - (sampling.start_s or 0.0))
        frames = frames and round(frames * asked_s / seconds)
        seconds = asked_s
    if sampling.every_s and seconds:
        frames = math.ceil(seconds / sampling.every_s)
    return frames and math.ceil(frames / sampling.stride), seconds


def no_clock(uri: str, what: str) -> BadVideo:
    return BadVideo(
        f"{uri} has no clock, and {what} asks for seconds. Give a folder of frames a rate with --frame-folder-fps, or "
        "choose frames by --stride",
        code="no_clock",
    )


def nothing_in_range(uri: str, sampling: Sampling, end_s: float | None) -> BadVideo:
    until = f"it ends after {end_s:.2f} s" if end_s is not None else "it shows none then"
    return BadVideo(
        f"{uri} has no frame in the range that was asked for ({sampling}); {until}. Correct start and end",
        code="empty_range",
    )
