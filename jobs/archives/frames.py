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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from jobs.archives.deadlines import Hung, Task, decoders
from jobs.archives.frame_clocks import exact_rate, gaps, stamps_s
from jobs.archives.listing import READ_ERRORS, entry_at, open_seekable
from jobs.archives.members import open_member, read_member
from jobs.archives.sampling import Choice, chosen, needs_clock, no_clock, nothing_in_range, share_of
from jobs.archives.sources import VideoSource, has_changed
from jobs.settings import without_signature
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
SEEK_EARLIER_S = (0.0, 10.0, 60.0)
"""How far before the start a film is sought, one after the other, until a key frame comes early enough."""
SEEK_FRAMES = 300
"""Frames among which a key frame must come."""
UNEXPECTED = "unexpected"
"""Code of what nobody thought of: a fault of ours until it is known to be one of the file."""
RETRYABLE = frozenset({"missing", "denied", "unreadable", "timeout", "changed"})
"""Codes of errors whose reason lies outside of the file."""


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
    shown = source if source.spans else replace(source, content_id="")  # a film that was touched is shown, too

    def opened(_: Task[Any]) -> Iterator[DecodedFrame]:
        return closing.enter_context(open_video(shown, store)).frames(size)

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
    if source.problem:
        code, _, why = source.problem.partition(": ")
        raise BadVideo(f"{why}. {REMEDIES.get(code, AGAIN)}", code=code)
    fs, path = store.open_source(source.place)
    if source.spans:
        archive = closing.enter_context(open_seekable(fs, path))
        _check_unchanged(source, fs, path, archive)
        if source.kind == "frames":
            return FrameFolder(source, lambda place: read_member(archive, source.spans[place]))
        try:
            film = open_member(archive, source.spans[0], store.settings.scratch, closing)
        except BadVideo as bad:
            raise BadVideo(f"{source.uri} {bad}. {REMEDIES.get(bad.code, AGAIN)}", code=bad.code) from bad
        return _film(source, lambda: closing.enter_context(_opened(source, film, None)))
    if source.kind == "frames":
        return FrameFolder(source, _reader(source, fs, path))
    return _film(source, lambda: closing.enter_context(_open_film(source, fs, path, store.settings.scratch)))


def _film(source: VideoSource, opened: Callable[[], Any]) -> "Film":
    try:
        return Film(source, opened())
    except _Lost:
        return Film(source, opened(), seek=False)


def _check_unchanged(source: VideoSource, fs: AbstractFileSystem, path: str, file: Any) -> None:
    """Raises BadVideo: it is no longer what was listed, so that what is seen would stand under a wrong name."""
    before = source.content_id.rpartition("#")[0] if source.spans else source.content_id
    now = entry_at(fs, path, getattr(file, "details", None))
    if now and has_changed(before, now.content):
        raise BadVideo(
            f"{source.uri} changed since it was listed (then {before}, now {now.content}). Nothing is kept; the same "
            "command again lists it anew",
            code="changed",
        )


def _reader(source: VideoSource, fs: AbstractFileSystem, folder: str) -> Callable[[int], bytes]:
    """Reads the frames of a folder by their places."""
    names = source.frame_names

    def read(place: int) -> bytes:
        path = f"{folder}/{names[place]}"
        if odd := _no_file(fs, path):
            raise BadVideo(odd[0], code=odd[1])
        return fs.cat_file(path)  # type: ignore[no-any-return]

    return read


class _Lost(Exception):
    """A film that does not come back to the place that it was sought to, and must be opened anew."""


class Film(Video):
    """A file with a video stream.

    Args:
        seek: go to the key frame before the range that is asked for, instead of decoding all before it.

    Raises:
        _Lost: it was sought in vain.
    """

    def __init__(self, source: VideoSource, container: Any, seek: bool = True) -> None:
        self._container = container
        self._stream = _film_stream(source, container)
        self.stream = self._stream.index if len(container.streams.video) > 1 else None
        self._stream.codec_context.thread_count = 1  # films side by side keep the cores busy, and counts exact
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        if source.sampling.keyframes:
            self._stream.codec_context.skip_frame = "NONKEY"
        self._start_s = (container.start_time or 0) / 1_000_000
        self._frames_decoded = container.decode(self._stream)
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
        if not timed and source.sampling.keyframes:
            self.fps = None  # it is not known how many frames lie between
        self.clock = Clock(self.fps)
        if needs_clock(source.sampling) and not timed and not self.fps:
            raise no_clock(source.uri, str(source.sampling))
        if seek and timed and source.sampling.start_s:
            self._seek(source.sampling.start_s)

    def _seek(self, start_s: float) -> None:
        """Makes the last key frame at or before this time the first frame.

        An index may count times of decoding, and leading frames of a group need the group before: what counts is that
        the key frame itself comes no later.
        """
        first_s = self._stamp_s(self._first)
        for earlier_s in SEEK_EARLIER_S:
            if start_s - earlier_s <= first_s:
                break
            try:
                ticks = int((start_s - earlier_s + self._start_s) / self._stream.time_base)
                self._container.seek(ticks, stream=self._stream, backward=True)
                self._frames_decoded = self._container.decode(self._stream)
                frames = islice(self._frames_decoded, SEEK_FRAMES)
                frame = next((frame for frame in frames if frame.key_frame and frame.pts is not None), None)
            except (av.FFmpegError, EOFError):
                frame = None
            if frame and self._stamp_s(frame) <= start_s:
                self._first = frame
                return
        if start_s > first_s:
            raise _Lost

    def _stamp_s(self, frame: Any) -> float:
        return float(frame.pts * frame.time_base) - self._start_s

    def _frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        height, width = size
        scaler = VideoReformatter()
        choice = Choice(self.source.sampling)
        frame, self._first = self._first, None
        index = 0
        while frame is not None:
            time_s = self._time_s(frame, self.decoded)
            if choice.over(time_s):
                break
            taken = choice.takes(time_s)
            turn = _Turn.of(frame)
            if taken:
                self._check_shape(*((frame.width, frame.height) if turn.turned else (frame.height, frame.width)), index)
            self.decoded += 1
            if taken:
                inner = (height, width) if turn.turned else (width, height)
                pixels = scaler.reformat(frame, *inner, "rgb24", interpolation=Interpolation.BILINEAR).to_ndarray()
                yield DecodedFrame(index, time_s, turn.upright(pixels))
                index += 1
            frame = self._next(index)
        if frame is None and not self.source.sampling.keyframes:
            self._check_length(index)
        if index == 0:
            raise nothing_in_range(self._uri, self.source.sampling, self.clock.end_s if frame is None else None)

    def _next(self, kept: int) -> Any:
        """The next decoded frame, or None at the end."""
        try:
            return next(self._frames_decoded, None)
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
            return self.clock.tick(self._stamp_s(frame))
        return self.clock.tick(float(index / self.fps)) if self.fps else None

    def promised(self) -> tuple[int | None, float | None]:
        seconds = _promised_s(self._stream)
        frames = self._stream.frames or (round(seconds * self.fps) if seconds and self.fps else None)
        return share_of(self.source.sampling, frames, seconds)

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
    """A folder of images, one per frame.

    Args:
        read: the bytes of the frame at a place.
    """

    def __init__(self, source: VideoSource, read: Callable[[int], bytes]) -> None:
        self._bytes = read
        self._names = source.frames or ()
        self._paths = source.frame_names
        self.source = source
        if not self._names:
            raise BadVideo(f"{source.uri} holds no frame, expected images such as jpg or png", code="no_frames")
        self.container = "frames"
        self._stamps = None if source.fps else stamps_s(self._paths)
        self.fps = _sane(self._rate())
        times_s = [self._stamp_s(place) for place in range(len(self._names))]
        if needs_clock(source.sampling) and times_s[0] is None:
            raise no_clock(source.uri, str(source.sampling))
        self._places = chosen(source.sampling, times_s)
        if not self._places:
            raise nothing_in_range(source.uri, source.sampling, times_s[-1])
        self._first: Image.Image | None = self._read(self._places[0], 0)
        super().__init__(source, self._first.height, self._first.width)
        self._size = self._first.size
        self.clock = Clock(self.fps)

    def promised(self) -> tuple[int | None, float | None]:
        return len(self._places), float(len(self._paths) / self.fps) if self.fps else None

    def _rate(self) -> Fraction | None:
        if self.source.fps:
            return exact_rate(self.source.fps)
        if self._stamps and (seconds := self._stamps[-1] - self._stamps[0]) > 0:
            return exact_rate(float((len(self._stamps) - 1) / seconds))
        return None

    def _stamp_s(self, place: int) -> float | None:
        if self._stamps:
            return float(self._stamps[place] - self._stamps[0])
        return float(place / self.fps) if self.fps else None

    def _frames(self, size: tuple[int, int]) -> Iterator[DecodedFrame]:
        height, width = size
        for index, place in enumerate(self._places):
            image = self._first or self._read(place, index)
            self._first = None
            if image.size != self._size:
                raise self._bad(
                    place,
                    index,
                    f"is {image.width}x{image.height} px, expected {self._size[0]}x{self._size[1]} px as before",
                    "size_changed",
                )
            self._check_shape(image.height, image.width, index)
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
            stamp_s = self._stamp_s(place)
            self.decoded += 1
            yield DecodedFrame(index, None if stamp_s is None else self.clock.tick(stamp_s), pixels)
        if not self.source.listed and not self._stamps:
            self._check_numbers()

    def _read(self, place: int, kept: int) -> Image.Image:
        try:
            data = self._bytes(place)
        except BadVideo as bad:
            raise self._bad(place, kept, str(bad), bad.code) from bad
        except FileNotFoundError as error:
            raise self._bad(place, kept, "is not there, expected an image", "missing") from error
        except PermissionError as error:
            raise self._bad(place, kept, "may not be read by this user", "denied") from error
        except READ_ERRORS as error:
            raise self._bad(place, kept, f"cannot be read ({_words(error)})", "unreadable") from error
        if reason := _known_impostor(data):
            raise self._bad(place, kept, *reason)
        try:
            image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            stated = (self.source.height, self.source.width)
            rgb = upright_rgb(image, stated if None not in stated else None)  # type: ignore[arg-type]
        except Exception as error:  # a damaged file meets any line of a decoder
            raise self._bad(place, kept, f"is no whole image ({error})", "bad_image") from error
        if kept == 0:
            self.codec = (image.format or "unknown").lower()
        return rgb

    def _bad(self, place: int, kept: int, what: str, code: str) -> BadVideo:
        where = f"{self.source.uri}/{self._names[place]} {what} (frame {place} of {len(self._names)})"
        return BadVideo(f"{where}. {_kept(kept)}", code=code, frames_kept=kept)

    def _check_numbers(self) -> None:
        """Names that count and leap: frames are missing."""
        usual, places = gaps(self._paths)
        if places:
            before, after = self._names[places[0]], self._names[places[0] + 1]
            raise BadVideo(
                f"{self.source.uri} misses frames in {len(places)} places, first between {before} and {after}; "
                f"expected steps of {usual}. All {len(self._places)} frames that are there were used. {AGAIN}",
                code="frame_gap",
                frames_kept=len(self._places),
            )


AGAIN = "If many rows carry this reason, copy the archive again"
REMEDIES = {
    "link_member": "Pack the file itself in its place",
    "unsafe_member": "Pack it again under a name below the archive",
    "bomb": "If it is meant, unpack it beside the archive",
}
"""Of members of tar and zip files that are whole and not read."""


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
    return BadVideo(f"{source.uri} {without_signature(what)}", code=code, frames_kept=kept)


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
def _open_film(source: VideoSource, fs: AbstractFileSystem, path: str, scratch: Path) -> Iterator[Any]:
    if odd := _no_file(fs, path):
        raise BadVideo(f"{source.uri} {odd[0]}. Leave it out of the archive", code=odd[1])
    with open_seekable(fs, path, scratch=scratch) as file:
        _check_unchanged(source, fs, path, file)
        with _opened(source, file, path if isinstance(fs, LocalFileSystem) else None) as container:
            yield container


@contextmanager
def _opened(source: VideoSource, file: BinaryIO, path: str | None) -> Iterator[Any]:
    """`path`: of a file that FFmpeg reads itself."""
    reason = _known_impostor(file.read(200))
    if reason:
        raise BadVideo(f"{source.uri} {reason[0]}. {AGAIN}", code=reason[1])
    file.seek(0)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(path or file, "r", options=options, metadata_errors="replace")
    except (av.FFmpegError, EOFError) as error:
        if path and _is_read_error(error, path):
            raise
        raise BadVideo(
            f"{source.uri} cannot be opened as a video ({_words(error)}), expected a film such as MP4 or WebM. {AGAIN}",
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
