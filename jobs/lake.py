"""Published tables: Delta tables side by side under one root, of which any engine reads what counts and nothing else.

    tables/videos, tracks, masks, errors     one row per video, track, mask, error
    tables/batches                           one row per commit: what it added, for which run, at what cost

Workers write files under names of their own, into the folders of the tables; no reader sees them until a commit names
them. A commit is a batch: its files of all four tables, and the units of work whose rows they replace. The row of the
batch comes first and is the decision: batches are numbered, two writers cannot take one number, and a batch is never
made of units that an earlier one published. Then the batch is added to masks, tracks, errors and, last, to videos,
each with its number as Delta's application transaction. Whoever finds a batch that did not reach all tables, because
its writer was killed, brings it there before anything else. So every unit has its rows once, or not at all. How a
commit comes to stand on a store that fails or forgets is said in `delta.py`.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from jobs import tables
from jobs.delta import DeltaTables, files, tries
from jobs.store import FileRef, Part, Store, now
from vis_models.config import BadConfig, Config

ROOT = "tables"
ORDER = ("masks", "tracks", "errors", "videos")
"""In which a batch reaches the tables: a video is seen when all of it is there."""
BATCHES = pa.schema([
    ("number", pa.int64()), ("run_id", pa.string()), ("plan_id", pa.string()), ("archive", pa.string()),
    ("model", pa.string()), ("created_at", pa.string()), ("what", pa.string()), ("units", pa.int64()),
    ("done", pa.int64()), ("partial", pa.int64()), ("failed", pa.int64()), ("frames", pa.int64()),
    ("tracks", pa.int64()), ("masks", pa.int64()), ("errors", pa.int64()), ("duration_s", pa.float64()),
    ("decode_s", pa.float64()), ("encode_s", pa.float64()), ("step_s", pa.float64()), ("rle_s", pa.float64()),
    ("write_s", pa.float64()), ("wall_s", pa.float64()), ("content", pa.string()),
])  # fmt: skip
TARGET_BYTES = 256 * 2**20
"""Of a file, after small ones were merged."""


class Batch(Config):
    """What one commit adds and removes."""

    number: int
    files: dict[str, tuple[FileRef, ...]]
    replaces: tuple[str, ...] = ()
    """Units whose rows go."""


class Lake:
    """The tables under one root of a store."""

    def __init__(self, store: Store, root: str = ROOT) -> None:
        self.store, self.root = store, root
        self._delta = DeltaTables(store, root, {**tables.SCHEMAS, "batches": BATCHES})
        self._seen: dict[str, frozenset[str]] = {}
        """File of the table videos -> its units; files never change."""

    # What is published

    @property
    def exists(self) -> bool:
        return self._delta.exist

    def files(self) -> dict[str, list[str]]:
        """Keys of the files of each table that belong together: those of all batches whose videos are seen."""
        if not self.exists:
            return {name: [] for name in ORDER}
        videos = self._delta.open("videos")
        number = self._delta.number("videos", videos)
        opened = {name: self._delta.back_to(number, name) for name in ORDER[:-1]} | {"videos": videos}
        return {name: self._keys(name, opened[name]) for name in ORDER}

    def known(self, units: Iterable[str]) -> set[str]:
        """Those of the units that are published."""
        keys = self._keys("videos", self._delta.open("videos"))
        self._seen = {key: self._seen[key] for key in keys if key in self._seen}
        for key in [key for key in keys if key not in self._seen]:
            self._seen[key] = frozenset(self._column(key, "unit"))
        wanted = set(units)
        return {unit for found in self._seen.values() for unit in wanted & found}

    def batches(self) -> pa.Table:
        """One row per commit, as in BATCHES, oldest first."""
        if not self.exists:
            return BATCHES.empty_table()
        keys = self._keys("batches", self._delta.open("batches"))
        found = pa.concat_tables([BATCHES.empty_table(), *(self.store.read_table(key).cast(BATCHES) for key in keys)])
        return found.sort_by("number")

    def seconds(self, plan_id: str) -> dict[str, float]:
        """What it took to make the rows of a plan: busy seconds of each stage."""
        import pyarrow.compute as pc

        rows = self.batches()
        rows = rows.filter(pc.equal(rows["plan_id"], plan_id))
        return {stage: float(pc.sum(rows[f"{stage}_s"]).as_py() or 0) for stage in STAGES}

    # Committing

    def commit(self, parts: Sequence[Part], what: str = "segment") -> None:
        """Publish what attempts of one run wrote: each of their units once, all of it or nothing.

        Units that are published already keep their rows, unless a part says that it replaces them.
        """
        self._delta.create(DESCRIPTIONS)
        for _ in tries():
            log = self._delta.open("batches")  # of this version: what others commit from now on makes ours fail
            self._settle(log)
            fresh = self._fresh(parts)
            if not fresh:
                return
            replaces = tuple(sorted({unit for part in fresh for unit in part.replaces}))
            files = {name: tuple(part.files[name] for part in fresh if name in part.files) for name in ORDER}
            batch = Batch(number=self._delta.number("batches", log) + 1, files=files, replaces=replaces)
            ref = self._write_row(batch, fresh, what)
            if self._delta.put("batches", log, [self._delta.add("batches", ref)], [], batch.number):
                self._settle(self._delta.open("batches"))
                self._seen |= {
                    part.files["videos"].key: frozenset(part.units) for part in fresh if "videos" in part.files
                }
                return
            with suppress(OSError):
                self.store.fs.rm(self.store.path(ref.key))
        raise BadConfig(f"{self.store.uri(self.root)}: others commit all the time; try again when fewer runs go on")

    def remove(self, units: Sequence[str], run_id: str, what: str) -> None:
        """Take all rows of these units out of the tables."""
        self.commit([Part.removing(self.root, units, run_id)], what)

    def rename(self, names: Mapping[str, tuple[str, str]], over: Sequence[str], run_id: str) -> None:
        """Give videos that were moved their new names in all tables.

        Args:
            names: (video id, uri) by unit.
            over: units that had these names before, whose rows go.
        """
        import pyarrow.compute as pc

        files: dict[str, FileRef] = {}
        keys = self.files()
        for name, schema in tables.SCHEMAS.items():
            moved = pc.field("unit").isin(sorted(names))
            rows = tables.dataset(self.store, schema, keys[name]).to_table(filter=moved, use_threads=False)
            for place, column in enumerate(("video_id", "uri")):
                if column in schema.names and len(rows):
                    new = pa.array([names[unit][place] for unit in rows["unit"].to_pylist()], pa.string())
                    rows = rows.set_column(schema.get_field_index(column), schema.field(column), new)
            if len(rows):
                with tables.create(self.store, self.new_key(name), name, {}, files) as writer:
                    writer.write(rows.sort_by([(key, "ascending") for key in tables.SORTED_BY[name]]))
        part = Part.removing(self.root, sorted({*names, *over}), run_id)
        self.commit([part.model_copy(update={"units": tuple(sorted(names)), "files": files})], "rename")

    def _settle(self, log: DeltaTable) -> None:
        """Bring the newest batch to all tables, if its writer did not come to that."""
        number = self._delta.number("batches", log)
        behind = [name for name in ORDER if not self._delta.holds(name, number)]
        if behind:
            (path,) = [path for path in files(log) if path.startswith(f"{number:010d}-")]
            row = self.store.read_table(f"{self.root}/batches/{path}").to_pylist()[0]
            batch = Batch.model_validate_json(row["content"])
            for name in behind:
                self._apply(name, batch)

    def _apply(self, name: str, batch: Batch) -> None:
        for _ in tries():
            table = self._delta.open(name)
            if self._delta.number(name, table) >= batch.number:
                return
            adds = [self._delta.add(name, ref) for ref in batch.files[name]]
            removes: list[RemoveAction] = []
            if batch.replaces:
                rewritten, removes = self._without(name, table, set(batch.replaces))
                adds += rewritten
            if self._delta.put(name, table, adds, removes, batch.number):
                return
        raise BadConfig(f"{self.store.uri(self.root)}/{name}: others commit all the time; try again later")

    def _fresh(self, parts: Sequence[Part]) -> list[Part]:
        """The parts without what is published already, also by this run before it was killed."""
        known = self.known(unit for part in parts for unit in (*part.units, *part.replaces))
        runs = self._runs(known & {unit for part in parts for unit in part.replaces})
        fresh, taken = [], set[str]()
        for part in parts:
            again = {unit for unit in part.replaces if runs.get(unit) != part.run_id}
            new = {unit for unit in part.units if unit not in taken and (unit not in known or unit in again)}
            taken |= new
            if new == set(part.units) and (new or known.intersection(part.replaces)):
                fresh.append(part)
            elif new:
                fresh.append(self._cut(part, new))
        return fresh

    def _runs(self, units: set[str]) -> dict[str, str]:
        """The run that each of these published units is from."""
        if not units:
            return {}
        import pyarrow.compute as pc

        keys = self._keys("videos", self._delta.open("videos"))
        rows = tables.dataset(self.store, tables.VIDEOS, keys).to_table(
            columns=["unit", "run_id"], filter=pc.field("unit").isin(sorted(units)), use_threads=False
        )
        return dict(zip(rows["unit"].to_pylist(), rows["run_id"].to_pylist(), strict=True))

    def _cut(self, part: Part, units: set[str]) -> Part:
        """The part with these of its units alone, in files of its own: another run published the others."""
        files = {}
        for name, ref in part.files.items():
            if kept := self._rewrite(name, ref.key, units, keep=True):
                files[name] = kept
        return part.model_copy(update={"units": tuple(sorted(units)), "files": files})

    def _without(self, name: str, table: DeltaTable, units: set[str]) -> tuple[list[AddAction], list[RemoveAction]]:
        """Replacements for the files that hold rows of these units, and those files."""
        adds, removes = [], []
        for path in files(table):
            key = f"{self.root}/{name}/{path}"
            if units.isdisjoint(self._column(key, "unit")):
                continue
            removes.append(self._delta.remove(path))
            if rest := self._rewrite(name, key, units, keep=False):
                adds.append(self._delta.add(name, rest))
        return adds, removes

    def _rewrite(self, name: str, key: str, units: set[str], keep: bool) -> FileRef | None:
        """A file with only (`keep`), or without, the rows of these units; None: no row is left."""
        import pyarrow.compute as pc

        wanted = pa.array(sorted(units))
        with self.store.arrow.open_input_file(self.store.path(key)) as file:
            parquet = pq.ParquetFile(file)
            footer = {key.decode(): value.decode() for key, value in (parquet.metadata.metadata or {}).items()}
            refs: dict[str, FileRef] = {}
            rows = 0
            with tables.create(self.store, self.new_key(name), name, footer, refs) as writer:
                for batch in parquet.iter_batches(batch_size=8192, use_threads=False):
                    chosen = pc.is_in(batch["unit"], value_set=wanted)
                    left = pa.Table.from_batches([batch.filter(chosen if keep else pc.invert(chosen))])
                    rows += left.num_rows
                    if left.num_rows:
                        writer.write(tables.conform(left, name))
        if rows:
            return refs[name]
        self.store.fs.rm(self.store.path(refs[name].key))
        return None

    # Upkeep

    def compact(self, least: int = 2, dry_run: bool = False) -> dict[str, tuple[int, int]]:
        """Table -> (small files, larger ones that take their place), where a table has at least so many small ones.

        Rows stay as they are, sorted over all files that are merged. Where somebody else commits meanwhile, nothing
        is changed, and the next one will do it.
        """
        done = {}
        for name in (*ORDER, "batches") if self.exists else ():
            seen, more = self._delta.seen_last(name)
            if len(_small(name, seen)) + more < least:
                continue
            table = self._delta.open(name)
            sizes = _small(name, table)
            small = sorted(sizes)
            if len(small) < least:
                continue
            if dry_run:
                done[name] = (len(small), max(1, sum(sizes[path] for path in small) // TARGET_BYTES))
                continue
            merged = [ref for group in _groups(small, sizes) for ref in self._merge(name, group)]
            adds = [self._delta.add(name, ref, change=False) for ref in merged]
            if self._delta.put(name, table, adds, [self._delta.remove(path, change=False) for path in small], None):
                done[name] = (len(small), len(merged))
            else:
                self.store.fs.rm([self.store.path(ref.key) for ref in merged])
        return done

    def _merge(self, name: str, paths: Sequence[str]) -> list[FileRef]:
        keys = [f"{self.root}/{name}/{path}" for path in paths]
        if name == "batches":
            rows = pa.concat_tables(self.store.read_table(key).cast(BATCHES) for key in keys).sort_by("number")
            key = f"{self.root}/batches/{rows['number'][-1].as_py():010d}-{uuid.uuid4().hex[:12]}.parquet"
            return [self._write(key, rows)]
        import duckdb  # sorts what does not fit into memory

        refs: dict[str, FileRef] = {}
        with (
            duckdb.connect(config={"preserve_insertion_order": "false"}) as connection,
            tables.create(self.store, self.new_key(name), name, {}, refs) as writer,
        ):
            connection.register("parts", tables.dataset(self.store, tables.SCHEMAS[name], keys))
            order = ", ".join(tables.SORTED_BY[name])
            for batch in connection.sql(f"FROM parts ORDER BY {order}").to_arrow_reader(8192):
                writer.write(tables.conform(pa.Table.from_batches([batch]), name))
        return [refs[name]]

    def vacuum(self, hours: float, dry_run: bool = True) -> list[str]:
        """Files that no version of the last hours needs, those that no commit ever named among them; removes them.

        What a run has written and not yet published is younger than its run: never use less time than runs take.
        """
        gone = []
        for name in (*ORDER, "batches") if self.exists else ():
            gone += [f"{self.root}/{name}/{path}" for path in self._delta.vacuum(name, hours, dry_run)]
        return gone

    def verify(self) -> list[str]:
        """What is wrong with the tables, a sentence each; none: every promise is kept."""
        wrong = []
        keys = self.files()
        newest = self._delta.number("batches", self._delta.open("batches"))
        for name in ORDER:
            table = self._delta.open(name)
            if self._delta.number(name, table) < newest:
                wrong.append(f"{name} has not got batch {newest} yet: the next run or `vis tables compact` brings it")
            for file, size_bytes in files(table).items():
                path = self.store.path(f"{self.root}/{name}/{file}")
                size = self.store.fs.size(path) if self.store.fs.exists(path) else None
                if size != size_bytes:
                    found = "is not there" if size is None else f"has {size} bytes"
                    wrong.append(f"{name}/{file} {found}, the log says {size_bytes}: bring it back")
        if wrong:
            return wrong
        units: dict[str, list[str]] = {
            name: [unit for key in keys[name] for unit in self._column(key, "unit")] for name in ORDER
        }
        rows = tables.dataset(self.store, tables.VIDEOS, keys["videos"]).to_table(columns=["unit"], use_threads=False)
        published = rows["unit"].to_pylist()
        if twice := len(published) - len(set(published)):
            wrong.append(f"videos has {twice} units more than once")
        for name in ORDER[:-1]:
            if strangers := set(units[name]) - set(published):
                wrong.append(f"{name} has rows of {len(strangers)} units that videos has not: {sorted(strangers)[:3]}")
        return wrong

    # Files

    def new_key(self, name: str) -> str:
        """Of a file that nobody else writes."""
        return f"{self.root}/{name}/part-{uuid.uuid4().hex}.parquet"

    def _keys(self, name: str, table: DeltaTable) -> list[str]:
        return [f"{self.root}/{name}/{path}" for path in files(table)]

    def _write_row(self, batch: Batch, parts: Sequence[Part], what: str) -> FileRef:
        count = {key: sum(part.counts.get(key, 0) for part in parts) for key in ("done", "partial", "failed", "frames")}
        spent = {f"{key}_s": sum(part.seconds.get(key, 0.0) for part in parts) for key in STAGES}
        row = {
            "number": batch.number,
            "run_id": parts[0].run_id,
            "plan_id": parts[0].plan_id,
            "archive": parts[0].archive,
            "model": parts[0].model,
            "created_at": now(),
            "what": what,
            "units": sum(len(part.units) for part in parts),
            **count,
            **{name: sum(ref.rows for ref in batch.files[name]) for name in ("tracks", "masks", "errors")},
            "duration_s": sum(part.seconds.get("footage", 0.0) for part in parts),
            **spent,
            "content": batch.model_dump_json(),
        }
        key = f"{self.root}/batches/{batch.number:010d}-{uuid.uuid4().hex[:12]}.parquet"
        return self._write(key, pa.Table.from_pylist([row], schema=BATCHES))

    def _write(self, key: str, rows: pa.Table) -> FileRef:
        with self.store.create(key) as output:
            pq.write_table(rows, output, compression="zstd")
        return FileRef(key=key, rows=len(rows), size_bytes=output.size_bytes, sha256=output.sha256)

    def _column(self, key: str, name: str) -> list[Any]:
        with self.store.arrow.open_input_file(self.store.path(key)) as file:
            return pq.ParquetFile(file).read([name], use_threads=False)[name].unique().to_pylist()


STAGES = ("decode", "encode", "step", "rle", "write", "wall")
DESCRIPTIONS = {
    "videos": "one row per video that was segmented; a video is published when its row is here",
    "tracks": "one row per object of a video, from its first frame to its last",
    "masks": "one row per object and frame; rle: COCO compressed counts, column-major",
    "errors": "one row per video that was not read, or not to its end",
    "batches": "one row per commit: what it added, for which run, at what cost",
}


def _groups(paths: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Paths in order, together about as large as a file shall be."""
    group: list[str] = []
    for path in paths:
        group.append(path)
        if sum(sizes[each] for each in group) >= TARGET_BYTES:
            yield group
            group = []
    if group:
        yield group


def _small(name: str, table: DeltaTable) -> dict[str, int]:
    """Bytes of the files that are worth merging."""
    small = {path: size for path, size in files(table).items() if size < TARGET_BYTES // 2}
    if name == "batches" and small:
        del small[max(small)]  # the newest batch may be still on its way
    return small
