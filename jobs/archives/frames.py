"""A video -> its frames with their times, decoded and resized where they are used.

What real files teach: a header promises sizes and counts that are not there, so nothing is allocated from it and a
video counts as opened when its first frame was decoded; presentation times are the truth, rates are hearsay.

Whatever happens inside a video leaves this file as a `BadVideo`, so that it ends that video and no other.
"""

import errno
import io
import os
import re
import stat
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import aiohttp
import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from jobs.archives.archive import VideoSource
from jobs.archives.deadlines import Hung, Task, decoders
from jobs.archives.frame_clocks import exact_rate, gaps, stamps_s
from jobs.store import Store
from vis_models.config import BadVideo
from vis_models.data.pictures import FORMATS as IMAGE_FORMATS
from vis_models.data.pictures import upright_rgb
from vis_models.types import VideoInfo

# Only real containers and bare streams: a playlist named .mp4 must not make FFmpeg open other files or addresses.
FORMATS = "mov,matroska,avi,gif,flv,asf,ogg,ivf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,av1,wav,mp3,flac,aac"
EVEN_S = 0.0025
"""Frames whose distances differ by less are evenly spaced: containers round times to milliseconds."""
SAME_SHAPE = 0.02
"""A frame of another size is stretched to the first one's if their aspects differ by less than this share."""
OUT_OF_ORDER_S = 0.25
"""A frame whose time lies so little before that of the frame before is out of order; further back, a new recording
begins: films joined without care, a camera whose clock was reset."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Of a frame of a film, as Pillow has it for images: a decoder would allocate what a damaged header says."""
PICTURES = frozenset({"bmp", "gif", "mjpeg", "png", "tiff", "webp"})
"""Codecs of cover pictures, which are no film where a stream of another codec is one."""
UNEXPECTED = "unexpected"
"""Code of what nobody thought of: a fault of ours until it is known to be one of the file."""
RETRYABLE = frozenset({"missing", "denied", "unreadable", "timeout"})
"""Codes of errors whose reason lies outside of the file."""


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
            raise _bad_video(error, self.source, kept) from error

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
                f"{self.info.width}x{self.info.height} px. {_kept(kept)}",
                code="size_changed",
                frames_kept=kept,
            )


@contextmanager
def open_video(source: VideoSource, store: Store) -> Iterator[Video]:
    """Opens a video and decodes its first frame.

    Raises:
        BadVideo: whatever happened; here or while its frames are walked.
    """
    with ExitStack() as closing:
        try:
            video = _open(source, store, closing)
        except Exception as error:
            raise _bad_video(error, source, 0) from error
        yield video


def frames_in_time(source: VideoSource, store: Store, size: tuple[int, int]) -> Iterator[DecodedFrame]:
    """The frames of one video for a reader that shows them, none of which may take longer than the settings say.

    Raises:
        BadVideo: as `open_video` and `Video.frames` do, and with the code `timeout`.
    """
    closing = ExitStack()
    kept = 0

    def opened(_: Task[Any]) -> Iterator[DecodedFrame]:
        return closing.enter_context(open_video(source, store)).frames(size)

    with decoders(1, store.settings.decode_timeout_s) as pool:
        try:
            frames = pool.result(pool.submit(opened))

            def decoded(_: Task[Any], held: ExitStack = closing) -> DecodedFrame | None:
                return next(frames, None)  # a thread that hangs holds the video, so that nobody closes it under it

            while frame := pool.result(pool.submit(decoded)):
                kept += 1
                yield frame
        except Hung as hung:
            raise timed_out(source, hung.seconds, kept) from hung
        except BaseException:
            closing.close()
            raise
        closing.close()


def _open(source: VideoSource, store: Store, closing: ExitStack) -> Video:
    fs, path = store.open_source(source.uri)
    if source.kind == "frames":
        return FrameFolder(source, fs, path)
    return Film(source, closing.enter_context(_open_film(source, fs, path)))


class Film(Video):
    """A file with a video stream."""

    def __init__(self, source: VideoSource, container: Any) -> None:
        self._stream = _film_stream(source, container)
        self.stream = self._stream.index if len(container.streams.video) > 1 else None
        self._stream.codec_context.thread_count = 1  # films side by side keep the cores busy, and counts exact
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self._start_s = (container.start_time or 0) / 1_000_000
        self._decoded = container.decode(self._stream)
        self._uri, self._path = source.uri, container.name
        self._first = self._next(0)
        if self._first is None:
            raise BadVideo(
                f"{source.uri} opens and holds no frame (its header promises {self._stream.frames}). {AGAIN}",
                code="no_frames",
            )
        height, width = self._first.height, self._first.width
        turned = _Turn.of(self._first).turned
        super().__init__(source, *((width, height) if turned else (height, width)))
        self.container = container.format.name
        self.codec = self._stream.codec_context.name
        timed = self._first.pts is not None
        self.fps = _sane(self._stream.average_rate if timed else self._stream.guessed_rate)
        self.clock = Clock(self.fps)

    def _frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        height, width = size
        scaler = VideoReformatter()
        frame, self._first = self._first, None
        index = 0
        while frame is not None:
            turn = _Turn.of(frame)
            self._check_shape(*((frame.width, frame.height) if turn.turned else (frame.height, frame.width)), index)
            inner = (height, width) if turn.turned else (width, height)
            pixels = scaler.reformat(frame, *inner, "rgb24", interpolation=Interpolation.BILINEAR).to_ndarray()
            yield DecodedFrame(index, self._time_s(frame, index), turn.upright(pixels))
            index += 1
            frame = self._next(index)
        self._check_length(index)

    def _next(self, kept: int) -> Any:
        """The next decoded frame, or None at the end."""
        try:
            return next(self._decoded, None)
        except (av.FFmpegError, EOFError) as error:
            if _is_read_error(error, self._path):
                raise
            code = "damaged" if kept else "no_frames"
            raise BadVideo(
                f"{self._uri} is damaged after {kept} frames of {self._stream.frames or 'an unknown number'}: "
                f"{_words(error)}. {_kept(kept)}",
                code=code,
                frames_kept=kept,
            ) from error

    def _time_s(self, frame: Any, index: int) -> float | None:
        if frame.pts is not None and frame.time_base:
            return self.clock.tick(float(frame.pts * frame.time_base) - self._start_s)
        return self.clock.tick(float(index / self.fps)) if self.fps else None

    def promised(self) -> tuple[int | None, float | None]:
        seconds = _promised_s(self._stream)
        frames = self._stream.frames or (round(seconds * self.fps) if seconds and self.fps else None)
        return frames, seconds

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

    def __init__(self, source: VideoSource, fs: AbstractFileSystem, path: str) -> None:
        self._fs, self._path = fs, path
        self._names = source.frames or ()
        self._paths = source.frame_names
        self.source = source
        if not self._names:
            raise BadVideo(f"{source.uri} holds no frame, expected images such as jpg or png", code="no_frames")
        self.container = "frames"
        self._first: Image.Image | None = self._read(0)
        super().__init__(source, self._first.height, self._first.width)
        self._size = self._first.size
        self._stamps = None if source.fps else stamps_s(self._paths)
        self.fps = _sane(self._rate())
        self.clock = Clock(self.fps)

    def promised(self) -> tuple[int | None, float | None]:
        frames = len(self._paths)
        return frames, float(frames / self.fps) if self.fps else None

    def _rate(self) -> Fraction | None:
        if self.source.fps:
            return exact_rate(self.source.fps)
        if self._stamps and (seconds := self._stamps[-1] - self._stamps[0]) > 0:
            return exact_rate(float((len(self._stamps) - 1) / seconds))
        return None

    def _time_s(self, index: int) -> float | None:
        if self._stamps:
            return self.clock.tick(float(self._stamps[index] - self._stamps[0]))
        return self.clock.tick(float(index / self.fps)) if self.fps else None

    def _frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
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
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
            yield DecodedFrame(index, self._time_s(index), pixels)
        if not self.source.listed and not self._stamps:
            self._check_numbers()

    def _read(self, index: int) -> Image.Image:
        path = f"{self._path}/{self._paths[index]}"
        try:
            if odd := _no_file(self._fs, path):
                raise self._bad(index, *odd)
            data = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise self._bad(index, "is not there, expected an image", "missing") from error
        except PermissionError as error:
            raise self._bad(index, "may not be read by this user", "denied") from error
        except READ_ERRORS as error:
            raise self._bad(index, f"cannot be read ({_words(error)})", "unreadable") from error
        if reason := _known_impostor(data):
            raise self._bad(index, *reason)
        try:
            image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            stated = (self.source.height, self.source.width)
            rgb = upright_rgb(image, stated if None not in stated else None)  # type: ignore[arg-type]
        except Exception as error:  # a damaged file meets any line of a decoder
            raise self._bad(index, f"is no whole image ({error})", "bad_image") from error
        if index == 0:
            self.codec = (image.format or "unknown").lower()
        return rgb

    def _bad(self, index: int, what: str, code: str) -> BadVideo:
        where = f"{self.source.uri}/{self._names[index]} {what} (frame {index} of {len(self._names)})"
        return BadVideo(f"{where}. {_kept(index)}", code=code, frames_kept=index)

    def _check_numbers(self) -> None:
        """Names that count and leap: frames are missing."""
        usual, places = gaps(self._paths)
        if places:
            before, after = self._names[places[0]], self._names[places[0] + 1]
            raise BadVideo(
                f"{self.source.uri} misses frames in {len(places)} places, first between {before} and {after}; "
                f"expected steps of {usual}. All {len(self._names)} frames that are there were used. {AGAIN}",
                code="frame_gap",
                frames_kept=len(self._names),
            )


READ_ERRORS = (OSError, TimeoutError, aiohttp.ClientError, BotoCoreError, ClientError)
"""What disks, networks and object stores raise; a name that is not there and a refusal are told apart before."""
AGAIN = "If many rows carry this reason, copy the archive again"


def _kept(frames: int) -> str:
    return (
        f"The {frames} frames before it are kept (status partial). {AGAIN}" if frames else f"Nothing is kept. {AGAIN}"
    )


def _bad_video(error: Exception, source: VideoSource, kept: int) -> BadVideo:
    """The one boundary of a video: whatever happened inside it, as a row of the table errors."""
    if isinstance(error, BadVideo):
        return error
    if isinstance(error, FileNotFoundError):
        what, code = "is not there, expected a film. Check the manifest", "missing"
    elif isinstance(error, PermissionError):
        what, code = "may not be read by this user. Change its permissions", "denied"
    elif isinstance(error, READ_ERRORS):
        what, code = f"cannot be read ({type(error).__name__}: {_words(error)}). {_kept(kept)}", "unreadable"
    else:
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}"
        what = f"met what nobody thought of: {type(error).__name__}: {error} ({where}). {_kept(kept)}"
        code = UNEXPECTED
    return BadVideo(f"{source.uri} {what}", code=code, frames_kept=kept)


def timed_out(source: VideoSource, seconds: float, kept: int) -> BadVideo:
    """What ends a video whose decoder, disk or network hangs."""
    return BadVideo(
        f"{source.uri} gave no frame for {seconds:g} s: its decoder, disk or network hangs. {_kept(kept)}. "
        "If it is only slow, raise VIS_DECODE_TIMEOUT_S",
        code="timeout",
        frames_kept=kept,
    )


def _is_read_error(error: BaseException, path: str) -> bool:
    """Whether the disk failed. FFmpeg says EIO of damaged Matroska files, too, so the file is read once more.

    Files of object stores are read by Python, whose errors come through FFmpeg as they are.
    """
    if not (isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE, errno.EACCES)):
        return False
    try:
        with open(path, "rb") as file:
            while file.read(2**20):
                pass
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def _open_film(source: VideoSource, fs: AbstractFileSystem, path: str) -> Iterator[Any]:
    if odd := _no_file(fs, path):
        raise BadVideo(f"{source.uri} {odd[0]}. Leave it out of the archive", code=odd[1])
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
            if _is_read_error(error, path):
                raise
            raise BadVideo(
                f"{source.uri} cannot be opened as a video ({_words(error)}), expected a film such as MP4 or WebM. "
                f"{AGAIN}",
                code="not_a_video",
            ) from error
        with container:
            yield container


def _no_file(fs: AbstractFileSystem, path: str) -> tuple[str, str] | None:
    """(what, code) of a pipe, socket or device, which might give bytes for ever or never."""
    if isinstance(fs, LocalFileSystem) and not stat.S_ISREG(os.stat(path).st_mode):
        return "is a pipe, socket, device or folder, expected a regular file", "not_a_file"
    return None


def _film_stream(source: VideoSource, container: Any) -> Any:
    """The stream that is the film: no cover picture, and among several the first that the file marks as default.

    Raises:
        BadVideo: there is none, or no decoder for it.
    """
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video if not stream.disposition & pictures]
    films = [stream for stream in films if _codec(stream) not in PICTURES] or films
    if not films:
        kinds = ", ".join(stream.type for stream in container.streams) or "none"
        raise BadVideo(
            f"{source.uri} has no video stream, expected one; its streams: {kinds}"
            f"{' (a cover picture)' if container.streams.video else ''}. Leave it out of the archive",
            code="no_video_stream",
        )
    stream = next((stream for stream in films if stream.disposition & Disposition.default), films[0])
    if stream.codec_context is None:
        raise BadVideo(
            f"{source.uri} has a video stream of a codec that FFmpeg has no decoder for. Convert it to H.264, say",
            code="unknown_codec",
        )
    return stream


def _known_impostor(head: bytes) -> tuple[str, str] | None:
    """(what, code) of files that only look like media."""
    if not head:
        return "is 0 bytes, expected an image or a film", "empty_file"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git-LFS pointer, not the file itself: run `git lfs pull` where it was checked out", "lfs_pointer"
    return None


def _codec(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context else ""


@dataclass(frozen=True)
class _Turn:
    """What brings a frame upright: swap rows and columns, then mirror."""

    turned: bool = False
    left_right: bool = False
    up_down: bool = False

    @classmethod
    def of(cls, frame: Any) -> "_Turn":
        """From the display matrix; one that is damaged or oblique counts as none."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
        # (x, y) is shown at (ax + cy, bx + dy)
        if min(abs(a), abs(d)) > 100 * max(abs(b), abs(c)):
            return cls(False, a < 0, d < 0)
        if min(abs(b), abs(c)) > 100 * max(abs(a), abs(d)):
            return cls(True, c < 0, b < 0)
        return cls()

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.swapaxes(0, 1) if self.turned else pixels
        return pixels[:: -1 if self.up_down else 1, :: -1 if self.left_right else 1]


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
