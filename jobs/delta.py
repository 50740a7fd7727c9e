"""Delta tables side by side under one root of a store, as delta-rs reads and commits them.

What their rows mean is said in `lake.py`; this file knows logs and versions, and how stores fail. Delta asks the store
to put an object only where there is none. On a store that does not keep this promise a commit may vanish under another
of the same version: each carries a mark, and is looked for. The same where a store fails in the middle of a commit,
which may stand although its acknowledgement was lost.
"""

import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from jobs.filesystems import delta_options
from jobs.store import FileRef, Store
from vis_models.config import BadConfig

APP = "vislake"
"""Under this name each table says which batch it holds."""
CONFIGURATION = {"delta.checkpointInterval": "64", "delta.deletedFileRetentionDuration": "interval 7 days"}
TRIES = 200
PATIENCE = 6
"""How often a store is asked again that fails, beyond what its client does by itself."""
WAIT_S = 1.0
"""Before a commit is looked for in a store that may let another take its place."""
Answer = TypeVar("Answer")


class DeltaTables:
    """The tables under one root, by name. Keeps what never changes, so that a store is asked seldom."""

    def __init__(self, store: Store, root: str, schemas: Mapping[str, pa.Schema]) -> None:
        """`schemas`: the last one says that all are there."""
        self.store, self.root = store, root
        self._schemas = schemas
        self._handles: dict[str, DeltaTable] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        """Table and version -> the newest batch that it holds."""
        self._added: Counter[str] = Counter()
        """Files that were put into a table since it was opened."""

    # Reading

    @property
    def exist(self) -> bool:
        last = list(self._schemas)[-1]
        return last in self._handles or self.store.exists(f"{self.root}/{last}/_delta_log")

    def create(self, descriptions: Mapping[str, str]) -> None:
        """Make those that are not there."""
        if self.exist:
            return
        for name, schema in self._schemas.items():
            uri = self.store.uri(f"{self.root}/{name}")
            while not self._is_there(name):
                if self.store.is_local:
                    os.makedirs(uri, exist_ok=True)
                make = partial(DeltaTable.create, uri, schema, name=name, description=descriptions[name])
                with suppress(CommitFailedError):  # another writer was first
                    self._asked(
                        name,
                        partial(make, mode="ignore", configuration=CONFIGURATION, storage_options=self._options),
                    )

    def open(self, name: str) -> DeltaTable:
        """The table as it is now.

        Raises:
            BadConfig: the store refuses, or fails again and again.
        """
        self._added[name] = 0
        if name in self._handles:
            self._asked(name, self._handles[name].update_incremental)
        else:
            uri = self.store.uri(f"{self.root}/{name}")
            self._handles[name] = self._asked(name, lambda: DeltaTable(uri, storage_options=self._options))
        return self._handles[name]

    def seen_last(self, name: str) -> tuple[DeltaTable, int]:
        """The table as it was when somebody looked, if anybody did, and how many files were put into it since."""
        return (self._handles[name] if name in self._handles else self.open(name)), self._added[name]

    def back_to(self, number: int, name: str) -> DeltaTable:
        """The table as it was before any batch came after the one of this number."""
        table = self.open(name)
        while self.number(name, table) > number:
            self._handles.pop(name, None)
            self._asked(name, partial(table.load_as_version, table.version() - 1))
        return table

    def number(self, name: str, table: DeltaTable) -> int:
        """Of the newest batch that the table holds."""
        version = table.version()
        if (name, version) not in self._numbers:
            self._numbers[name, version] = self._asked(name, lambda: table.transaction_version(APP)) or 0
        return self._numbers[name, version]

    def holds(self, name: str, number: int) -> bool:
        """Whether a table has this batch. What it had once it has for ever, so nobody is asked twice."""
        known = (found for (of, _), found in self._numbers.items() if of == name)
        return max(known, default=0) >= number or self.number(name, self.open(name)) >= number

    def vacuum(self, name: str, hours: float, dry_run: bool) -> list[str]:
        """Paths of files that no version of the last hours needs; they are removed."""
        table = self.open(name)
        self._handles.pop(name)
        clean = partial(table.vacuum, int(hours), dry_run, enforce_retention_duration=False, full=True)
        return self._asked(name, clean)

    # Committing

    def add(self, name: str, ref: FileRef, change: bool = True) -> AddAction:
        """`change`: rows come, and are not only moved to another file."""
        path = ref.key.removeprefix(f"{self.root}/{name}/")
        stats = ref.stats or json.dumps({"numRecords": ref.rows})
        return AddAction(path, ref.size_bytes, {}, _now_ms(), change, stats)

    def remove(self, path: str, change: bool = True) -> RemoveAction:
        """`change`: rows go."""
        return RemoveAction(path, change, _now_ms())

    def put(
        self,
        name: str,
        table: DeltaTable,
        adds: Sequence[AddAction],
        removes: Sequence[RemoveAction],
        number: int | None,
    ) -> bool:
        """Commit on top of the version that was opened; False: another commit took its place.

        Raises:
            BadConfig: the store fails, and the commit did not come about.
        """
        version, mark = table.version() + 1, uuid.uuid4().hex
        properties = CommitProperties(
            custom_metadata={"vislake": json.dumps({"batch": number, "mark": mark})},
            max_commit_retries=0,
            app_transactions=[Transaction(APP, number)] if number is not None else None,
        )
        for pause_s in _pauses(PATIENCE):
            try:
                table.create_write_transaction(
                    [*removes, *adds], mode="append", schema=table.schema(), commit_properties=properties
                )
            except CommitFailedError:
                stands = self._stands(name, version, mark)
                break
            except (DeltaError, OSError) as error:
                if stands := self._stands(name, version, mark):  # only its acknowledgement was lost
                    break
                last = error
            else:
                if not self.store.puts_once:
                    time.sleep(WAIT_S)
                stands = self.store.puts_once or self._stands(name, version, mark)
                break
            time.sleep(pause_s)
        else:
            raise BadConfig(self._failed(name, last)) from last
        if not stands:
            self._handles.pop(name, None)  # some of what it holds may be another's now
        else:
            self._numbers[name, version] = self.number(name, table) if number is None else number
            self._added[name] += len(adds)
        return stands

    def _stands(self, name: str, version: int, mark: str) -> bool:
        """Whether the commit with this mark is the one of this version."""
        key = f"{self.root}/{name}/_delta_log/{version:020d}.json"
        return self.store.exists(key) and mark.encode() in self.store.read_bytes(key)

    # Asking

    @cached_property
    def _options(self) -> dict[str, str]:
        return {} if self.store.is_local else delta_options(self.store.settings)

    def _is_there(self, name: str) -> bool:
        try:
            self.open(name)
        except TableNotFoundError:
            return False
        return True

    def _asked(self, name: str, question: Callable[[], Answer]) -> Answer:
        """Its answer, after a while if the store fails first."""
        for pause_s in _pauses(PATIENCE):
            try:
                with self.store.guard(self.store.uri(f"{self.root}/{name}")):
                    return question()
            except (CommitFailedError, TableNotFoundError):
                raise
            except (DeltaError, OSError) as error:
                if self.store.is_local:
                    raise
                last = error
            time.sleep(pause_s)
        raise BadConfig(self._failed(name, last)) from last

    def _failed(self, name: str, error: Exception) -> str:
        reason = " ".join(part for part in str(error).split() if part.isprintable())[:300]
        uri = self.store.uri(f"{self.root}/{name}")
        return f"{uri}: the store failed ({reason}). What is done is kept, the same command goes on after it"


def tries() -> Iterator[int]:
    """A while between tries, longer and longer, so that writers do not meet again."""
    for attempt, pause_s in enumerate(_pauses(TRIES)):
        yield attempt
        time.sleep(pause_s)


def _pauses(count: int) -> Iterable[float]:
    return (random.uniform(0, min(2.0, 0.01 * 2 ** min(attempt, 8))) for attempt in range(count))


def files(table: DeltaTable) -> dict[str, int]:
    """Bytes of each file of a table, in the order of their names."""
    actions = table.get_add_actions()  # not by `pa.table`, which imports pandas to see whether it is of it
    paths, sizes = (actions.column(name).to_pylist() for name in ("path", "size_bytes"))
    return dict(sorted(zip(paths, sizes, strict=True)))


def _now_ms() -> int:
    return round(time.time() * 1000)
