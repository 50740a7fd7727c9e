"""An open video of any kind: its frames, and the clock that they are shown by."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from jobs.archives.bad_videos import bad_video, keeps
from jobs.archives.sources import VideoSource
from vis_models.config import BadVideo
from vis_models.types import VideoInfo

EVEN_S = 0.0025
"""Frames whose distances differ by less are evenly spaced: containers round times to milliseconds."""
SAME_SHAPE = 0.02
"""A frame of another size is stretched to the first one's if their aspects differ by less than this share."""
OUT_OF_ORDER_S = 0.25
"""A frame whose time lies so little before that of the frame before is out of order; further back, a new recording
begins: films joined without care, a camera whose clock was reset."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame at the size that was asked for."""

    index: int
    """From 0, without holes: of those that are looked at."""
    time_s: float | None
    """When it is shown in the film; None without a clock."""
    pixels: np.ndarray
    """UInt8 (H, W, 3), RGB."""


class Clock:
    """Watches the times of a video's frames go by, and keeps them from running backwards."""

    def __init__(self, fps: Fraction | None) -> None:
        self.last_s: float | None = None
        """Time of the newest frame."""
        self.breaks = 0
        """Times that the source's stamps began anew; the offset to the frame before is carried on."""
        self._shown_s = float(1 / fps) if fps else 0.0
        self._offset_s = 0.0
        self._shortest_s, self._longest_s = float("inf"), 0.0

    def tick(self, stamp_s: float) -> float:
        """The time of the next frame in seconds, never before that of the frame before."""
        time_s = max(0.0, stamp_s + self._offset_s)
        if self.last_s is not None:
            if time_s < self.last_s - OUT_OF_ORDER_S:
                self._offset_s += self.last_s + self._shown_s - time_s
                time_s = self.last_s + self._shown_s
                self.breaks += 1
            time_s = max(time_s, self.last_s)
            self._shortest_s = min(self._shortest_s, time_s - self.last_s)
            self._longest_s = max(self._longest_s, time_s - self.last_s)
        self.last_s = time_s
        return time_s

    @property
    def end_s(self) -> float | None:
        return None if self.last_s is None else self.last_s + self._shown_s

    @property
    def uneven(self) -> bool:
        return self._longest_s - self._shortest_s > EVEN_S


class Video:
    """An open video whose first frame was decoded. `frames` can be walked once."""

    container: str
    codec: str
    stream: int | None = None
    """Index of the stream that is read, where there was a choice."""
    fps: Fraction | None
    clock: Clock
    decoded = 0
    """Frames so far, with those that were not looked at."""

    def __init__(self, source: VideoSource, height: int, width: int) -> None:
        self.source = source
        self.info = VideoInfo(source.video_id, source.height or height, source.width or width)

    def frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        """The frames at size (height, width) in playing order.

        Raises:
            BadVideo: after the last good frame, when more should have come; `frames_kept` counts those given.
        """
        kept = 0
        try:
            for frame in self._frames(size):
                kept += 1
                yield frame
        except Exception as error:
            raise bad_video(error, self.source, kept) from error

    def _frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        raise NotImplementedError

    def promised(self) -> tuple[int | None, float | None]:
        """(frames, seconds) that the video will have if its header tells the truth; None: it says nothing."""
        raise NotImplementedError

    def _check_shape(self, height: int, width: int, kept: int) -> None:
        shape, own = width / height, self.info.width / self.info.height
        if abs(shape / own - 1) > SAME_SHAPE:
            raise BadVideo(
                f"frame {kept} of {self.source.uri} is {width}x{height} px, expected the shape of "
                f"{self.info.width}x{self.info.height} px. {keeps(kept)}",
                code="size_changed",
                frames_kept=kept,
            )


def sane(rate: Fraction | None) -> Fraction | None:
    """A frame rate that fits its columns, or None."""
    if rate is None or not 0 < rate < 100_000 or max(rate.numerator, rate.denominator) >= 2**31:
        return None
    return rate
