"""Keys, markers and snapshots on any fsspec store: a folder, or a bucket of any S3-compatible server.

Everything that is written lies under one root:

    vis/v1/_plans/<plan_id>/{plan.parquet,spec.json}     what is to be done, frozen, named by its content
    vis/v1/_work/<plan_id>/<shard>/<attempt>/*.parquet   what one attempt at one shard wrote
    vis/v1/_commits/<plan_id>/<shard>.json               names the attempt that counts: the commit
    vis/v1/_snapshots/<plan_id>.json                     the published result: its files, rows, digests, lineage
    vis/v1/{evaluations,switches,reports,...}/           what the other jobs write

No step needs a rename or a conditional put. An attempt writes under keys of its own; a marker may be overwritten by
another complete attempt, and whichever it names is whole; two publishers of a plan each write a complete snapshot.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pydantic import model_validator

from jobs.filesystems import arrow_s3, refusals, resolve, without_folders
from jobs.settings import Settings
from vis_models.config import BadConfig, Config

LAYOUT = "vis/v1"
T = TypeVar("T")
logger = logging.getLogger(__name__)
Purpose = Literal["archive", "evaluation"]


class FileRef(Config):
    """A file that was written once and is never changed."""

    key: str
    rows: int
    size_bytes: int
    sha256: str


class Marker(Config):
    """The commit of one shard: the four tables of the attempt that counts, and what it cost."""

    plan_id: str
    shard: str
    attempt: str
    files: dict[str, FileRef]
    counts: dict[str, int]
    """Videos by status, frames."""
    seconds: dict[str, float]
    """Busy seconds of each stage, which may overlap; `wait`: the model waited for frames; `wall`: all in all."""
    created_at: str


class Snapshot(Config):
    """The published result of a plan. Readers find tables through snapshots and nowhere else."""

    plan_id: str
    archive: str
    purpose: Purpose = "archive"
    """What it was segmented for. Queries see archives; the predictions of an evaluation are opened by naming it."""
    labels: str | None = None
    """Not None: these are no predictions, the tracker was given the objects of these labels. Only seen when named."""
    model_sha256: str
    created_at: str
    lineage: dict[str, str]
    """The key-values that also stand in the footer of every file."""
    tables: dict[str, tuple[FileRef, ...]]
    counts: dict[str, int]
    seconds: dict[str, float]
    passed_over: tuple[dict[str, Any], ...] = ()
    """What the archive holds and was not read: `{"why", "kind", "files", "first"}`, the most frequent first."""

    @model_validator(mode="before")
    @classmethod
    def _purpose_by_command(cls, values: Any) -> Any:
        """Snapshots of the days before `purpose` say it by what was typed."""
        if not isinstance(values, dict) or "purpose" in values:
            return values
        command = values.get("lineage", {}).get("command", "")
        evaluated = values.get("labels") or command.startswith("vis evaluate") or "evaluate-youtube-vis" in command
        return values | {"purpose": "evaluation" if evaluated else "archive"}


@dataclass(frozen=True)
class Store:
    """The root under which a user's runs, models and tables lie."""

    settings: Settings
    fs: fsspec.AbstractFileSystem
    root: str
    """Path of the root as `fs` knows it: an absolute folder, or `bucket/prefix`."""

    @classmethod
    def open(cls, settings: Settings) -> "Store":
        """Raises BadConfig: the root is no folder, the server refuses the credentials or has no such bucket."""
        fs, root = resolve(settings.store, settings)
        store = cls(settings, fs, root)
        if store.is_local and os.path.exists(root) and not os.path.isdir(root):
            raise BadConfig(f"store {root} is a file, expected a folder or s3://bucket/prefix: set VIS_STORE")
        store.check(settings.store)
        return store

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @cached_property
    def arrow(self) -> pa.fs.FileSystem:
        """Arrow's own file system for this store: takes what `path` returns, for pyarrow and Ray.

        Never `fs` in a wrapper: Arrow's threads read ahead, and where a process ends before they do they would call
        into a Python that is gone, which aborts or hangs it.
        """
        return pa.fs.LocalFileSystem() if self.is_local else arrow_s3(self.settings)

    def path(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"key {key!r} leaves the store")
        return f"{self.root}/{key}"

    def uri(self, key: str) -> str:
        """What a person can use elsewhere: an absolute path or `s3://bucket/...`."""
        return self.path(key) if self.is_local else f"s3://{self.path(key)}"

    def open_source(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """(filesystem, path) of anything a user names: a local path or `s3://...`, with the same credentials."""
        return resolve(uri, self.settings)

    def check(self, uri: str) -> None:
        """Raises BadConfig: `uri` lies in a bucket that is not there, or that these credentials may not list."""
        fs, path = self.open_source(uri)
        if not isinstance(fs, LocalFileSystem):
            bucket, _, prefix = path.partition("/")
            with self.guard(uri):
                fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)

    def address(self, uri: str) -> str:
        """The same place for processes that run in other folders: an absolute path or `s3://...`."""
        fs, path = self.open_source(uri)
        return path if isinstance(fs, LocalFileSystem) else f"s3://{path}"

    def guard(self, uri: str) -> Any:
        """`with store.guard(uri):` turns a refusal by the server of `uri` into a BadConfig that names the remedy."""
        return refusals(uri, self.settings)

    def exists(self, key: str) -> bool:
        with self.guard(self.uri(key)):
            return self.fs.exists(self.path(key))

    def list(self, prefix: str) -> Sequence[str]:
        """Keys of all files under `prefix/`, sorted; unfinished files and markers of folders are left out."""
        with self.guard(self.uri(prefix)):
            found = without_folders(self.fs.find(self.path(prefix.rstrip("/")) + "/"))
        keys = (path.removeprefix(self.root + "/") for path in found)
        return sorted(key for key in keys if not key.rsplit("/", 1)[-1].startswith("."))

    def read_bytes(self, key: str) -> bytes:
        with self.guard(self.uri(key)):
            return self.fs.cat_file(self.path(key))

    def read_table(self, key: str) -> pa.Table:
        """A small Parquet file, by this thread alone: Arrow's threads may abort a process that ends soon after."""
        return pq.ParquetFile(pa.BufferReader(self.read_bytes(key))).read(use_threads=False)

    def read_json(self, key: str) -> Any:
        return json.loads(self.read_bytes(key))

    def readable(self, keys: Iterable[str], read: Callable[[str], T]) -> Iterator[tuple[str, T]]:
        """Each key and what `read` makes of it. What is no such record is named in the log, once, and passed over.

        For records that lie side by side and of which each stands for itself.

        Raises:
            BadConfig: the server refuses, which says nothing about a record.
        """
        for key in keys:
            try:
                found = read(key)
            except BadConfig:
                raise
            except (ValueError, KeyError) as error:  # of json, pydantic and pyarrow
                _say_unreadable(self.uri(key), " ".join(str(error).split())[:200])
            else:
                yield key, found

    def footer(self, key: str) -> pa.Schema:
        """Columns and key-values of a Parquet file, of which only the end is read."""
        with self.fs.open(self.path(key), "rb") as file:
            return pq.read_schema(file)

    def write_bytes(self, key: str, data: bytes) -> None:
        """Whole or not at all."""
        with self.create(key) as file:
            file.write(data)

    def write_json(self, key: str, value: Any) -> None:
        self.write_bytes(key, json.dumps(value, indent=1, ensure_ascii=False).encode())

    @contextmanager
    def create(self, key: str) -> Iterator["Output"]:
        """A file to write from start to end, which gets its name when it is whole; after an exception there is none."""
        path = self.path(key)
        hidden = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{uuid.uuid4().hex}"
        with self.guard(self.uri(key)):
            if not self.is_local:
                file = self.fs.open(path, "wb")
                try:
                    yield Output(file)
                    file.close()
                except BaseException:
                    _discard(file)
                    raise
                return
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except OSError as error:
                raise BadConfig(f"{path} cannot be made: {error.strerror}. Is VIS_STORE (--store) right?") from error
            try:
                with open(hidden, "wb") as file:
                    yield Output(file)
                os.replace(hidden, path)
            except BaseException:
                Path(hidden).unlink(missing_ok=True)
                raise

    def check_writable(self) -> None:
        """Raises BadConfig where nothing can be written, before any work is done for nothing."""
        if self.is_local:
            try:
                os.makedirs(self.path(LAYOUT), exist_ok=True)
                with tempfile.TemporaryFile(dir=self.path(LAYOUT)):
                    pass
            except OSError as error:
                raise BadConfig(
                    f"{self.path(LAYOUT)} cannot be written: {error.strerror}. Is VIS_STORE (--store) right?"
                ) from error

    def local_copy(self, uri: str) -> Path:
        """The folder or file `uri` on this machine: itself when it is local, else a copy under `settings.scratch`.

        A copy is named by the digests of its files, so one that was made before is used again and never stale.

        Raises:
            BadConfig: nothing is there, or the server refuses.
        """
        fs, path = self.open_source(uri)
        if isinstance(fs, LocalFileSystem):
            return Path(path)
        with self.guard(uri):
            files = without_folders(fs.find(path, detail=True))
        if not files:
            raise BadConfig(f"{uri} holds no file; check the name")
        content = json.dumps([uri, [(name, info["ETag"]) for name, info in sorted(files.items())]])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        target = self.settings.scratch.expanduser() / digest / os.path.basename(path)
        if not target.exists():
            with self.guard(uri):
                _bring(fs, path, list(files), target)
        return target

    # What is committed and published

    def markers(self, plan_id: str) -> dict[str, Marker]:
        """The commits of a plan by shard."""
        found = self.readable(self.list(f"{LAYOUT}/_commits/{plan_id}"), self._marker)
        return {marker.shard: marker for _, marker in found}

    def marker(self, plan_id: str, shard: str) -> Marker | None:
        """The commit of one shard, or None."""
        key = commit_key(plan_id, shard)
        found = self.readable([key] if self.exists(key) else [], self._marker)
        return next((marker for _, marker in found), None)

    def _marker(self, key: str) -> Marker:
        return Marker.model_validate_json(self.read_bytes(key))

    def commit(self, marker: Marker) -> None:
        self.write_bytes(commit_key(marker.plan_id, marker.shard), marker.model_dump_json(indent=1).encode())

    def snapshot(self, plan_id: str) -> Snapshot | None:
        """The published result of a plan, or None."""
        key = snapshot_key(plan_id)
        return Snapshot.model_validate_json(self.read_bytes(key)) if self.exists(key) else None

    def snapshots(self) -> Sequence[Snapshot]:
        """Everything published, oldest first."""

        def read(key: str) -> Snapshot:
            return Snapshot.model_validate_json(self.read_bytes(key))

        found = (snapshot for _, snapshot in self.readable(self.list(f"{LAYOUT}/_snapshots"), read))
        return sorted(found, key=lambda snapshot: (snapshot.created_at, snapshot.plan_id))

    def publish(self, snapshot: Snapshot) -> None:
        self.write_bytes(snapshot_key(snapshot.plan_id), snapshot.model_dump_json(indent=1).encode())


@cache
def _say_unreadable(uri: str, reason: str) -> None:
    logger.warning(
        "%s cannot be read and is passed over: it is damaged, or of another version (%s). Bring it back from a copy, "
        "or remove it",
        uri,
        reason,
    )


def _discard(file: Any) -> None:
    """Forget what was written to an upload: fsspec would commit it when it closes the file or collects it."""
    try:
        file.discard()  # the parts that are already on the server
    except Exception:  # the server is gone, or refuses: what stopped the writer is what must be said
        pass
    finally:
        file.closed = True


def _bring(fs: fsspec.AbstractFileSystem, path: str, files: list[str], target: Path) -> None:
    """Copy a remote folder or file to `target`, whole or not at all; of a machine's processes one does it."""
    arriving = target.parent.with_suffix(".arriving")
    arriving.parent.mkdir(parents=True, exist_ok=True)
    with target.parent.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when its process ends, however that ends
        if target.exists():
            return
        try:
            shutil.rmtree(arriving, ignore_errors=True)  # of a process that was killed here
            for file in files:
                local = arriving / target.name / os.path.relpath(file, path)
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(file, str(local.resolve()))
            os.rename(arriving, target.parent)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)


def plan_key(plan_id: str, name: str) -> str:
    return f"{LAYOUT}/_plans/{plan_id}/{name}"


def work_key(plan_id: str, shard: str, attempt: str, name: str) -> str:
    return f"{LAYOUT}/_work/{plan_id}/{shard}/{attempt}/{name}"


def commit_key(plan_id: str, shard: str) -> str:
    return f"{LAYOUT}/_commits/{plan_id}/{shard}.json"


def snapshot_key(plan_id: str) -> str:
    return f"{LAYOUT}/_snapshots/{plan_id}.json"


class Output:
    """A binary file being written, which knows its own size and digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        data = memoryview(data)
        self._digest.update(data)
        self.size_bytes += data.nbytes
        self._file.write(data)
        return data.nbytes

    def flush(self) -> None:
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def close(self) -> None:
        """The store closes the file, when it is whole."""

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def now() -> str:
    """The time as it stands in markers, snapshots and footers: UTC, sortable as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def code_version() -> str:
    """The commit this code was checked out at (`-dirty` when files differ from it), else the installed version."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version("vislake")
