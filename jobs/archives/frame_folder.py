"""A folder of images, one per frame."""

import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from PIL import Image

from jobs.archives.bad_videos import AGAIN, keeps, known_impostor, words
from jobs.archives.frame_clocks import exact_rate, gaps, stamps_s
from jobs.archives.listing import READ_ERRORS
from jobs.archives.sampling import chosen, needs_clock, no_clock, nothing_in_range
from jobs.archives.sources import VideoSource
from jobs.archives.video import Clock, DecodedFrame, Video, sane
from vis_models.config import BadVideo
from vis_models.data.pictures import FORMATS as IMAGE_FORMATS
from vis_models.data.pictures import upright_rgb


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
        self.fps = sane(self._rate())
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
            raise self._bad(place, kept, f"cannot be read ({words(error)})", "unreadable") from error
        if reason := known_impostor(data):
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
        return BadVideo(f"{where}. {keeps(kept)}", code=code, frames_kept=kept)

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
