"""Files on a shelf, a folder or a tar or zip -> the videos among them. The rest is counted."""

import hashlib
import json
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import quote

from fsspec import AbstractFileSystem

from jobs.archives import members
from jobs.archives.frame_clocks import stamps_s
from jobs.archives.listing import READ_ERRORS, entry_at, open_seekable, refusal, side_by_side
from jobs.archives.sources import MISSING, Entry, VideoSource, counting, is_unicode, printable, quoted, suffix, uri_of
from vis_models.config import Config

FILMS = frozenset({
    "264", "265", "3gp", "asf", "avi", "flv", "gif", "h264", "h265", "hevc", "ivf", "m2ts", "m4v", "mkv", "mov", "mp4",
    "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv",
})  # fmt: skip
IMAGES = frozenset({"bmp", "jfif", "jp2", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp"})
SAME_KIND = {"jpeg": "jpg", "jfif": "jpg", "tiff": "tif", "pgm": "ppm"}
UNPACK = "compressed as a whole: unpack it to a .tar"
INDEXES = 16
"""Indexes of tar and zip files that are read side by side."""


class PassedOver(Config):
    """Files of an archive that are not read."""

    why: str
    kind: str
    """The ending of their names."""
    files: int
    first: str
    """Below the archive."""


class Counted:
    """Counts what is passed over on the way."""

    def __init__(self) -> None:
        self._files: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def add(self, name: str, why: str) -> None:
        kind = suffix(name)
        key = why, kind if kind.isalnum() and len(kind) <= 8 else "other"
        self._files[key] += 1
        self._first.setdefault(key, printable(name))

    def rows(self) -> tuple[PassedOver, ...]:
        return tuple(
            PassedOver(why=key[0], kind=key[1], files=files, first=self._first[key])
            for key, files in self._files.most_common()
        )

    def join(self, other: "Counted") -> None:
        self._files.update(other._files)
        self._first = other._first | self._first


class Shelf(Protocol):
    """What holds files: a folder, or a tar or zip."""

    def title(self, name: str) -> str:
        """What a file or folder in it is called in the archive."""

    def leads_to_folder(self, name: str) -> bool:
        """Whether a symbolic link does."""

    def film(self, name: str, entry: Entry) -> VideoSource: ...

    def frames(
        self, folder: str, images: Mapping[str, Entry], order: Sequence[str] | None = None, **more: Any
    ) -> VideoSource:
        """`order`: the images as they are played; None: as their names count, or as the time stamps in them say."""

    def inner(self, packed: Mapping[str, Entry], counted: Counted) -> Iterable[VideoSource]:
        """What the tar and zip files on it hold."""


def group(shelf: Shelf, files: Mapping[str, Entry], counted: Counted, any_name: bool = False) -> Iterator[VideoSource]:
    """Each film is a video; the images of a folder are one, unless films lie beside them (previews, posters).

    With `any_name` files of unknown kind are films too, where no images lie beside them.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    packed: dict[str, Entry] = {}
    for name, each in files.items():
        if name.startswith(".") or "/." in name:
            counted.add(shelf.title(name), "hidden")
        elif each.linked and shelf.leads_to_folder(name):
            counted.add(shelf.title(name), "link to a folder")
        elif suffix(name) in members.KINDS:
            packed[name] = each
        elif members.is_packed_tar(name):
            counted.add(shelf.title(name), UNPACK)
        else:
            folders[posixpath.dirname(name)].append(name)
    for folder, names in folders.items():
        images = [name for name in names if suffix(name) in IMAGES]
        films = [name for name in names if suffix(name) in FILMS or (any_name and not images)]
        frames = [] if films else _one_of_each(images)
        for name in films:
            yield shelf.film(name, files[name])
        if frames:
            yield shelf.frames(folder, {name: files[name] for name in frames})
        if len(films) + len(frames) < len(names):
            for name in sorted(set(names) - set(films) - set(frames)):
                why = "no kind of film or frame"
                if suffix(name) in IMAGES:
                    why = "beside films" if films else "second image kind"
                counted.add(shelf.title(name), why)
    yield from shelf.inner(packed, counted)


def frames_among(files: Mapping[str, Any]) -> dict[str, Entry]:
    """The images of one folder that are a video."""
    return {name: files[name] for name in _one_of_each([name for name in files if suffix(name) in IMAGES])}


def _one_of_each(images: list[str]) -> list[str]:
    """Without the images of rarer kinds, where one name occurs in several kinds: masks or depth beside the frames."""
    if len({posixpath.splitext(path)[0] for path in images}) == len(images):
        return images
    kinds = Counter(SAME_KIND.get(suffix(path), suffix(path)) for path in images)
    usual = max(kinds, key=lambda kind: (kinds[kind], kind == "jpg"))
    return [path for path in images if SAME_KIND.get(suffix(path), suffix(path)) == usual]


def _in_order(images: Iterable[str]) -> list[str]:
    order = sorted(images, key=counting)
    if stamps := stamps_s(order):
        return [path for _, path in sorted(zip(stamps, order, strict=True))]
    return order


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


class Files:
    """Files below a folder or prefix."""

    def __init__(self, fs: AbstractFileSystem, folder: str) -> None:
        self.fs, self.folder = fs, folder.rstrip("/")

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}" if name else self.folder

    def title(self, name: str) -> str:
        return name or posixpath.basename(self.folder)

    def leads_to_folder(self, name: str) -> bool:
        return bool(self.fs.isdir(self.path(name)))

    def film(self, name: str, entry: Entry) -> VideoSource:
        return VideoSource(
            video_id=printable(name),
            uri=uri_of(self.fs, self.path(name)),
            kind="film",
            content_id=entry.content,
            size_bytes=entry.size_bytes,
            content_hash=entry.hashed,
        )

    def frames(
        self, folder: str, images: Mapping[str, Entry], order: Sequence[str] | None = None, **more: Any
    ) -> VideoSource:
        order = _in_order(images) if order is None else order
        names = [posixpath.relpath(name, folder) if folder else name for name in order]
        path = self.path(folder)
        uri = uri_of(self.fs, path)
        if uri.startswith("file://") or not all(map(is_unicode, names)):
            uri, names = quoted(path), [quote(os.fsencode(name)) for name in names]
        return VideoSource(
            video_id=printable(self.title(folder)),
            uri=uri,
            kind="frames",
            content_id=_digest([(posixpath.basename(name), images[name].content) for name in order]),
            size_bytes=sum(image.size_bytes for image in images.values()),
            content_hash=bool(order) and all(images[name].hashed for name in order),
            frames=tuple(names),
            **more,
        )

    def inner(self, packed: Mapping[str, Entry], counted: Counted) -> Iterator[VideoSource]:
        def read(name: str) -> tuple[list[VideoSource], Counted]:
            inside = Counted()
            return members_of(self.fs, self.path(name), name, inside), inside

        for videos, inside in side_by_side(read, packed, INDEXES):
            yield from videos
            counted.join(inside)


class Members:
    """Members of a tar or zip.

    Args:
        uri: of the tar or zip, as it may be shown.
        address: how it is opened.
        title: what it is called in the archive.
        identity: of the tar or zip.
    """

    def __init__(self, uri: str, address: str, title: str, identity: Entry, index: members.Index) -> None:
        self._uri, self._address, self._title, self._identity = uri, address, title, identity
        self._known = {member.name: member for member in index.members}

    def title(self, name: str) -> str:
        return f"{self._title}/{name}" if name else self._title

    def leads_to_folder(self, name: str) -> bool:
        return False

    def film(self, name: str, entry: Entry) -> VideoSource:
        member = self._known[name]
        return self._video(
            name, [name], kind="film", spans=(member.span,), size_bytes=entry.size_bytes, problem=member.problem
        )

    def frames(
        self, folder: str, images: Mapping[str, Entry], order: Sequence[str] | None = None, **more: Any
    ) -> VideoSource:
        order = _in_order(images) if order is None else order
        return self._video(
            folder,
            order,
            kind="frames",
            spans=tuple(self._known[name].span for name in order),
            size_bytes=sum(image.size_bytes for image in images.values()),
            frames=tuple(printable(posixpath.relpath(name, folder) if folder else name) for name in order),
            **more,
        )

    def whole(self, problem: str) -> VideoSource:
        """A row for what is wrong with the archive itself."""
        return self._video("", [], kind="film", size_bytes=0, problem=problem)

    def inner(self, packed: Mapping[str, Entry], counted: Counted) -> Iterator[VideoSource]:
        for name in packed:
            counted.add(self.title(name), "archive inside an archive")
        return iter(())

    def _video(self, name: str, of: Sequence[str], **more: Any) -> VideoSource:
        marks = [(member.name, *member.span, member.mark) for member in map(self._known.__getitem__, of)]
        shown = printable(name)
        inside = name if members.is_inside(name) else name.replace("..", "%2E%2E")
        return VideoSource(
            video_id=printable(self.title(inside)),
            uri=f"{self._uri}#{shown}" if name else self._uri,
            address=self._address,
            content_id=f"{self._identity.content}#{_digest(marks)}",
            content_hash=self._identity.hashed,
            **more,
        )


def members_of(
    fs: AbstractFileSystem,
    path: str,
    title: str,
    counted: Counted,
    wanted: str | None = None,
    shown: str | None = None,
) -> list[VideoSource]:
    """The videos in a tar or zip, found by its index; what is wrong with it or with one of them is a video as well.

    Args:
        title: what the file is called in the archive.
        wanted: one member, or a folder inside; None or empty: all.
        shown: its address without a signature.
    """
    uri = shown or uri_of(fs, path)
    identity, index = Entry(0, MISSING), members.Index([], "missing: it is not there, expected a tar or zip")
    try:
        if seen := entry_at(fs, path):
            identity = seen
            with open_seekable(fs, path, members.WALK_BLOCK) as file:
                index = members.read_index(file, suffix(path.partition("?")[0]), identity.size_bytes)
    except READ_ERRORS as error:
        index = members.Index([], refusal(error))
    shelf = Members(uri, uri_of(fs, path), title, identity, index)
    files: dict[str, Entry] = {}
    videos: list[VideoSource] = []
    for member in index.members:
        if wanted and member.name != wanted and not member.name.startswith(f"{wanted}/"):
            continue
        entry = Entry(member.span.size_bytes, "")
        if member.problem is None:
            files[member.name] = entry
        elif suffix(member.name) in FILMS:
            videos.append(shelf.film(member.name, entry))
        else:
            counted.add(shelf.title(member.name), member.problem.partition(": ")[2])
    for name in index.replaced:
        counted.add(shelf.title(name), "a later member has its name")
    videos += group(shelf, files, counted)
    if index.problem:
        code, _, why = index.problem.partition(": ")
        videos.append(shelf.whole(f"{code}: {uri}: {why}"))
    return [_named_problem(video) for video in videos]


def _named_problem(video: VideoSource) -> VideoSource:
    if video.problem is None or video.uri in video.problem:
        return video
    code, _, why = video.problem.partition(": ")
    return replace(video, problem=f"{code}: {video.uri}: {why}")
