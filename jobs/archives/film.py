"""A file with a video stream, decoded by FFmpeg.

What real files teach: a header promises sizes and counts that are not there, so nothing is allocated from it and a
video counts as opened when its first frame was decoded; presentation times are the truth, rates are hearsay.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from jobs.archives.bad_videos import AGAIN, keeps, known_impostor, words
from jobs.archives.sampling import Choice, needs_clock, no_clock, nothing_in_range, share_of
from jobs.archives.sources import VideoSource
from jobs.archives.video import Clock, DecodedFrame, Video, sane
from vis_models.config import BadVideo

# Only real containers and bare streams: a playlist named .mp4 must not make FFmpeg open other files or addresses.
FORMATS = "mov,matroska,avi,gif,flv,asf,ogg,ivf,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,av1,wav,mp3,flac,aac"
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Of a frame of a film, as Pillow has it for images: a decoder would allocate what a damaged header says."""
PICTURES = frozenset({"bmp", "gif", "mjpeg", "png", "tiff", "webp"})
"""Codecs of cover pictures, which are no film where a stream of another codec is one."""
SEEK_EARLIER_S = (0.0, 10.0, 60.0)
"""How far before the start a film is sought, one after the other, until a key frame comes early enough."""
SEEK_FRAMES = 300
"""Frames among which a key frame must come."""


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
        self.fps = sane(self._stream.average_rate if timed else self._stream.guessed_rate)
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
                f"{words(error)}. {keeps(kept)}",
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
                f"{self._uri} ends after {end_s:.2f} s, expected {promised_s:.2f} s as its header says. {keeps(kept)}",
                code="ends_early",
                frames_kept=kept,
            )


def film_of(source: VideoSource, opened: Callable[[], Any]) -> "Film":
    try:
        return Film(source, opened())
    except _Lost:
        return Film(source, opened(), seek=False)


@contextmanager
def film_container(source: VideoSource, file: BinaryIO, path: str | None) -> Iterator[Any]:
    """`path`: of a file that FFmpeg reads itself."""
    reason = known_impostor(file.read(200))
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
            f"{source.uri} cannot be opened as a video ({words(error)}), expected a film such as MP4 or WebM. {AGAIN}",
            code="not_a_video",
        ) from error
    with container:
        yield container


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


def _promised_s(stream: Any) -> float | None:
    """How long the header says the video stream is."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None
