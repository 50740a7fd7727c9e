"""Masks that stay in the zip archives of PNG files in which they were published, until one is looked at.

An archive's table of contents is read once, and of each mask only its place is kept. From there a mask is read without
the table, which has an entry for every mask of the archive and takes longer to read than thousands of masks do.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import overload
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
from jaxtyping import Bool
from PIL import Image

from vis_models import masks
from vis_models.data.json_entries import complaint

AGAIN = "Copy the archive again; it may be damaged or cut off."
LOCAL_HEADER = struct.Struct("<26xHH")
"""In front of each file of a zip archive: 26 bytes, then how long its name and its extra field are (APPNOTE 4.3.7)."""


@dataclass(frozen=True, slots=True)
class ArchivedMask(Sequence[bytes | None]):
    """The `rles` of an object in a video of one frame, read and run-length coded each time they are asked for."""

    archive: Path
    name: str
    """Of the PNG, for messages."""
    offset: int
    """Bytes of the archive before the PNG's local header."""
    packed_bytes: int
    deflated: bool
    height: int
    """Of the image, in px, as `width`; the PNG may have another size."""
    width: int

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes | None]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes | None] | None:
        """Raises BadConfig: the archive is not what it was when the data set was read."""
        place = range(1)[index]  # IndexError where there is no such frame
        return self._rle() if isinstance(place, int) else tuple(self._rle() for _ in place)

    def _rle(self) -> bytes:
        return masks.encode(self.read()[None])[0]

    def read(self) -> Bool[np.ndarray, "H W"]:
        """The mask at the image's size, nearest: every pixel that is not 0 belongs to the object."""
        try:
            with self.open() as picture:
                mask = Image.fromarray(np.asarray(picture.convert("L")) > 0)
        except (OSError, ValueError, SyntaxError) as error:
            raise complaint(f"{self.archive}: {self.name}", "a PNG", str(error), AGAIN) from error
        return np.asarray(mask.resize((self.width, self.height), Image.Resampling.NEAREST))

    def open(self) -> Image.Image:
        """The PNG with its header read. Raises BadConfig: there is none."""
        try:
            with self.archive.open("rb") as file:
                file.seek(self.offset)
                name_bytes, extra_bytes = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
                file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
                packed = file.read(self.packed_bytes)
            png = zlib.decompress(packed, -zlib.MAX_WBITS) if self.deflated else packed
            return Image.open(BytesIO(png), formats=("PNG",))
        except (OSError, ValueError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError) as error:
            raise complaint(f"{self.archive}: {self.name}", "a PNG", str(error), AGAIN) from error


class MaskArchive:
    """An archive whose table of contents has been read."""

    def __init__(self, path: Path) -> None:
        """Raises BadConfig: it is no zip archive."""
        self.path = path
        try:
            with ZipFile(path) as opened:  # by name, whatever folder of the archive they are in
                self._files = {info.filename.rsplit("/", 1)[-1]: info for info in opened.infolist()}
        except (OSError, BadZipFile) as error:
            raise complaint(str(path), "a zip archive of masks", str(error), AGAIN) from error

    def size_px(self, name: str) -> tuple[int, int] | None:
        """(height, width) of a PNG; None: it is not in the archive. Raises BadConfig: it is damaged."""
        if name not in self._files:
            return None
        with self.mask(name, (1, 1)).open() as picture:
            return picture.height, picture.width

    def mask(self, name: str, size_px: tuple[int, int]) -> ArchivedMask:
        """A mask that is in the archive, of an image of this (height, width)."""
        info = self._files[name]
        deflated = info.compress_type == ZIP_DEFLATED
        return ArchivedMask(self.path, name, info.header_offset, info.compress_size, deflated, *size_px)
