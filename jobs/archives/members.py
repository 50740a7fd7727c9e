"""Members of tar and zip files, in place: found by the index, opened by where they lie, never unpacked into a folder.

A tar has a header before each member and no list of them, so its headers are walked with one small read each; a zip has
a directory at its end. What such a file says of itself is not believed: names that lead out of it, links, devices,
sizes that cannot be, and bombs are named and left closed.
"""

import io
import os
import re
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from jobs.archives.sources import Span, stays_inside, suffix
from vis_models.config import BadVideo

KINDS = frozenset({"tar", "zip"})
PACKED_TARS = frozenset({"tgz", "tbz", "tbz2", "txz", "tzst"})
PACKINGS = frozenset({"gz", "bz2", "xz", "zst"})
TAR_BLOCK = 512
WALK_BLOCK = 64 * 1024
"""Bytes that are read at once where only headers are wanted."""
LARGEST_READ = 256 * 2**20
"""Of an index: a header that wants more is no header."""
LARGEST_RATIO = 200
LARGEST_UNSUSPICIOUS = 64 * 2**20
"""A member that grows beyond this, and by more than the ratio, is taken for a bomb: films are packed already."""
LARGEST_PACKED = 16 * 2**30
"""A packed film must be inflated to be sought in; larger ones are refused."""
LARGEST_IMAGE = 512 * 2**20
IN_MEMORY = 64 * 2**20
"""A packed film that is larger is inflated into a nameless temporary file."""
ODD_INDEX = (
    tarfile.TarError, zipfile.BadZipFile, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError,
    RecursionError, MemoryError, struct.error,
)  # fmt: skip
"""What the readers of Python's library raise for bytes that are no index; none of what disks and networks raise."""
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
STORED, DEFLATED, ENCRYPTED = 0, 8, 1


class Member(NamedTuple):
    """A file inside."""

    name: str
    span: Span
    mark: str = ""
    """Tells more of its bytes: the CRC that a zip knows."""
    problem: str | None = None
    """`code: what is wrong with it`; None: it can be opened."""


class Index(NamedTuple):
    """What a tar or zip holds."""

    members: list[Member]
    problem: str | None = None
    """`code: why there may be more`, where it is damaged."""
    replaced: list[str] = []  # noqa: RUF012
    """Members that a later one of the same name takes the place of."""


def is_packed_tar(path: str) -> bool:
    """A tar that is compressed as a whole, so that nothing in it can be found without reading all before it."""
    kind = suffix(path)
    return kind in PACKED_TARS or (kind in PACKINGS and suffix(path[: -len(kind) - 1]) == "tar")


def read_index(file: BinaryIO, kind: str, size_bytes: int) -> Index:
    """Headers only. A damaged index is told in it, with what was found before the damage.

    Args:
        kind: `tar` or `zip`.
    """
    index = (_tar if kind == "tar" else _zip)(_Wary(file), size_bytes)
    latest = {member.name: member for member in index.members}
    if len(latest) == len(index.members):
        return index
    return index._replace(
        members=list(latest.values()),
        replaced=[member.name for member in index.members if latest[member.name] is not member],
    )


class _Wary:
    """A file whose reader may not ask for more than an index can need, nor turn back for ever."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.close = file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_READ:
            raise ValueError(f"its index wants {size} bytes at once")
        return self._file.read(LARGEST_READ if size < 0 else size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:
            raise ValueError("its index points before its beginning")
        return self._file.seek(offset, whence)

    def seekable(self) -> bool:
        return True


def _tar(file: Any, size_bytes: int) -> Index:
    members: list[Member] = []
    at = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", errorlevel=0) as tar:
            tar.members = _Forgetful()  # type: ignore[attr-defined]
            while info := tar.next():
                if info.offset < at or info.size < 0:
                    raise tarfile.ReadError("a header points back")
                at = tar.offset
                if info.isdir():
                    continue
                end = info.offset_data + info.size
                if info.isreg() and not info.issparse() and end > size_bytes:
                    members.append(_tar_member(info, "cut_off: its archive ends in the middle of it"))
                    return Index(members, _cut(members[:-1], size_bytes))
                members.append(_tar_member(info))
            at = tar.offset
    except ODD_INDEX as error:
        if not members and at == 0:
            return Index([], f"damaged_archive: no tar ({error})")
    file.seek(at)
    rest = file.read(TAR_BLOCK)  # zeros, where it is whole
    if at > size_bytes or len(rest) < TAR_BLOCK:
        return Index(members, _cut(members, size_bytes))
    if rest.strip(b"\0"):
        return Index(members, f"damaged_archive: byte {at} is no header; the {len(members)} members before it are read")
    return Index(members)


class _Forgetful(list):  # type: ignore[type-arg]
    """tarfile keeps every header that it walked; `next` wants only to append."""

    def append(self, _: Any) -> None:
        pass


def _cut(members: list[Member], size_bytes: int) -> str:
    return f"cut_off: it ends after {size_bytes} bytes; the {len(members)} members before the cut are read"


def _tar_member(info: tarfile.TarInfo, problem: str | None = None) -> Member:
    name = _relative(info.name)
    span = Span(info.offset_data, info.size, -1)
    if not is_inside(name):
        problem = OUTSIDE
    elif info.issym() or info.islnk():
        problem = f"link_member: it is a {'symbolic' if info.issym() else 'hard'} link, which is not followed"
    elif not info.isreg():
        problem = "not_a_file: it is a device or pipe, expected a regular file"
    elif info.issparse():
        problem = "unknown_packing: its holes are left out of the archive (a sparse file); copy it there whole"
    return Member(name, span, problem=problem)


OUTSIDE = "unsafe_member: its name leads out of the archive, expected a relative one without `..`"


def is_inside(name: str) -> bool:
    """Whether it would lie in the folder that the archive is unpacked into."""
    return stays_inside(name) and not re.match(r"[A-Za-z]:[/\\]", name)


def _relative(name: str) -> str:
    parts = name.split("/")
    return "/".join(part for place, part in enumerate(parts) if part != "." and (part or place == 0))


def _zip(file: Any, size_bytes: int) -> Index:
    try:
        with zipfile.ZipFile(file) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (*ODD_INDEX, NotImplementedError) as error:
        return Index([], f"damaged_archive: no zip, or cut off: the list of its members at its end is gone ({error})")
    if sum(info.compress_size for info in infos) > size_bytes:
        return Index([], "bomb: its members lie over one another, so that it holds more than its bytes; left closed")
    return Index([_zip_member(info, size_bytes) for info in infos])


def _zip_member(info: zipfile.ZipInfo, size_bytes: int) -> Member:
    name = _relative(info.filename if "/" in info.filename else info.filename.replace("\\", "/"))
    grows = info.file_size > LARGEST_UNSUSPICIOUS and info.file_size > LARGEST_RATIO * max(1, info.compress_size)
    problem = None
    if not is_inside(name):
        problem = OUTSIDE
    elif stat.S_ISLNK(info.external_attr >> 16):
        problem = "link_member: it is a symbolic link, which is not followed"
    elif info.flag_bits & ENCRYPTED:
        problem = "encrypted: it is encrypted, and there is no place for a password; pack it without"
    elif info.compress_type not in (STORED, DEFLATED):
        problem = f"unknown_packing: it is packed by method {info.compress_type}, expected stored or deflated"
    elif info.compress_type == DEFLATED and (grows or info.file_size > LARGEST_PACKED):
        problem = f"bomb: {info.compress_size} bytes would become {info.file_size}; store it without packing"
    elif not 0 <= info.header_offset <= size_bytes - info.compress_size:
        problem = "cut_off: its archive ends in the middle of it, or before"
    span = Span(info.header_offset, info.file_size, info.compress_size)
    return Member(name, span, mark=f"{info.CRC:08x}", problem=problem)


# Opening


def open_member(file: BinaryIO, span: Span, scratch: Path, closing: ExitStack) -> BinaryIO:
    """A member as a file of its own, in which can be sought. `scratch`: where a large packed film is inflated.

    Raises BadVideo: it is not what the index said.
    """
    start, packed = _data(file, span)
    if not packed:
        return io.BufferedReader(Part(file, start, span.size_bytes))
    folder = scratch.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    inflated = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(folder))  # noqa: SIM115
    closing.push(inflated)
    for piece in _inflate(Part(file, start, span.packed_bytes), span.size_bytes):
        inflated.write(piece)
    inflated.seek(0)
    return cast(BinaryIO, inflated)


def read_member(file: BinaryIO, span: Span) -> bytes:
    """The bytes of an image. Raises BadVideo: it is not what the index said."""
    if span.size_bytes > LARGEST_IMAGE:
        raise BadVideo(f"is said to hold {span.size_bytes} bytes, expected an image", code="bomb")
    start, packed = _data(file, span)
    if packed:
        return b"".join(_inflate(Part(file, start, span.packed_bytes), span.size_bytes))
    file.seek(start)
    return file.read(span.size_bytes)


def _data(file: BinaryIO, span: Span) -> tuple[int, bool]:
    """(where the bytes of a member begin, whether they are packed)."""
    if span.packed_bytes < 0:
        return span.offset, False
    file.seek(span.offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise BadVideo("does not begin where the archive's index says", code="damaged_archive")
    _, _, flags, method, *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    if flags & ENCRYPTED or method not in (STORED, DEFLATED):
        raise BadVideo("is encrypted or packed in another way than the archive's index says", code="damaged_archive")
    return span.offset + LOCAL_HEADER.size + name_bytes + extra_bytes, method == DEFLATED


def _inflate(file: "Part", size_bytes: int) -> Iterator[bytes]:
    """Never more than `size_bytes`."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left = size_bytes
    try:
        while not inflater.eof and (piece := inflater.unconsumed_tail or file.read(2**20)):
            data = inflater.decompress(piece, left + 1 if left < 2**20 else 2**20)
            left -= len(data)
            if left < 0:
                raise BadVideo(f"inflates to more than the {size_bytes} bytes that it states", code="bomb")
            yield data
    except zlib.error as error:
        raise BadVideo(f"is packed and damaged ({error})", code="damaged_archive") from error


class Part(io.RawIOBase):
    """A stretch of a file, as a file."""

    def __init__(self, file: BinaryIO, offset: int, size_bytes: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
