"""What lies below a folder or prefix, and what one path is: few requests, many side by side, little memory.

A million files are an ordinary archive, so a listing keeps four values of each and no more.
"""

import asyncio
import errno
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp
from fsspec import AbstractFileSystem
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFile
from fsspec.implementations.local import LocalFileSystem
from s3fs.errors import translate_boto_error

from jobs.archives.sources import Entry, entry_of, stat_entry
from jobs.filesystems import is_web
from jobs.settings import without_signature

READ_ERRORS = (OSError, TimeoutError, aiohttp.ClientError, BotoCoreError, ClientError)
"""What disks, networks and object stores raise; a name that is not there and a refusal are told apart before."""
Key = TypeVar("Key")
Found = TypeVar("Found")
FOLDER: Literal["folder"] = "folder"
Seen = Entry | Literal["folder"] | Exception | None
"""A file, a folder, why it may not be looked at, or nothing."""
ASKED = 64
"""Paths that are asked for side by side."""
WORTH_A_LISTING = 64
"""Files of one folder from which listing the folder takes fewer requests than asking for each."""
LISTINGS = 16
"""Folders of a bucket that are listed side by side."""
LONG_PAGES = 20
"""Pages of 1,000 keys after which a listing is a long one."""
LARGEST_COPY = 16 * 2**30


def find(fs: AbstractFileSystem, path: str) -> dict[str, Entry]:
    """Every file below a folder or prefix, by its name there. Links to folders are files, and are not followed."""
    if isinstance(fs, LocalFileSystem):
        return dict(_walk(path))
    if "s3" in fs.protocol:
        bucket, _, prefix = path.partition("/")
        return sync(fs.loop, _pages, fs, bucket, f"{prefix}/" if prefix else "")
    start = len(path.rstrip("/")) + 1
    return {name[start:]: entry_of(info, _hashes(fs)) for name, info in fs.find(path, detail=True).items()}


def _walk(folder: str) -> Iterator[tuple[str, Entry]]:
    open_folders = [""]
    while open_folders:
        below = open_folders.pop()
        try:
            found = sorted(os.scandir(f"{folder}/{below}" if below else folder), key=lambda each: each.name)
        except PermissionError:
            if not below:
                raise
            continue
        for each in found:
            name = f"{below}/{each.name}" if below else each.name
            if each.is_dir(follow_symlinks=False):
                open_folders.append(name)
                continue
            linked = each.is_symlink()
            try:
                yield name, stat_entry(each.stat(), linked)
            except OSError:  # a link to nowhere
                yield name, stat_entry(each.stat(follow_symlinks=False), linked)


async def _paginator(fs: Any) -> Any:
    """s3fs itself keeps some thousand bytes of each key until it has listed all."""
    client = await fs.set_session()
    fs.session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    return client.get_paginator("list_objects_v2")


def _files(page: dict[str, Any], prefix: str) -> Iterator[tuple[str, Entry]]:
    """Without the empty objects `folder/` that some clients write."""
    for each in page.get("Contents", ()):
        if not each["Key"].endswith("/"):
            yield each["Key"][len(prefix) :], entry_of({"size": each["Size"], "ETag": each["ETag"]}, True)


async def _pages(fs: Any, bucket: str, prefix: str) -> dict[str, Entry]:
    """A long listing goes on below each of its folders side by side, as one page after the other takes its time."""
    found: dict[str, Entry] = {}
    turns = asyncio.Semaphore(LISTINGS)
    pages = await _paginator(fs)

    async def below(folder: str, after: str) -> None:
        read, last = 0, after
        async with turns:
            async for page in pages.paginate(Bucket=bucket, Prefix=folder, StartAfter=after):
                found.update(_files(page, prefix))
                last, read = page["Contents"][-1]["Key"] if page.get("Contents") else last, read + 1
                if read == LONG_PAGES and page["IsTruncated"]:
                    break
            else:
                return
            inner, slash, _ = last[len(folder) :].partition("/")
            folders = {f"{folder}{inner}/"} if slash else set()  # of which servers do not agree whether it comes after
            async for page in pages.paginate(Bucket=bucket, Prefix=folder, StartAfter=last, Delimiter="/"):
                found.update(_files(page, prefix))
                folders.update(each["Prefix"] for each in page.get("CommonPrefixes", ()))
        await asyncio.gather(*(below(each, last) for each in sorted(folders)))

    try:
        await below(prefix, "")
    except Exception as error:
        raise translate_boto_error(error) from error
    return found


async def _level_pages(fs: Any, bucket: str, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        async for page in (await _paginator(fs)).paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            found.update(_files(page, prefix))
            found.update((each["Prefix"][len(prefix) : -1], FOLDER) for each in page.get("CommonPrefixes", ()))
    except Exception as error:
        raise translate_boto_error(error) from error
    return found


def _time(stamp: Any) -> datetime:
    """botocore guesses the format of each time anew, which takes longer than all else about a key."""
    try:
        return datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return parse_timestamp(stamp)  # type: ignore[no-any-return]


def entry_at(fs: AbstractFileSystem, path: str, info: dict[str, Any] | None = None) -> Entry | None:
    """What is known of a file; None: it is not there. `info`: what its file system says of it, if it was asked."""
    if isinstance(fs, LocalFileSystem):
        linked = os.path.islink(path)
        try:
            return stat_entry(os.stat(path), linked)
        except FileNotFoundError:
            return stat_entry(os.lstat(path), linked) if linked else None
    try:
        with _true_reason():
            return entry_of(info or fs.info(path), _hashes(fs))
    except FileNotFoundError:
        return None


@contextmanager
def _true_reason() -> Iterator[None]:
    """fsspec says of every refusal by a web server that there is no such file."""
    try:
        yield
    except FileNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, aiohttp.ClientError | TimeoutError) and getattr(cause, "status", 0) not in (404, 410):
            raise cause from None
        raise


def refusal(error: Exception) -> str:
    """`code: why` of what cannot be read, without what was asked for."""
    denied = isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403)
    words = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{'denied' if denied else 'unreadable'}: {without_signature(words)}"


def _hashes(fs: AbstractFileSystem) -> bool:
    """Whether its ETags are made of the bytes alone."""
    return "s3" in fs.protocol


def look_up(fs: AbstractFileSystem, paths: Sequence[str]) -> dict[str, Seen]:
    """What is at each path. Folders that hold many of them are listed."""
    if isinstance(fs, LocalFileSystem):
        return {path: _at(fs, path) for path in paths}
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[path.rpartition("/")[0]].append(path)
    many = [] if is_web(fs) else [folder for folder, held in by_folder.items() if len(held) >= WORTH_A_LISTING]
    found: dict[str, Any] = {}
    for folder, listed in zip(many, side_by_side(lambda folder: level(fs, folder), many, ASKED), strict=True):
        found |= {path: listed.get(path.rpartition("/")[2]) for path in by_folder[folder]}
    left = [path for path in paths if path not in found]
    return found | dict(zip(left, side_by_side(lambda path: _at(fs, path), left, ASKED), strict=True))


def level(fs: AbstractFileSystem, folder: str) -> dict[str, Any]:
    """What lies in a folder or prefix itself, by name; nothing where there is none."""
    if isinstance(fs, LocalFileSystem):
        with os.scandir(folder) as found:
            names = [each.name for each in found]
        seen = look_up(fs, [f"{folder}/{name}" for name in names])
        return {name: each for name, each in zip(names, seen.values(), strict=True) if each is not None}
    if "s3" in fs.protocol:
        bucket, _, prefix = folder.partition("/")
        return sync(fs.loop, _level_pages, fs, bucket, f"{prefix}/" if prefix else "")  # type: ignore[no-any-return]
    try:
        listed = fs.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    return {
        info["name"].rstrip("/").rpartition("/")[2]: FOLDER
        if info["type"] == "directory"
        else entry_of(info, _hashes(fs))
        for info in listed
    }


def _at(fs: AbstractFileSystem, path: str) -> Seen:
    try:
        if isinstance(fs, LocalFileSystem):
            return FOLDER if os.path.isdir(path) else entry_at(fs, path)
        if is_web(fs):
            return entry_at(fs, path)
        info = fs.info(path)
        return FOLDER if info["type"] == "directory" else entry_of(info, _hashes(fs))
    except FileNotFoundError:
        return None
    except READ_ERRORS as error:
        return error


def side_by_side(work: Callable[[Key], Found], items: Iterable[Key], threads: int) -> Iterator[Found]:
    """What the work returns for each item, in order; at most some `threads` results wait to be taken."""
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(left, 16 * threads)):
            yield from pool.map(work, batch)


@contextmanager
def open_seekable(
    fs: AbstractFileSystem, path: str, block_bytes: int | None = None, scratch: Path | None = None
) -> Iterator[BinaryIO]:
    """A file that can be read from any place.

    Args:
        scratch: where a nameless copy lies of what a web server gives only as a whole; None: no copy is made.

    Raises:
        OSError: it can be read as a whole only, or is too large to copy.
    """
    with ExitStack() as closing:
        file: Any
        if isinstance(fs, LocalFileSystem):
            file = closing.enter_context(open(path, "rb"))
        else:
            with _true_reason():
                file = closing.enter_context(fs.open(path, "rb", block_size=block_bytes, cache_type="readahead"))
            if is_web(fs) and not _has_ranges(file):
                file = _copied(fs, path, scratch)
                closing.push(file)
        yield file


def _has_ranges(file: Any) -> bool:
    if not isinstance(file, HTTPFile):
        return False
    if file.size <= file.blocksize:
        return True  # it is read as a whole
    try:
        file.seek(file.size - 1)
        file.read(1)
        file.seek(0)
    except ValueError:  # it was asked for a range and gave all
        return False
    return True


def _copied(fs: AbstractFileSystem, path: str, scratch: Path | None) -> Any:
    if scratch is None:
        raise OSError(errno.ESPIPE, "its server gives no ranges of it; copy it to a folder or bucket first")
    scratch.expanduser().mkdir(parents=True, exist_ok=True)
    copy = tempfile.TemporaryFile(dir=scratch.expanduser())  # noqa: SIM115
    with fs.open(path, "rb", block_size=0) as stream:
        while piece := stream.read(2**20):
            if copy.tell() > LARGEST_COPY:
                raise OSError(errno.EFBIG, f"its server gives no ranges of it, and it is over {LARGEST_COPY} bytes")
            copy.write(piece)
    copy.seek(0)
    return copy
