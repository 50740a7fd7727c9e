"""The four tables of a segmented archive: what each column means, how they are written, how they are read back.

One flat row per video, per track, per mask, per error. Each column states its meaning, unit and range in the metadata
of its field. Pixel coordinates have the origin at the top left corner of the image; boxes are (x0, y0, x1, y1) with
x1, y1 exclusive. `rle` holds COCO compressed counts (column-major), as pycocotools reads them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.settings import Settings
from jobs.store import LAYOUT, FileRef, Plan, Store, plan_key
from vis_models.config import BadConfig

if TYPE_CHECKING:
    import pyarrow.dataset as ds

SCHEMA_VERSION = "2"
ROW_GROUP_ROWS = {"videos": 122_880, "tracks": 122_880, "masks": 65_536, "errors": 122_880}
ROW_GROUP_BYTES = 48 * 2**20
UNKNOWN = "missing"
"""The content id of a video that was not there."""


def _column(name: str, kind: pa.DataType, meaning: str, unit: str = "", range: str = "", null: str = "") -> pa.Field:
    """`null`: when the value is missing; empty when it never is."""
    notes = {"meaning": meaning, "unit": unit, "range": range, "null": null}
    said = [meaning, unit and f"in {unit}", range and f"range {range}", null and f"null: {null}"]
    notes["comment"] = "; ".join(filter(None, said))  # where Delta, and so Spark and others, look for it
    return pa.field(name, kind, nullable=bool(null), metadata={key: note for key, note in notes.items() if note})


_UNREAD = "the video could not be opened"
_NO_CLOCK = "the source has no clock (a frame folder without a given rate)"
_PLAN_ID = _column("plan_id", pa.string(), "the plan that made this row; joins tables of several plans")
_VIDEO_ID = _column("video_id", pa.string(), "path below the archive, or the id of the manifest; unique in a plan")
_ORIGIN = [
    _column("unit", pa.string(), "these bytes, this time range, this model and its settings"),
    _column("archive", pa.string(), "name of the archive that it was segmented with"),
    _column("model", pa.string(), "name of the model"),
]
_BOX = [
    _column(f"{edge}_px", pa.float32(), f"{meaning} edge of the box", "px", "0 to the video's size")
    for edge, meaning in [("x0", "left"), ("y0", "top"), ("x1", "right"), ("y1", "bottom")]
]

VIDEOS = pa.schema([
    _PLAN_ID,
    _VIDEO_ID,
    _column("uri", pa.string(), "where the video was read"),
    _column("status", pa.string(), "how far it came; see the table errors", range="done, partial, failed"),
    _column("content_id", pa.string(), "changes when the file changes"),
    _column("container", pa.string(), "file format, `frames` for a folder of images", null=_UNREAD),
    _column("stream", pa.int16(), "index of the stream that was read", null="the file has one video stream"),
    _column("codec", pa.string(), "video codec or image format", null=_UNREAD),
    _column("width", pa.int32(), "as shown, after rotation", "px", ">= 1", _UNREAD),
    _column("height", pa.int32(), "as shown, after rotation", "px", ">= 1", _UNREAD),
    _column("fps_num", pa.int32(), "average frame rate, numerator", "1/s", ">= 1", _NO_CLOCK),
    _column("fps_den", pa.int32(), "average frame rate, denominator", "1", ">= 1", _NO_CLOCK),
    _column("vfr", pa.bool_(), "frames are not evenly spaced in time", null=_NO_CLOCK),
    _column("clock_breaks", pa.int32(), "times that the source's time stamps began anew", "1", ">= 0", _NO_CLOCK),
    _column("n_frames", pa.int32(), "frames that were decoded", "1", ">= 0"),
    _column("duration_s", pa.float64(), "end of the last decoded frame", "s", ">= 0", _NO_CLOCK),
    _column("sampled_frames", pa.int32(), "frames that the model saw", "1", "0 to n_frames"),
    _column("n_tracks", pa.int32(), "rows in the table tracks", "1", ">= 0"),
    _column("n_masks", pa.int64(), "rows in the table masks", "1", ">= 0"),
    _column("n_low_score_tracks", pa.int32(), "tracks under min_score, not written", "1", ">= 0"),
    _column("n_dropped_births", pa.int32(), "objects that found no free slot in the tracker", "1", ">= 0"),
    _column("decode_ms", pa.int32(), "time in the decoder", "ms", ">= 0"),
    _column("infer_ms", pa.int32(), "this video's share of the time in the model", "ms", ">= 0"),
    _column("run_id", pa.string(), "the run that decoded it"),
    _column("min_score", pa.float32(), "tracks under this score were not written", "1", "0 to 1"),
    _column("retryable", pa.bool_(), "an error lies outside of the file: worth another try"),
    _column("tags", pa.map_(pa.string(), pa.string()), "further columns of the manifest", null="there are none"),
    *_ORIGIN,
])  # fmt: skip

TRACKS = pa.schema([
    _PLAN_ID,
    _VIDEO_ID,
    _column("track_id", pa.int32(), "one object from first to last frame; unique in its video", "1", ">= 0"),
    _column("category_id", pa.int16(), "id in the model's category list"),
    _column("category", pa.string(), "name in the model's category list"),
    _column("score", pa.float32(), "the model's own video score: what AP uses", "1", "0 to 1"),
    _column("other_classes", pa.map_(pa.string(), pa.float32()), "further categories that it may be, by name, each "
            "with its score; AP counts every one as a track", "1", "0 to 1", "the model names one category a track"),
    _column("score_mean", pa.float32(), "mean of masks.score", "1", "0 to 1"),
    _column("score_max", pa.float32(), "largest masks.score", "1", "0 to 1"),
    _column("first_frame", pa.int32(), "frame_idx of the first mask", "1", ">= 0"),
    _column("last_frame", pa.int32(), "frame_idx of the last mask", "1", ">= first_frame"),
    _column("n_obs", pa.int32(), "masks of this track", "1", ">= 1"),
    _column("start_s", pa.float64(), "time of the first mask", "s", ">= 0", _NO_CLOCK),
    _column("end_s", pa.float64(), "time of the last mask", "s", ">= start_s", _NO_CLOCK),
    _column("duration_s", pa.float64(), "end_s - start_s", "s", ">= 0", _NO_CLOCK),
    _column("area_mean_px", pa.float32(), "mean of masks.area_px", "px", "> 0"),
    _column("area_max_px", pa.float32(), "largest masks.area_px", "px", "> 0"),
    *_BOX,
    _column("gap_count", pa.int16(), "times it was out of sight between first_frame and last_frame", "1", ">= 0"),
    _column("stitched", pa.bool_(), "joined from windows of a long video"),
    *_ORIGIN,
])  # fmt: skip

MASKS = pa.schema([
    _PLAN_ID,
    _VIDEO_ID,
    _column("track_id", pa.int32(), "see tracks.track_id", "1", ">= 0"),
    _column("frame_idx", pa.int32(), "index among the frames that the model saw", "1", "0 to sampled_frames - 1"),
    _column("time_s", pa.float64(), "when the frame is shown", "s", ">= 0", _NO_CLOCK),
    _column("category_id", pa.int16(), "the category of the whole track"),
    _column("category", pa.string(), "its name in the model's category list"),
    _column("track_score", pa.float32(), "tracks.score of the whole track", "1", "0 to 1"),
    _column("score", pa.float32(), "confidence of the track in this frame", "1", "0 to 1"),
    _column("area_px", pa.int32(), "pixels of the mask", "px", ">= 1"),
    *_BOX,
    _column("height_px", pa.int32(), "height of the mask's canvas: the video's", "px", ">= 1"),
    _column("width_px", pa.int32(), "width of the mask's canvas: the video's", "px", ">= 1"),
    _column("rle", pa.large_binary(), "the mask: COCO compressed counts, column-major"),
    *_ORIGIN,
])  # fmt: skip

ERRORS = pa.schema([
    _PLAN_ID,
    _VIDEO_ID,
    _column("uri", pa.string(), "where the video was read"),
    _column("stage", pa.string(), "where it went wrong", range="open, decode"),
    _column("code", pa.string(), "short and stable reason, fit for GROUP BY"),
    _column("detail", pa.string(), "what was expected, what came, where, what to try"),
    _column("attempt", pa.int16(), "which attempt at the shard met it", "1", ">= 1"),
    _column("t0", pa.float64(), "time of the last good frame before the damage", "s", ">= 0", "no frame or no clock"),
    _column("t1", pa.float64(), "time of the first good frame after it", "s", ">= t0", "nothing after it was read"),
    _column("retryable", pa.bool_(), "the reason lies outside of the file: mend it and run again"),
    _column("host", pa.string(), "machine that met it"),
    *_ORIGIN,
])  # fmt: skip

SCHEMAS = {"videos": VIDEOS, "tracks": TRACKS, "masks": MASKS, "errors": ERRORS}
SORTED_BY = {
    "videos": ["video_id"],
    "tracks": ["category_id", "video_id", "track_id"],
    "masks": ["video_id", "track_id", "frame_idx"],
    "errors": ["code", "video_id"],
}
PRUNED_BY = {"video_id", "plan_id", "unit", "archive", "model", "category_id", "score", "time_s", "code", "status"}
"""Columns whose least and largest values in a file Delta knows, so that readers pass over files."""
FOOTER = {  # what the footer of every file says, beside the lineage of its run
    "schema_version": SCHEMA_VERSION,
    "coordinates": "pixels, origin at the top left corner of the image, boxes x0 y0 x1 y1 with x1 y1 exclusive",
    "rle_encoding": "COCO compressed counts, column-major, canvas height_px x width_px",
    "writer": f"pyarrow {pa.__version__}",
}


class TableWriter:
    """Writes one file of one table, row group by row group."""

    def __init__(self, output: Any, name: str, footer: dict[str, str]) -> None:
        schema = SCHEMAS[name]
        floats = [field.name for field in schema if field.type == pa.float32()]
        self.rows = 0
        self._limit = ROW_GROUP_ROWS[name]
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._written: list[pq.FileMetaData] = []
        self._parquet = pq.ParquetWriter(
            output,
            schema.with_metadata(FOOTER | footer),
            compression="zstd",
            compression_level=3,
            use_dictionary=[field.name for field in schema if field.type == pa.string()],
            use_byte_stream_split=floats,
            write_statistics=[field.name for field in schema if field.name != "rle"],
            write_page_index=True,
            sorting_columns=pq.SortingColumn.from_ordering(schema, [(key, "ascending") for key in SORTED_BY[name]]),
            metadata_collector=self._written,
        )

    def write(self, rows: pa.Table) -> None:
        """Rows in the order of SORTED_BY, after those already written."""
        self._waiting.append(rows)
        self.rows += rows.num_rows
        self._waiting_rows += rows.num_rows
        self._waiting_bytes += rows.nbytes
        if self._waiting_rows >= self._limit or self._waiting_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Ends the row group."""
        if self._waiting:
            rows = pa.concat_tables(self._waiting).cast(self._schema)
            self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
            self._parquet.write_table(rows, row_group_size=self._limit)

    def close(self) -> None:
        self._parquet.close()

    @property
    def stats(self) -> str:
        """Rows, least and largest values of the file, once it is closed, as Delta's log has them."""
        (metadata,) = self._written
        least: dict[str, Any] = {}
        largest: dict[str, Any] = {}
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for place in range(group.num_columns):
                column = group.column(place)
                found = column.statistics
                name = column.path_in_schema
                if name not in PRUNED_BY or not found or not found.has_min_max or len(str(found.max)) > 256:
                    continue
                least[name] = min(least.get(name, found.min), found.min)
                largest[name] = max(largest.get(name, found.max), found.max)
        return json.dumps({"numRecords": self.rows, "minValues": least, "maxValues": largest, "nullCount": {}})


@contextmanager
def create(
    store: Store, key: str, name: str, footer: dict[str, str], refs: dict[str, FileRef]
) -> Iterator[TableWriter]:
    """A new file of table `name`, sorted by the caller. When it is whole, `refs[name]` says what was written."""
    with store.create(key) as output, closing(TableWriter(output, name, footer)) as writer:
        yield writer
        writer.flush()
    refs[name] = FileRef(
        key=key, rows=writer.rows, size_bytes=output.size_bytes, sha256=output.sha256, stats=writer.stats
    )


def from_rows(name: str, rows: Iterable[dict[str, Any]]) -> pa.Table:
    """A sorted table from dictionaries with one value per column; missing keys are null."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMAS[name])
    return table.sort_by([(key, "ascending") for key in SORTED_BY[name]])


def conform(rows: pa.Table, name: str) -> pa.Table:
    """Rows as another writer wrote them, with the columns and types of the table `name`; absent columns are null."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in SCHEMAS[name]
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMAS[name])


def open(root: str | Store, plan_id: str | None = None) -> "dict[str, ds.Dataset]":
    """The published tables under a store's root, by name: `open(".vis")["masks"]` is a pyarrow dataset.

    Args:
        root: a folder, `s3://bucket/prefix` (credentials from the settings), or an open store.
        plan_id: as in `choose`. None: one result of each video of the archives; the column `plan_id` says whose.

    Raises:
        BadConfig: nothing was published under this root, or not this plan.
    """
    import pyarrow.compute as pc

    store = root if isinstance(root, Store) else Store.open(Settings(store=root))
    plans = choose(store, plan_id)
    keys, wanted = files(store, plans), rows_of(store, plans)
    hidden = [
        ~((pc.field("plan_id") == plan) & pc.field("video_id").isin(sorted(videos)))
        for plan, videos in (replaced(store, plans) if plan_id is None else {}).items()
    ]
    opened = {}
    for name, schema in SCHEMAS.items():
        opened[name] = dataset(store, schema, keys[name])
        for rows in [*([] if wanted is None else [wanted]), *hidden]:
            opened[name] = opened[name].filter(rows)
    return opened


def pages(store: Store, plan: Plan, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a plan file by file and page by page, sorted within a file as SORTED_BY says.

    A scan of the dataset would hold whole row groups, several at a time.
    """
    wanted = rows_of(store, [plan])
    read = list(columns) if wanted is None else [*columns, *({"plan_id", "unit"} - {*columns})]
    for key in files(store, [plan])[name]:
        with store.arrow.open_input_file(store.path(key)) as file:
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
            for batch in parquet.iter_batches(batch_size=4096, columns=read, use_threads=False):
                if wanted is None:
                    yield batch
                else:
                    rows = pa.Table.from_batches([batch]).filter(wanted).select(list(columns))
                    yield from rows.combine_chunks().to_batches()
                pa.default_memory_pool().release_unused()  # or it keeps 30 MB of pages that have been read


def choose(store: Store, plan: str | None = None) -> Sequence[Plan]:
    """The plans that are meant, oldest first.

    Args:
        plan: a plan's id or the beginning of one; the name of an archive: the newest of it; `latest`: the archive that
            was segmented last; `all`: every plan with predictions, those made for evaluations too; None: every archive.

    Raises:
        BadConfig: nothing was published, or no plan is meant, or several are.
    """
    published = [standing for standing in store.plans() if standing.counts["videos"]]
    predicted = [standing for standing in published if not standing.labels]
    archives = [standing for standing in predicted if standing.purpose == "archive"]
    meant = {None: archives, "latest": archives[-1:], "all": predicted}.get(plan)
    if meant is None:
        meant = [standing for standing in published if standing.plan_id == plan]
        meant = meant or [standing for standing in predicted if standing.called == plan][-1:]
        meant = meant or [standing for standing in published if plan and standing.plan_id.startswith(plan)]
        if len(meant) == 1:
            return meant
        known = ", ".join(f"{standing.plan_id} ({standing.called})" for standing in (meant or published)[-5:])
        if meant:
            raise BadConfig(f"{len(meant)} published plans begin with {plan}, name one (newest last): {known}")
        if published:
            raise BadConfig(f"no published plan {plan} in {store.uri('')}, expected one of (newest last): {known}")
    if not meant and predicted:
        raise BadConfig(
            f"{store.uri('')} has tables of evaluations only, no archive was segmented yet: run `vis segment`, or "
            "look at what was evaluated with --plan all, --plan ID or --evaluation latest"
        )
    if not meant and store.list(f"{LAYOUT}/_snapshots"):
        raise BadConfig(f"{store.uri('')} has tables of version 1: bring them over with `vis tables migrate`")
    if not meant:
        raise BadConfig(
            f"{store.uri('')} has no published tables: run `vis segment` or `vis evaluate` first, or set VIS_STORE"
        )
    return meant


def files(store: Store, plans: Sequence[Plan]) -> dict[str, list[str]]:
    """Keys of the files of each table in which the rows of these plans lie, those of others among them."""
    from jobs.lake import Lake  # it writes what this file describes

    lakes = [Lake(store, root).files() for root in dict.fromkeys(plan.lake for plan in plans)]
    return {name: [key for keys in lakes for key in keys[name]] for name in SCHEMAS}


def hold_others(store: Store, plans: Sequence[Plan]) -> bool:
    """Whether rows of other plans lie in the files of these."""
    ids, lakes = {plan.plan_id for plan in plans}, {plan.lake for plan in plans}
    return any(plan.plan_id not in ids for plan in store.plans() if plan.lake in lakes)


def rows_of(store: Store, plans: Sequence[Plan]) -> Any:
    """An expression for the rows of these plans in their files; None: all are theirs."""
    import pyarrow.compute as pc

    if not hold_others(store, plans):
        return None
    rows = pc.field("plan_id").isin(sorted(plan.plan_id for plan in plans))
    for plan in plans:
        if plan.borrowed:
            rows |= pc.field("unit").isin(units_of(store, plan.plan_id))
    return rows


def units_of(store: Store, plan_id: str) -> list[str]:
    """The units of the videos that the archive of a plan held when it was looked at last."""
    with store.arrow.open_input_file(store.path(plan_key(plan_id, "listing.parquet"))) as file:
        return pq.ParquetFile(file).read(["unit"], use_threads=False)["unit"].to_pylist()


def replaced(store: Store, plans: Sequence[Plan]) -> dict[str, set[str]]:
    """Plan -> ids of its videos that a newer one of the plans covers too, so that one result of each video is left.

    A video is the same where it was read at the same address, or where a file of the same name has the same content
    id: one film in two archives, or a copy that kept its time of change. Whatever the newer plan says of it counts,
    also that it could not be read.
    """
    if len(plans) < 2:
        return {}
    columns = ["plan_id", "video_id", "uri", "content_id"]
    rows = columns_of(store, files(store, plans)["videos"], columns)
    by_plan: dict[str, dict[str, set[str | tuple[str, str]]]] = {}
    for plan_id, video_id, uri, content_id in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        marks = {uri} | ({(content_id, uri.rsplit("/", 1)[-1])} if content_id != UNKNOWN else set())
        by_plan.setdefault(plan_id, {})[video_id] = marks
    covered: set[str | tuple[str, str]] = set()
    hidden: dict[str, set[str]] = {}
    for plan in reversed(plans):
        found = by_plan.get(plan.plan_id, {})
        if older := {video_id for video_id, marks in found.items() if marks & covered}:
            hidden[plan.plan_id] = older
        covered.update(*found.values())
    return hidden


PASSED_OVER = pa.schema([
    _PLAN_ID,
    _column("archive", pa.string(), "name of the archive that it was segmented with"),
    _column("why", pa.string(), "why these files are not read"),
    _column("kind", pa.string(), "the ending of their names"),
    _column("files", pa.int64(), "how many there are", "1", ">= 1"),
    _column("first", pa.string(), "the first of them, below the archive"),
])  # fmt: skip


def passed_over(plans: Sequence[Plan]) -> list[tuple[Any, ...]]:
    """What lay in the archives of these plans and was not read, a row of PASSED_OVER each."""
    return [
        (plan.plan_id, plan.called, *(row[name] for name in PASSED_OVER.names[2:]))
        for plan in plans
        for row in plan.passed_over
    ]


def categories(plan: Plan) -> dict[int, str]:
    """Category id -> name of the model that made these tables."""
    return {int(key): name for key, name in json.loads(plan.lineage["class_map_json"]).items()}


def columns_of(store: Store, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Some columns of all rows of Parquet files, at once and without threads."""
    found = []
    for key in keys:
        with store.arrow.open_input_file(store.path(key)) as file:
            found.append(pq.ParquetFile(file).read(list(columns), use_threads=False))
    return pa.concat_tables(found) if found else pa.Table.from_pydict({name: [] for name in columns})


def dataset(store: Store, schema: pa.Schema, keys: Sequence[str]) -> "ds.Dataset":
    """Parquet files of a store as one; columns that older files lack are null."""
    import pyarrow.dataset as ds  # half a second, which short commands need not pay

    if not keys:
        return ds.dataset(schema.empty_table())
    return ds.dataset([store.path(key) for key in keys], schema=schema, format="parquet", filesystem=store.arrow)
