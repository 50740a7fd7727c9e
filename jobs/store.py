"""Keys and records on any fsspec store: a folder, or a bucket of any S3-compatible server.

Everything that is written lies under one root:

    tables/{videos,tracks,masks,errors,batches}/         what is published, see jobs/lake.py
    predictions/<plan_id>/{videos,...}/                  the same for the predictions of one evaluation
    vis/v1/_plans/<plan_id>/{plan.json,listing.parquet}  an archive with a model: what stands, which videos it has
    vis/v1/_work/<run>/                                  shards of a run, notes of attempts, how far long films are
    vis/v1/_parts/<run>/<shard>.json                     what an attempt finished and no batch has published yet
    vis/v1/{evaluations,switches,reports,...}/           what the other jobs write

No step needs a rename. An attempt writes files under names of its own, which no reader sees until a commit names them.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from pydantic import Field

from jobs.filesystems import arrow_s3, refusals, resolve, without_folders
from jobs.settings import Settings
from vis_models.config import BadConfig, Config

LAYOUT = "vis/v1"
OVERLAYS = f"{LAYOUT}/overlays"
PROBES = 8
T = TypeVar("T")
logger = logging.getLogger(__name__)
Purpose = Literal["archive", "evaluation"]


class FileRef(Config):
    """A file that was written once and is never changed."""

    key: str
    rows: int
    size_bytes: int
    sha256: str
    stats: str = ""
    """Least and largest values of its columns, as Delta writes them: JSON."""


class Part(Config):
    """What one attempt at a shard wrote. It counts as soon as a batch publishes it, see `jobs/lake.py`."""

    run_id: str
    plan_id: str
    lake: str
    """Root of the tables."""
    archive: str
    model: str
    shard: str
    attempt: str
    units: tuple[str, ...]
    replaces: tuple[str, ...] = ()
    """Published units whose rows go when these come: of the same videos before they changed or were tried again."""
    files: dict[str, FileRef]
    """By table; none where there is no row."""
    counts: dict[str, int]
    """Videos by status, frames."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Videos by the code of their error."""
    seconds: dict[str, float]
    """Busy seconds of each stage, which may overlap; `wait`: the model waited for frames; `wall`: all in all;
    `footage`: of the videos."""
    created_at: str

    @classmethod
    def removing(cls, lake: str, units: Sequence[str], run_id: str) -> "Part":
        """Nothing comes, these units go."""
        nothing: dict[str, Any] = {"units": (), "files": {}, "counts": {}, "seconds": {}}
        names = {"plan_id": "", "archive": "", "model": "", "shard": "", "attempt": ""}
        return cls(lake=lake, run_id=run_id, replaces=tuple(units), created_at=now(), **names, **nothing)


class Plan(Config):
    """An archive and the model and settings that it is segmented with: what stands in the tables for it."""

    plan_id: str
    archive: str
    """Its address."""
    name: str = ""
    """What the tables call it."""
    purpose: Purpose = "archive"
    """What it was segmented for. Queries see archives; the predictions of an evaluation are opened by naming it."""
    labels: str | None = None
    """Not None: these are no predictions, the tracker was given the objects of these labels. Only seen when named."""
    model_sha256: str
    card: dict[str, Any]
    """Of the model."""
    created_at: str
    """When a run last added to it."""
    lineage: dict[str, str]
    """The key-values that also stand in the footer of every file."""
    lake: str
    """Root of the tables that it lies in."""
    borrowed: bool = False
    """Some of its videos were segmented under another plan of the same model and settings."""
    counts: dict[str, int]
    """Videos by status, frames, and rows of each table."""
    seconds: dict[str, float]
    passed_over: tuple[dict[str, Any], ...] = ()
    """What the archive holds and was not read: `{"why", "kind", "files", "first"}`, the most frequent first."""

    @property
    def called(self) -> str:
        """The name of the archive; of plans from before there were names its address."""
        return self.name or self.archive


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

    def times(self, prefix: str) -> dict[str, float]:
        """Key of each file under `prefix/` -> when it was written, in seconds of Unix time."""
        with self.guard(self.uri(prefix)):
            found = without_folders(self.fs.find(self.path(prefix.rstrip("/")) + "/", detail=True))
        changed = {
            path: info["mtime"] if self.is_local else info["LastModified"].timestamp() for path, info in found.items()
        }
        return {path.removeprefix(self.root + "/"): at for path, at in changed.items()}

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

    @cached_property
    def puts_once(self) -> bool:
        """Whether of many who put an object where there is none one wins, also at the same moment. Asks the store."""
        if self.is_local:
            return True
        bucket, _, name = self.path(f"{LAYOUT}/_probe-{uuid.uuid4().hex}").partition("/")

        def put(number: int) -> bool:
            try:
                self.fs.call_s3("put_object", Bucket=bucket, Key=name, Body=str(number).encode(), IfNoneMatch="*")
            except OSError:
                return False
            return True

        with self.guard(self.uri("")), ThreadPoolExecutor(PROBES) as racers:
            winners = sum(racers.map(put, range(PROBES)))
            self.fs.rm(f"{bucket}/{name}")
        if winners != 1:
            logger.warning(
                "%s let %d of %d writers put one object at the same moment: commits are read back, which takes longer",
                self.uri(""), winners, PROBES,
            )  # fmt: skip
        return winners == 1

    # What was finished, and what stands

    def finish(self, part: Part) -> None:
        """Say that an attempt is whole, so that it is published even if its run ends before that."""
        self.write_bytes(part_key(part.run_id, part.shard), part.model_dump_json(indent=1).encode())

    def part(self, run_id: str, shard: str) -> Part | None:
        """What an attempt at this shard finished, or None."""
        key = part_key(run_id, shard)
        found = self.readable(
            [key] if self.exists(key) else [], lambda key: Part.model_validate_json(self.read_bytes(key))
        )
        return next((part for _, part in found), None)

    def finished(self, run_id: str | None = None) -> Sequence[Part]:
        """What was finished (by this run) and not yet published."""
        keys = self.list(f"{LAYOUT}/_parts" + (f"/{run_key(run_id)}" if run_id else ""))
        with self.guard(self.uri("")):
            found = self.fs.cat([self.path(key) for key in keys], on_error="omit") if keys else {}
        there = [key for key in keys if self.path(key) in found]  # another run may forget them meanwhile
        read = self.readable(there, lambda key: Part.model_validate_json(found[self.path(key)]))
        return [part for _, part in read]

    def forget(self, parts: Sequence[Part]) -> None:
        """Remove what says that these attempts were finished: they are published."""
        paths = [self.path(part_key(part.run_id, part.shard)) for part in parts]
        for path in paths:
            with suppress(FileNotFoundError):  # of another run that published it
                self.fs.rm(path)

    def plan(self, plan_id: str) -> Plan | None:
        """What stands for a plan, or None."""
        key = plan_key(plan_id, "plan.json")
        return Plan.model_validate_json(self.read_bytes(key)) if self.exists(key) else None

    def plans(self) -> Sequence[Plan]:
        """Everything that stands, oldest first."""

        def read(key: str) -> Plan:
            return Plan.model_validate_json(self.read_bytes(key))

        keys = [key for key in self.list(f"{LAYOUT}/_plans") if key.endswith("/plan.json")]
        found = (plan for _, plan in self.readable(keys, read))
        return sorted(found, key=lambda plan: (plan.created_at, plan.plan_id))

    def write_plan(self, plan: Plan) -> None:
        self.write_bytes(plan_key(plan.plan_id, "plan.json"), plan.model_dump_json(indent=1).encode())


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


def run_key(run_id: str) -> str:
    """A run's name may hold anything, a key may not."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:12]


def work_key(run_id: str, *names: str) -> str:
    return "/".join([f"{LAYOUT}/_work/{run_key(run_id)}", *names])


def part_key(run_id: str, shard: str) -> str:
    return f"{LAYOUT}/_parts/{run_key(run_id)}/{shard}.json"


def overlay_key(plan_id: str, video_id: str, unit: str) -> str:
    """Of the film that is drawn of a video. Tells the video to a person; one that has changed gets another film."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", video_id).strip("._")[-60:]  # ids may hold anything
    name = hashlib.sha256(video_id.encode()).hexdigest()[:8]
    return f"{OVERLAYS}/{plan_id}/{plain}-{name}-{unit[:12]}.mp4"


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
