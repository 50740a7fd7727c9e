"""One video of an archive: where it lies, what tells that its bytes changed, and which of its frames are looked at."""

import os
import posixpath
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

from fsspec import AbstractFileSystem

MISSING = "missing"
"""Content id of a file that is not there."""
KNOWN = re.compile(r"\d+-(@?)")
"""How a content id begins that a store gave: bytes, then an ETag, or `@` and a time of change."""


class Entry(NamedTuple):
    """A file as a listing tells of it."""

    size_bytes: int
    content: str
    """`<bytes>-<ETag>`, or `<bytes>-@<time of change>` where there is no ETag."""
    hashed: bool = False
    """See `VideoSource.content_hash`."""
    linked: bool = False
    """A symbolic link."""


class Span(NamedTuple):
    """Where a member lies in its tar or zip file."""

    offset: int
    """Of its first byte; in a zip of its local header, behind which it begins."""
    size_bytes: int
    packed_bytes: int
    """In a zip; -1: it lies in a tar, as it is."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a video are looked at. Changes results, so it is part of what names a piece of work."""

    start_s: float | None = None
    """Frames that are shown before are left out; the film is sought, not decoded, up to the key frame before."""
    end_s: float | None = None
    """Frames that are shown then or later are left out."""
    every_s: float | None = None
    """One frame in so many seconds: the first at or after each multiple, counted from `start_s` or the first frame."""
    stride: int = 1
    """One of so many frames, beginning with the first in the range."""
    keyframes: bool = False
    """Only frames that are decoded without others; of folders, all."""

    def __str__(self) -> str:
        kinds = [f"one frame in {self.every_s:g} s"] if self.every_s else []
        kinds += [f"1 of {self.stride} frames"] if self.stride > 1 else []
        kinds += ["key frames"] if self.keyframes else []
        since = [f"from {self.start_s:g} s"] if self.start_s is not None else []
        until = [f"to {self.end_s:g} s"] if self.end_s is not None else []
        return ", ".join([" of ".join(kinds) or "every frame", *since, *until])

    def within(self, start_s: float | None, end_s: float | None) -> "Sampling":
        """With the time range of one video, where it has one."""
        if start_s is None and end_s is None:
            return self
        return replace(
            self,
            start_s=self.start_s if start_s is None else start_s,
            end_s=self.end_s if end_s is None else end_s,
        )


EVERY_FRAME = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource:
    """One video of an archive. There may be millions, so nothing is checked here: what comes from outside was.

    What a worker needs to open it and what may be published are two things. `uri` holds no signature and no key, and
    is what tables, errors and pages show. `address`, where it is set, is what is opened; it stands in the frozen plan,
    which lies in the store beside what it leads to, and in no table, error or log.
    """

    video_id: str
    """Unique in the archive; only ever a value in a table, never a file name."""
    uri: str
    """Local path, `s3://...`, `gs://...` or `http(s)://...` of a file, or of the folder that holds the frames; a member
    of a tar or zip stands behind a `#`. A `file://` URL where the name of the folder or of a frame is no UTF-8, which
    no table can hold; `frames` are quoted likewise then."""
    kind: Literal["film", "frames"]
    content_id: str
    """Changes when the video changes: size and the store's ETag, else size and time of change, or `sha256-...` of the
    bytes. Of a member, that of its tar or zip, `#`, and a digest of its name and place. `missing`: it is not there."""
    size_bytes: int
    """What decoding costs, roughly: shards are balanced by it."""
    content_hash: bool = False
    """`content_id` is made of the bytes alone (an ETag of S3, a sha256), so that the same id elsewhere is the same
    video that was moved. Times of change and the ETags of web servers say nothing of the kind."""
    frames: tuple[str, ...] | None = None
    """Paths below `uri` in playing order; None for a film."""
    listed: bool = False
    """A data set lists exactly these frames, so leaps in their numbers are meant."""
    fps: float | None = None
    """Frames per second that the user gives a folder of frames, which has no clock but time stamps in its names."""
    height: int | None = None
    """Size in pixels that a data set states; masks come out at this size. None: the size of the first frame."""
    width: int | None = None
    address: str | None = field(default=None, repr=False)
    """What is opened where that is not `uri`: a tar or zip, or a URL with its signature."""
    spans: tuple[Span, ...] = ()
    """Of a member of a tar or zip, where the film lies in it, or each of the frames."""
    sampling: Sampling = EVERY_FRAME
    tags: dict[str, str] = field(default_factory=dict)
    """Other columns of its row in a manifest."""
    problem: str | None = None
    """`code: sentence`, why it is not opened at all; a row of the table errors."""

    @property
    def place(self) -> str:
        """What is opened; never to be shown."""
        return self.address or self.uri

    @property
    def frame_names(self) -> tuple[str, ...]:
        """`frames` as the file system knows them."""
        names = self.frames or ()
        if self.spans or not self.uri.startswith("file://"):
            return names
        return tuple(unquote(name, errors="surrogateescape") for name in names)

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        row = {name: getattr(self, name) for name in _FIELDS}
        return (
            row
            | {name: getattr(self.sampling, name) for name in _SAMPLED}
            | {
                "spans": [number for span in self.spans for number in span],
                "frames": None if self.frames is None else list(self.frames),
            }
        )

    def identity(self) -> dict[str, Any]:
        """What changes its result, wherever it lies and whatever it is called: `content_id` says which bytes."""
        own = {name: getattr(self, name) for name in _IDENTITY}
        return own | {name: getattr(self.sampling, name) for name in _SAMPLED}

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "VideoSource":
        """What `row` made; other columns are passed over."""
        spans = row["spans"]
        return cls(
            **{name: row[name] for name in _FIELDS if name not in ("frames", "spans", "tags")},
            frames=None if row["frames"] is None else tuple(row["frames"]),
            spans=tuple(Span(*spans[place : place + 3]) for place in range(0, len(spans), 3)),
            sampling=Sampling(**{name: row[name] for name in _SAMPLED}),
            tags=dict(row["tags"]),
        )


_FIELDS = [each.name for each in fields(VideoSource) if each.name != "sampling"]
_PLACE = frozenset({"video_id", "uri", "address", "spans", "frames", "size_bytes", "tags", "content_hash", "problem"})
_IDENTITY = [name for name in _FIELDS if name not in _PLACE]
_SAMPLED = [each.name for each in fields(Sampling)]


def entry_of(info: dict[str, Any], hashed: bool) -> Entry:
    """What a file system says of a file. `hashed`: its ETags are digests of the bytes."""
    tag = info.get("ETag") or info.get("etag") or ""
    time = info.get("mtime") or info.get("Last-Modified") or ""
    size = info.get("size") or 0
    content = f"{size}-{str(tag).strip(chr(34))}" if tag else f"{size}-@{time}"
    return Entry(size, content, bool(tag) and hashed, bool(info.get("islink")))


def stat_entry(found: os.stat_result, linked: bool = False) -> Entry:
    """The same of a file of this machine."""
    return Entry(found.st_size, f"{found.st_size}-@{found.st_mtime}", False, linked)


def split_member(address: str) -> tuple[str, str | None]:
    """(address of a file, what is meant in it): `a.tar#x/b.mp4`; None where no tar or zip stands before a `#`."""
    found = re.match(r"(?is)(.+?\.(?:tar|zip)(?:\?[^#]*)?)#(.*)", address)
    if not found or ("://" not in address and os.path.lexists(address)):
        return address, None
    return found[1], found[2].strip("/")


def has_changed(content_id: str, now: str) -> bool:
    """Whether a file is another than when it was listed. What two kinds of witness say is not compared."""
    before, after = KNOWN.match(content_id), KNOWN.match(now)
    return bool(before and after) and before[1] == after[1] and content_id != now  # type: ignore[index]


def uri_of(fs: AbstractFileSystem, path: str) -> str:
    """What a person can use elsewhere."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    for scheme in ("s3", "gs"):
        if scheme in protocols:
            return f"{scheme}://{path}"
    return path if is_unicode(path) else quoted(path)


def quoted(path: str) -> str:
    return f"file://{quote(os.fsencode(path))}"


def is_unicode(name: str) -> bool:
    return name.isascii() or re.search("[\ud800-\udfff]", name) is None


def suffix(path: str) -> str:
    return posixpath.splitext(path)[1].removeprefix(".").lower()


def counting(name: str) -> str:
    """Sorts `frame_2` before `frame_10`: behind a mark that sorts first, numbers begin with how long they are."""
    key = re.sub(r"0*([0-9]+)", lambda found: f"\x01{len(found[1]):04}{found[1]}", name)
    return f"{key}\0{name}"


def printable(name: str) -> str:
    """Control characters and bytes that are no UTF-8, which no table can hold, as %XX."""
    if name.isascii() and name.isprintable():
        return name
    name = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"%{ord(found[0]):02X}", name)
    name = re.sub("[\udc80-\udcff]", lambda found: f"%{ord(found[0]) - 0xDC00:02X}", name)
    return re.sub("[\ud800-\udfff]", lambda found: quote(found[0], errors="surrogatepass"), name)


def stays_inside(name: str) -> bool:
    """Whether a relative name leads nowhere but below where it is taken from."""
    return not name.startswith(("/", "\\")) and (".." not in name or ".." not in re.split(r"[/\\]", name))


def is_plain(name: str) -> bool:
    return len(name) <= 512 and name == printable(name) and stays_inside(name)
