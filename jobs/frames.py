"""A video -> its frames with their times, decoded and resized where they are used.

What real files teach: a header promises sizes and counts that are not there, so nothing is allocated from it and a
video counts as opened when its first frame was decoded; presentation times are the truth, rates are hearsay.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from jobs.archive import VideoSource
from jobs.store import Store
from vis_models.config import BadVideo
from vis_models.types import VideoInfo

# Only real containers and bare streams: a playlist named .mp4 must not make FFmpeg open other files or addresses.
FORMATS = "mov,matroska,avi,gif,flv,asf,ogg,ivf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,av1,wav,mp3,flac,aac"
EVEN_S = 0.0025
"""Frames whose distances differ by less are evenly spaced: containers round times to milliseconds."""
SAME_SHAPE = 0.02
"""A frame of another size is stretched to the first one's if their aspects differ by less than this share."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame at the size that was asked for."""

    index: int
    """From 0, without holes."""
    time_s: float | None
    """When it is shown; None without a clock."""
    pixels: np.ndarray
    """UInt8 (H, W, 3), RGB."""


class Clock:
    """Watches the times of a video's frames go by."""

    def __init__(self, fps: Fraction | None) -> None:
        self.last_s: float | None = None
        """Time of the newest frame."""
        self._shown_s = 1 / float(fps) if fps else 0.0
        self._shortest_s, self._longest_s = float("inf"), 0.0

    def tick(self, time_s: float) -> float:
        if self.last_s is not None:
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
    fps: Fraction | None
    clock: Clock
    promised_frames: int = 0
    """How many the header says there are, or names of files; 0: it does not say."""

    def __init__(self, source: VideoSource, height: int, width: int) -> None:
        self.source = source
        self.info = VideoInfo(source.video_id, source.height or height, source.width or width)

    def frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        """The frames at size (height, width) in playing order.

        Raises:
            BadVideo: after the last good frame, when more should have come; `frames_kept` counts those given.
        """
        raise NotImplementedError

    def _check_shape(self, height: int, width: int, kept: int) -> None:
        shape, own = width / height, self.info.width / self.info.height
        if abs(shape / own - 1) > SAME_SHAPE:
            raise BadVideo(
                f"frame {kept} of {self.source.uri} is {width}x{height} px, expected the shape of "
                f"{self.info.width}x{self.info.height} px. {_kept(kept)}",
                code="size_changed",
                frames_kept=kept,
            )


@contextmanager
def open_video(source: VideoSource, store: Store, frame_folder_fps: float | None = None) -> Iterator[Video]:
    """Opens a video and decodes its first frame.

    Args:
        frame_folder_fps: gives folders of frames, which have no clock, one.

    Raises:
        BadVideo: it is not there, no video, or not one frame can be decoded; here or while its frames are walked.
    """
    fs, path = store.open_source(source.uri)
    if source.kind == "frames":
        yield FrameFolder(source, fs, path, frame_folder_fps)
    else:
        with _open_film(source, fs, path) as container:
            yield Film(source, container)


class Film(Video):
    """A file with a video stream."""

    def __init__(self, source: VideoSource, container: Any) -> None:
        if not container.streams.video:
            kinds = ", ".join(stream.type for stream in container.streams) or "none"
            raise BadVideo(
                f"{source.uri} has no video stream, expected one; its streams: {kinds}. Leave it out of the archive",
                code="no_video_stream",
            )
        self._stream = container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # films side by side keep the cores busy, and counts exact
        self._start_s = (container.start_time or 0) / 1_000_000
        self._decoded = container.decode(self._stream)
        self._uri = source.uri
        self._first = self._next(0)
        if self._first is None:
            raise BadVideo(
                f"{source.uri} opens and holds no frame (its header promises {self._stream.frames}). {AGAIN}",
                code="no_frames",
            )
        quarters = _quarter_turns(self._first)
        height, width = self._first.height, self._first.width
        super().__init__(source, *((width, height) if quarters % 2 else (height, width)))
        self.container = container.format.name
        self.codec = self._stream.codec_context.name
        timed = self._first.pts is not None
        self.fps = _sane(self._stream.average_rate if timed else self._stream.guessed_rate)
        self.promised_frames = self._stream.frames or round((_promised_s(self._stream) or 0) * float(self.fps or 0))
        self.clock = Clock(self.fps)

    def frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        height, width = size
        scaler = VideoReformatter()
        frame, self._first = self._first, None
        index = 0
        while frame is not None:
            quarters = _quarter_turns(frame)
            turned = bool(quarters % 2)
            self._check_shape(*((frame.width, frame.height) if turned else (frame.height, frame.width)), index)
            inner = (width, height) if not turned else (height, width)
            pixels = scaler.reformat(frame, *inner, "rgb24", interpolation=Interpolation.BILINEAR).to_ndarray()
            yield DecodedFrame(index, self._time_s(frame, index), np.rot90(pixels, quarters))
            index += 1
            frame = self._next(index)
        self._check_length(index)

    def _next(self, kept: int) -> Any:
        """The next decoded frame, or None at the end."""
        try:
            return next(self._decoded, None)
        except (av.FFmpegError, EOFError) as error:
            code = "damaged" if kept else "no_frames"
            raise BadVideo(
                f"{self._uri} is damaged after {kept} frames of {self._stream.frames or 'an unknown number'}: "
                f"{_words(error)}. {_kept(kept)}",
                code=code,
                frames_kept=kept,
            ) from error

    def _time_s(self, frame: Any, index: int) -> float | None:
        if frame.pts is not None and frame.time_base:
            return self.clock.tick(max(0.0, float(frame.pts * frame.time_base) - self._start_s))
        return self.clock.tick(index / float(self.fps)) if self.fps else None

    def _check_length(self, kept: int) -> None:
        """A file cut between two frames ends without an error; its header knows better."""
        promised_s, end_s = _promised_s(self._stream), self.clock.end_s
        if promised_s and end_s is not None and end_s < 0.95 * promised_s - 0.5:
            raise BadVideo(
                f"{self._uri} ends after {end_s:.2f} s, expected {promised_s:.2f} s as its header says. {_kept(kept)}",
                code="ends_early",
                frames_kept=kept,
            )


class FrameFolder(Video):
    """A folder of images, one per frame."""

    def __init__(self, source: VideoSource, fs: AbstractFileSystem, path: str, fps: float | None) -> None:
        self._fs, self._path = fs, path
        self._names = source.frames or ()
        self.source = source
        if not self._names:
            raise BadVideo(f"{source.uri} holds no frame, expected jpg or png files", code="no_frames")
        self._first: Image.Image | None = self._read(0)
        super().__init__(source, self._first.height, self._first.width)
        self._size = self._first.size
        self.promised_frames = len(self._names)
        self.container, self.codec = "frames", (self._first.format or "unknown").lower()
        self.fps = _sane(Fraction(fps).limit_denominator(1001)) if fps else None
        self.clock = Clock(self.fps)

    def frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        height, width = size
        for index in range(len(self._names)):
            image = self._first or self._read(index)
            self._first = None
            if image.size != self._size:
                raise self._bad(
                    index,
                    f"is {image.width}x{image.height} px, expected {self._size[0]}x{self._size[1]} px as before",
                    "size_changed",
                )
            self._check_shape(image.height, image.width, index)
            pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
            yield DecodedFrame(index, self.clock.tick(index / float(self.fps)) if self.fps else None, pixels)
        if not self.source.listed:
            self._check_numbers()

    def _read(self, index: int) -> Image.Image:
        try:
            data = self._fs.cat_file(f"{self._path}/{self._names[index]}")
        except FileNotFoundError as error:
            raise self._bad(index, "is not there, expected an image", "missing") from error
        except PermissionError as error:
            raise self._bad(index, "may not be read by this user", "denied") from error
        if reason := _known_impostor(data):
            raise self._bad(index, *reason)
        try:
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._bad(index, f"is no whole JPEG or PNG image ({error})", "bad_image") from error
        return image

    def _bad(self, index: int, what: str, code: str) -> BadVideo:
        where = f"{self.source.uri}/{self._names[index]} {what} (frame {index} of {len(self._names)})"
        return BadVideo(f"{where}. {_kept(index)}", code=code, frames_kept=index)

    def _check_numbers(self) -> None:
        """Names count; where one leaps further than the others usually do, frames are missing."""
        numbers = [int(found[-1]) for name in self._names if (found := re.findall("[0-9]+", name))]
        steps = [after - before for before, after in pairwise(numbers)]
        usual = max(set(steps), key=steps.count, default=0)
        leaps = [place for place, step in enumerate(steps) if step > usual]
        if len(numbers) == len(self._names) and leaps:
            before, after = self._names[leaps[0]], self._names[leaps[0] + 1]
            raise BadVideo(
                f"{self.source.uri} misses frames in {len(leaps)} places, first between {before} and {after}; expected "
                f"steps of {usual}. All {len(numbers)} frames that are there were used. {AGAIN}",
                code="frame_gap",
                frames_kept=len(numbers),
            )


AGAIN = "If many rows carry this reason, copy the archive again"


def _kept(frames: int) -> str:
    return (
        f"The {frames} frames before it are kept (status partial). {AGAIN}" if frames else f"Nothing is kept. {AGAIN}"
    )


@contextmanager
def _open_film(source: VideoSource, fs: AbstractFileSystem, path: str) -> Iterator[Any]:
    try:
        with fs.open(path, "rb") as file:
            reason = _known_impostor(file.read(200))
            if reason:
                raise BadVideo(f"{source.uri} {reason[0]}. {AGAIN}", code=reason[1])
            file.seek(0)
            target = path if isinstance(fs, LocalFileSystem) else file
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
            try:
                container = av.open(target, options=options, metadata_errors="replace")
            except (av.FFmpegError, EOFError) as error:
                raise BadVideo(
                    f"{source.uri} cannot be opened as a video ({_words(error)}), expected a film such as MP4 or WebM. "
                    f"{AGAIN}",
                    code="not_a_video",
                ) from error
            with container:
                yield container
    except FileNotFoundError as error:
        raise BadVideo(f"{source.uri} is not there, expected a film. Check the manifest", code="missing") from error
    except PermissionError as error:
        raise BadVideo(f"{source.uri} may not be read by this user. Change its permissions", code="denied") from error


def _known_impostor(head: bytes) -> tuple[str, str] | None:
    """(what, code) of files that only look like media."""
    if not head:
        return "is 0 bytes, expected an image or a film", "empty_file"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git-LFS pointer, not the file itself: run `git lfs pull` where it was checked out", "lfs_pointer"
    return None


def _quarter_turns(frame: Any) -> int:
    """Counter-clockwise quarter turns that show the frame upright; broken display matrices count as none."""
    degrees = frame.rotation
    return degrees // 90 % 4 if abs(degrees) <= 360 and degrees % 90 == 0 else 0


def _sane(rate: Fraction | None) -> Fraction | None:
    """A frame rate that fits its columns, or None."""
    if rate is None or not 0 < rate < 100_000 or max(rate.numerator, rate.denominator) >= 2**31:
        return None
    return rate


def _promised_s(stream: Any) -> float | None:
    """How long the header says the video stream is."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
