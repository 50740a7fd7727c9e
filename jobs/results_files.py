"""JSON files in: labels in one piece, results entry by entry, plain or gzip, from any store.

A results file has hundreds of megabytes. Read in one piece it is in memory as bytes, as text and as objects at once;
entry by entry there are only the objects, and these share what they have in common.
"""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from jobs.store import Store
from vis_models.config import BadConfig
from vis_models.data.relatives import not_json, not_results

CHUNK = 2**20
BETWEEN = re.compile(r"[\s,]*")


class Digest(io.RawIOBase):
    """A stream that is hashed as it is read."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self._sha256.update(data)
        buffer[: len(data)] = data
        return len(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def read_json(store: Store, uri: str) -> tuple[Any, str]:
    """(content, sha256 of the file) of a JSON, plain or gzip. Raises BadConfig: not there, or not JSON."""
    with _text(store, uri) as (text, digest):
        return json.load(text), digest.hexdigest()


def read_results(store: Store, uri: str) -> tuple[list[dict[str, Any]], str]:
    """(entries, sha256 of the file) of a results file, plain or gzip.

    Raises:
        BadConfig: not there, not JSON, or no list of entries.
    """
    sizes: dict[tuple[Any, ...], list[Any]] = {}
    entries = []
    with _text(store, uri) as (text, digest):
        for n, entry in enumerate(_entries(text, uri)):
            if not isinstance(entry, dict):
                raise BadConfig(f"{uri}: results[{n}] is {str(entry)[:60]!r}, expected an object: one entry per track")
            _share_sizes(entry, sizes)
            entries.append(entry)
        return entries, digest.hexdigest()


def _share_sizes(entry: dict[str, Any], sizes: dict[tuple[Any, ...], list[Any]]) -> None:
    """One list for all masks of a size instead of one for each."""
    segmentations = entry.get("segmentations")
    for segmentation in segmentations if isinstance(segmentations, list) else ():
        if isinstance(segmentation, dict) and isinstance(size := segmentation.get("size"), list):
            segmentation["size"] = sizes.setdefault(tuple(size), size)


def _entries(text: io.TextIOBase, uri: str) -> Iterator[Any]:
    """The entries of a list, decoded as soon as they are whole."""
    decode = json.JSONDecoder().raw_decode
    buffer = ""
    while not buffer and (more := text.read(CHUNK)):
        buffer = more.lstrip()
    if not buffer:
        raise BadConfig(f"{uri} is empty, expected a list with one entry per track")
    if buffer.startswith("{"):
        told = not_results(json.loads(buffer + text.read()))
        raise BadConfig(f"{uri}: {told or 'expected a list with one entry per track, got an object'}")
    if not buffer.startswith("["):
        raise BadConfig(
            f"{uri} begins with {buffer[:20]!r}, expected a list with one entry per track. Is it a JSON file?"
        )
    at, wanted = 1, CHUNK
    while True:
        at = BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if buffer.startswith("]", at):
            if (buffer[at + 1 :] + text.read()).strip():
                raise ValueError("there is more behind the end of the list")
            return
        try:
            entry, at = decode(buffer, at)
        except ValueError:
            more = text.read(wanted)
            if not more:
                raise
            buffer, at, wanted = buffer[at:] + more, 0, 2 * wanted  # twice, lest a broken entry be read over and over
            continue
        wanted = CHUNK
        yield entry


@contextmanager
def _text(store: Store, uri: str) -> Iterator[tuple[io.TextIOBase, Digest]]:
    fs, path = store.open_source(uri)
    try:
        with store.guard(uri), fs.open(path, "rb") as file:
            digest = Digest(file)
            raw = io.BufferedReader(digest)
            if other := not_json(raw.peek(2)):
                raise BadConfig(f"{uri}: expected a JSON file (plain or .gz), {other}")
            unpacked: Any = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            yield io.TextIOWrapper(unpacked, "utf-8-sig"), digest
    except FileNotFoundError:
        raise BadConfig(f"{uri} does not exist, expected a JSON file (plain or .gz)") from None
    except IsADirectoryError:
        raise BadConfig(f"{uri} is a folder, expected a JSON file (plain or .gz): name the file in it") from None
    except BadConfig:
        raise
    except (ValueError, EOFError, OSError, RecursionError, zlib.error) as error:
        raise BadConfig(f"{uri} is not a whole JSON file: {error}. Copy it again.") from error
