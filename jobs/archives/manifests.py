"""Manifests and lists: files that name videos wherever they lie, one a row.

A row with `size` and `etag` is believed, and nobody is asked; of the others each store is asked once for many. What a
row names may be gone, and is a video that fails; a row that cannot be meant stops before any work.
"""

import csv
import io
import json
import math
import os
import posixpath
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from jobs.archives.listing import FOLDER, level, look_up, refusal, side_by_side
from jobs.archives.members import KINDS as ARCHIVES
from jobs.archives.shelves import INDEXES, Counted, Files, frames_among, members_of
from jobs.archives.sources import (
    EVERY_FRAME,
    MISSING,
    Entry,
    Sampling,
    VideoSource,
    is_plain,
    split_member,
    suffix,
    uri_of,
)
from jobs.filesystems import ELSEWHERE, WEB
from jobs.settings import without_signature
from jobs.store import Store
from vis_models.config import BadConfig

MANIFESTS = frozenset({"jsonl", "ndjson", "csv", "parquet", "txt"})
COLUMNS = ("id", "uri", "start_s", "end_s", "size", "etag")
"""What is understood; every other column is a tag."""
BATCH_ROWS = 2**14


@dataclass(slots=True)
class _Row:
    """A row that can be meant."""

    video_id: str
    uri: str
    """As it may be shown; where the address says `#`, of the tar or zip."""
    path: str
    member: str | None
    signed: bool
    known: Entry | None
    sampling: Sampling
    tags: dict[str, str]


def read_manifest(
    fs: AbstractFileSystem, path: str, archive: str, store: Store, counted: Counted
) -> Iterator[VideoSource]:
    """The videos that a manifest or list names, whether they are there or not."""
    base = posixpath.dirname(uri_of(fs, path))
    places = _Places(base, store)
    unit = "row" if suffix(path) == "parquet" else "line"
    ids: dict[str, int] = {}
    asked: dict[Any, list[_Row]] = defaultdict(list)
    is_list = suffix(path) == "txt"
    for number, given in _rows(fs, path, archive):
        try:
            place, row = _row(given, places, is_list)
        except ValueError as error:
            raise BadConfig(f"{archive}, {unit} {number}: {error}") from None
        if (before := ids.setdefault(row.video_id, number)) != number:
            raise BadConfig(
                f"{archive}: id {row.video_id!r} stands in {unit} {before} and {number}, expected one of each. "
                "One film may stand there under two ids"
            )
        if row.known and row.member is None and not (is_list and suffix(row.path) in ARCHIVES):
            yield _film(row, row.known, row.path)
        else:
            asked[place].append(row)
    ids.clear()
    places.check()
    for place, rows in asked.items():
        with store.guard(place):
            yield from _looked_up(places.fs[place], rows, counted, is_list)


class _Places:
    """Stores that a manifest names, each opened once."""

    def __init__(self, base: str, store: Store) -> None:
        self.fs: dict[str, AbstractFileSystem] = {}
        self._base, self._store = base, store
        self._firsts: dict[str, str] = {}

    def resolve(self, uri: str) -> tuple[str, str]:
        """(store, path as its file system knows it). Raises ValueError."""
        scheme, separator, rest = uri.partition("://")
        if not separator:
            if not os.path.isabs(uri):
                if "://" in self._base:
                    return self.resolve(f"{self._base}/{uri}")
                uri = f"{self._base}/{uri}"
            return self._local(posixpath.normpath(uri))
        if scheme == "file":
            return self._local(posixpath.normpath(unquote(rest, errors="surrogateescape")))
        place = f"{scheme}://{rest.partition('/')[0]}"
        if place in self.fs and scheme not in WEB:
            return place, rest.strip("/")
        fs, path = self._store.open_source(uri)
        if scheme in ELSEWHERE and place not in self.fs:
            self.fs[place] = fs
            self._firsts[place] = uri
        return place, path

    def _local(self, path: str) -> tuple[str, str]:
        if "" not in self.fs:
            self.fs[""] = LocalFileSystem()
        return "", path

    def check(self) -> None:
        """Raises BadConfig: a bucket is not there or may not be read. One request of each."""
        for place, first in self._firsts.items():
            if not place.startswith("s3://"):
                continue
            try:
                self._store.check(place)
            except BadConfig:
                with suppress(Exception):  # whatever it says: the refusal before it is what the user can mend
                    self.fs[place].info(first.removeprefix("s3://"))
                    continue  # what may be read need not be listed
                raise


def _row(given: dict[str, Any], places: _Places, is_list: bool) -> tuple[str, _Row]:
    """Raises ValueError: it cannot be meant."""
    uri = given.get("uri")
    if not uri or (given.get("id") in (None, "") and not is_list):
        filled = ", ".join(str(name) for name, value in given.items() if value not in (None, "")) or "none"
        raise ValueError(f"expected values for `id` and `uri`, got values for: {filled}")
    uri = str(uri)
    shown = uri.partition("?")[0] if uri.startswith(WEB) else uri
    if not uri.isascii() and re.search("[\ud800-\udc7f\udd00-\udfff]", uri):
        raise ValueError(f"uri {shown!r} is no text that a file can be named by")
    address, member = split_member(uri) if "#" in uri else (uri, None)
    place, path = places.resolve(address)
    video_id = _listed_id(shown, path) if is_list else str(given["id"])
    if not is_plain(video_id):
        raise ValueError(
            f"id {video_id!r} is not allowed; expected a relative name of at most 512 characters without `..` and "
            "control characters"
        )
    start_s, end_s = _seconds(given, "start_s"), _seconds(given, "end_s")
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise ValueError(f"end_s {end_s:g} is not after start_s {start_s:g}")
    size, etag = given.get("size"), given.get("etag")
    known = None
    if size not in (None, "") and etag:
        size_bytes = _whole(size)
        known = Entry(size_bytes, f"{size_bytes}-{str(etag).strip(chr(34))}", place.startswith("s3://"))
    row = _Row(
        video_id=video_id,
        uri=uri_of(places.fs[place], path) if not place.startswith(WEB) else path.partition("?")[0],
        path=path,
        member=member,
        signed=place.startswith(WEB) and "?" in path,
        known=known,
        sampling=EVERY_FRAME.within(start_s, end_s),
        tags={name: _text(value) for name, value in given.items() if name not in COLUMNS and value not in (None, "")}
        if len(given) > 2
        else {},
    )
    return place, row


def _listed_id(uri: str, path: str) -> str:
    """Of a line without one: as it is written, if that is below the list, else the whole address."""
    relative = posixpath.normpath(uri) if "://" not in uri and not os.path.isabs(uri) else "/"
    return relative if is_plain(relative) else path.partition("?")[0].partition("://")[2] or path.lstrip("/")


def _seconds(given: dict[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} is {value!r}, expected seconds from the beginning of the film")
    return seconds


def _whole(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number < 0:
        raise ValueError(f"size is {value!r}, expected a number of bytes")
    return number


def _text(value: Any) -> str:
    """Kept once, however many rows say the same."""
    return sys.intern(value if isinstance(value, str) else json.dumps(value, default=str))


def _film(row: _Row, entry: Entry, path: str, problem: str | None = None) -> VideoSource:
    return VideoSource(
        video_id=row.video_id,
        uri=row.uri,
        kind="film",
        content_id=entry.content,
        size_bytes=entry.size_bytes,
        content_hash=entry.hashed,
        address=path if row.signed else None,
        sampling=row.sampling,
        tags=row.tags,
        problem=problem,
    )


def _looked_up(fs: AbstractFileSystem, rows: list[_Row], counted: Counted, is_list: bool) -> Iterator[VideoSource]:
    """What the rows of one store name, files and folders of frames; members of a tar or zip by its index, read once."""
    within: dict[str, list[_Row]] = defaultdict(list)
    alone: list[_Row] = []
    for row in rows:
        if suffix(row.path.partition("?")[0]) in ARCHIVES and (row.member is not None or is_list):
            within[row.path].append(row)
        else:
            alone.append(row)
    found = look_up(fs, [row.path for row in alone])
    refused = [seen for seen in found.values() if isinstance(seen, Exception)]
    if refused and len(refused) == len(found):
        raise refused[0]  # not one of them may be looked at
    for row in alone:
        seen = found[row.path]
        if isinstance(seen, Exception):
            code, _, why = refusal(seen).partition(": ")
            yield _film(row, Entry(0, MISSING), row.path, f"{code}: {row.uri}: {why}")
        elif seen == FOLDER:
            yield _folder(fs, row)
        elif suffix(row.path.partition("?")[0]) in ARCHIVES:
            why = f"not_a_video: {row.uri}: it is an archive, expected one video: name a member of it, `{row.uri}#name`"
            yield _film(row, seen or Entry(0, MISSING), row.path, why if seen else None)
        else:
            yield _film(row, seen or Entry(0, MISSING), row.path)
    read = partial(_within, fs)
    for videos, inside in side_by_side(read, within.values(), INDEXES):
        yield from videos
        counted.join(inside)


def _folder(fs: AbstractFileSystem, row: _Row) -> VideoSource:
    """A folder of frames."""
    images = frames_among({name: each for name, each in level(fs, row.path).items() if each != FOLDER})
    return replace(Files(fs, row.path).frames("", images), video_id=row.video_id, sampling=row.sampling, tags=row.tags)


def _within(fs: AbstractFileSystem, rows: list[_Row]) -> tuple[list[VideoSource], Counted]:
    """Members of one tar or zip that rows name."""
    first, counted, videos = rows[0], Counted(), []
    if any(row.member is None for row in rows):  # a list names all of it
        videos = members_of(fs, first.path, first.video_id, counted, shown=first.uri)
    if named := [row for row in rows if row.member is not None]:
        known = {video.uri: video for video in members_of(fs, first.path, "", Counted(), shown=first.uri)}
        whole = known.get(first.uri)
        for row in named:
            uri = f"{row.uri}#{row.member}" if row.member else row.uri
            video = known.get(uri) or replace(
                _film(row, Entry(0, MISSING), row.path, (whole and whole.problem) or f"missing: {uri} is not there"),
                uri=uri,
            )
            videos.append(replace(video, video_id=row.video_id, sampling=row.sampling, tags=row.tags))
    return videos, counted


# Reading


def _rows(fs: AbstractFileSystem, path: str, archive: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row or line, values) of each row of a manifest."""
    kind = suffix(path)
    reads: dict[str, Callable[..., Iterable[tuple[int, dict[str, Any]]]]] = {
        "parquet": _parquet, "csv": _csv, "txt": _lines,
    }  # fmt: skip
    try:
        yield from reads.get(kind, _json_lines)(fs, path)
    except BadConfig:
        raise
    except (ValueError, OSError, csv.Error) as error:
        name = "list" if kind == "txt" else f"{kind} manifest"
        raise BadConfig(
            f"{archive} is not a {name}: {without_signature(str(error))}; expected "
            f"{'an address a line' if kind == 'txt' else 'rows with `id` and `uri`'}"
        ) from error


def _parquet(fs: AbstractFileSystem, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    source = path if isinstance(fs, LocalFileSystem) else pa.BufferReader(fs.cat_file(path))
    with pq.ParquetFile(source) as file:
        number = 0
        for batch in file.iter_batches(BATCH_ROWS):
            columns = {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))


def _text_of(fs: AbstractFileSystem, path: str) -> Iterator[str]:
    """Its lines, with their ends; a byte-order mark is passed over."""
    with fs.open(path, "rb") as file:
        yield from io.TextIOWrapper(file, "utf-8-sig", newline="")


def _csv(fs: AbstractFileSystem, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.DictReader(_text_of(fs, path))
    table.fieldnames = [name.strip() for name in table.fieldnames or ()]
    for row in table:
        if None in row:
            raise ValueError(f"line {table.line_num} has more values than there are columns")
        yield table.line_num, row


def _json_lines(fs: AbstractFileSystem, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text_of(fs, path), start=1):
        if line.strip():
            row = json.loads(line)
            yield number, row if isinstance(row, dict) else {"": row}


def _lines(fs: AbstractFileSystem, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text_of(fs, path), start=1):
        uri = line.strip()
        if uri and not uri.startswith("#"):
            yield number, {"uri": uri}
