"""Questions in SQL over published tables, wherever they lie: views, named queries, and answers in four formats.

DuckDB reads the tables through pyarrow, so S3 needs no extension. A statement sees the views and nothing else: no
file, no network, no variable of this process.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jobs import evaluations, tables, tracking
from jobs.store import Store
from vis_models.config import BadConfig

WIDEST = 48
"""Characters of a value in a printed table."""


class NamedQuery(NamedTuple):
    """A question that is asked often."""

    asks: str
    sql: str


NAMED_QUERIES = {
    "objects-per-class": NamedQuery(
        "How many objects of each class, in how many videos, how sure?",
        """
        SELECT category, count(*) AS objects, count(DISTINCT video_id) AS videos, sum(n_obs) AS masks,
               round(avg(score), 3) AS mean_score
        FROM tracks GROUP BY category ORDER BY objects DESC, category
        """,
    ),
    "longest-tracks": NamedQuery(
        "Which objects are in sight for the most frames?",
        """
        SELECT video_id, track_id, category, n_obs AS frames, first_frame, last_frame, duration_s, gap_count, score
        FROM tracks ORDER BY n_obs DESC, score DESC, video_id, track_id LIMIT 20
        """,
    ),
    "busiest-videos": NamedQuery(
        "Which videos show the most objects in one frame, and when?",
        """
        WITH crowds AS (
            SELECT plan_id, video_id, frame_idx, any_value(time_s) AS time_s, count(*) AS objects
            FROM masks GROUP BY plan_id, video_id, frame_idx
        )
        SELECT video_id, objects AS objects_at_once, frame_idx AS at_frame, time_s AS at_s,
               round(avg(objects) OVER (PARTITION BY plan_id, video_id), 1) AS mean_objects
        FROM crowds
        QUALIFY row_number() OVER (PARTITION BY plan_id, video_id ORDER BY objects DESC, frame_idx) = 1
        ORDER BY objects_at_once DESC, mean_objects DESC, video_id LIMIT 20
        """,
    ),
    "seen-together": NamedQuery(
        "Which classes are in the same frame, and how often?",
        """
        WITH present AS (
            SELECT plan_id, video_id, frame_idx, category, count(*) AS objects
            FROM masks JOIN tracks USING (plan_id, video_id, track_id)
            GROUP BY plan_id, video_id, frame_idx, category
        )
        SELECT a.category, b.category AS with_category, count(*) AS frames, count(DISTINCT a.video_id) AS videos
        FROM present a JOIN present b USING (plan_id, video_id, frame_idx)
        WHERE a.category < b.category OR (a.category = b.category AND a.objects > 1)
        GROUP BY a.category, b.category ORDER BY frames DESC, a.category, b.category
        """,
    ),
    "lost-and-found": NamedQuery(
        "Which objects went out of sight and came back as themselves?",
        """
        SELECT video_id, track_id, category, gap_count, last_frame - first_frame + 1 - n_obs AS frames_missed, score
        FROM tracks WHERE gap_count > 0 ORDER BY frames_missed DESC, video_id, track_id LIMIT 20
        """,
    ),
    "area-over-time": NamedQuery(
        "How large is the longest track, frame by frame? (Name your own video and track in the WHERE.)",
        """
        SELECT video_id, track_id, frame_idx, time_s, area_px, score
        FROM masks
        WHERE (plan_id, video_id, track_id) =
              (SELECT (plan_id, video_id, track_id) FROM tracks ORDER BY n_obs DESC, score DESC, video_id LIMIT 1)
        ORDER BY frame_idx
        """,
    ),
    "errors-by-code": NamedQuery(
        "What went wrong, how often, and what does it say?",
        """
        SELECT code, stage, count(*) AS videos, bool_or(retryable) AS retryable, any_value(detail) AS example
        FROM errors GROUP BY code, stage ORDER BY videos DESC, code
        """,
    ),
    "video-status": NamedQuery(
        "How far did the videos come, and what did they cost?",
        """
        SELECT status, count(*) AS videos, sum(n_frames) AS frames, round(sum(duration_s) / 3600, 3) AS hours,
               sum(n_tracks) AS tracks, sum(n_low_score_tracks) AS low_score_tracks,
               sum(n_dropped_births) AS dropped_births,
               round(1000 * sum(n_frames) / nullif(sum(infer_ms), 0), 1) AS frames_per_s_in_model
        FROM videos GROUP BY status ORDER BY status
        """,
    ),
    "score-history": NamedQuery(
        "How did the score of each data set change from evaluation to evaluation?",
        """
        SELECT created_at, data, coalesce(model_name, results) AS scored, left(model_sha256, 12) AS model,
               max(value) FILTER (metric = 'AP') AS AP, max(value) FILTER (metric = 'AP50') AS AP50,
               max(value) FILTER (metric = 'AR10') AS AR10, max(value) FILTER (metric = 'HOTA') AS HOTA,
               rules, evaluation_id
        FROM evaluations WHERE category IS NULL AND video_id IS NULL AND recall IS NULL
        GROUP BY ALL ORDER BY created_at
        """,
    ),
    "ap-per-category": NamedQuery(
        "Which categories does the newest evaluation do well, which badly?",
        """
        SELECT category, max(value) FILTER (metric = 'AP') AS AP, max(value) FILTER (metric = 'AP50') AS AP50,
               max(value) FILTER (metric = 'AR10') AS AR10, max(value) FILTER (metric = 'HOTA') AS HOTA,
               max(value) FILTER (metric = 'objects') AS objects
        FROM evaluations
        WHERE category IS NOT NULL AND recall IS NULL AND evaluation_id = (SELECT max(evaluation_id) FROM evaluations)
        GROUP BY category ORDER BY AP DESC, category
        """,
    ),
    "identity-switches": NamedQuery(
        "Where did the newest evaluation see an object change its identity, the costliest first?",
        """
        SELECT video_id, frame_idx, category, object_id, from_track, to_track, cost_frames
        FROM switches WHERE evaluation_id = (SELECT max(evaluation_id) FROM switches)
        ORDER BY cost_frames DESC, video_id, frame_idx
        """,
    ),
}


def connect(store: Store, plan_id: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection that sees videos, tracks, masks, errors, passed_over, evaluations, switches, and no more.

    Args:
        plan_id: as in `tables.open`: None reads the newest plan of each archive and model.

    Raises:
        BadConfig: nothing was published or evaluated, or not this plan.
    """
    views: dict[str, Any] = {
        "evaluations": _files(store, evaluations.FOLDER, evaluations.EVALUATIONS),
        "switches": _files(store, tracking.FOLDER, tracking.SWITCHES),
    }
    if plan_id is None and not store.snapshots() and isinstance(views["evaluations"], ds.FileSystemDataset):
        views |= {
            name: ds.dataset(schema.empty_table()) for name, schema in tables.SCHEMAS.items()
        }  # scored files only
        views["passed_over"] = tables.passed_over([])
    else:
        views |= tables.open(store, plan_id)
        views["passed_over"] = tables.passed_over(tables.choose(store, plan_id))
    connection = duckdb.connect(config={"python_enable_replacements": "false", "autoload_known_extensions": "false"})
    for name, view in views.items():
        connection.register(name, view)
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _files(store: Store, folder: str, schema: pa.Schema) -> ds.Dataset:
    files = [store.path(key) for key in store.list(folder)]
    if not files:
        return ds.dataset(schema.empty_table())
    return ds.dataset(files, schema=schema, format="parquet", filesystem=store.arrow)


def run(question: str, store: Store, plan_id: str | None = None) -> pa.Table:
    """The answer to a SQL statement or to a named query.

    Raises:
        BadConfig: a mistake in the SQL, with DuckDB's explanation.
    """
    sql = NAMED_QUERIES[question].sql if question in NAMED_QUERIES else question
    with connect(store, plan_id) as connection:
        try:
            answer = connection.sql(sql)
            if answer is not None:
                return answer.to_arrow_table()
        except duckdb.Error as error:
            raise BadConfig(
                f"{error}\nThe views are videos, tracks, masks, errors, passed_over, evaluations and switches; "
                f"named queries: {', '.join(NAMED_QUERIES)}"
            ) from error
    raise BadConfig(f"{question!r} asks for nothing, expected SELECT ... or one of {', '.join(NAMED_QUERIES)}")


def write(answer: pa.Table, form: str, target: BinaryIO) -> None:
    """The answer as `table`, `csv`, `json` (a list of objects) or `parquet`.

    Masks are text in CSV and JSON, as pycocotools takes them, and only their size in a printed table.

    Raises:
        BadConfig: another form.
    """
    if form not in FORMS:
        raise BadConfig(f"unknown format {form!r}, expected one of {', '.join(FORMS)}")
    FORMS[form](answer, target)


def _write_table(answer: pa.Table, target: BinaryIO) -> None:
    rows = [[_shown(value) for value in row.values()] for row in _rows(answer)]
    widths = [max(map(len, column)) for column in zip(answer.column_names, *rows, strict=True)]
    numbers = [pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in answer.schema]
    for row in (answer.column_names, ["-" * width for width in widths], *rows):
        cells = (
            value.rjust(width) if number else value.ljust(width)
            for value, width, number in zip(row, widths, numbers, strict=True)
        )
        target.write(("  ".join(cells).rstrip() + "\n").encode())
    target.write(f"({len(rows)} row{'s' if len(rows) != 1 else ''})\n".encode())


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _write_csv(answer: pa.Table, target: BinaryIO) -> None:
    text = io.TextIOWrapper(target, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.column_names)
    writer.writerows([_text(value) for value in row.values()] for row in _rows(answer))
    text.detach()


def _write_json(answer: pa.Table, target: BinaryIO) -> None:
    rows = [{name: _finite(_text(value)) for name, value in row.items()} for row in _rows(answer)]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in rows)
    target.write(f"[\n{lines}\n]\n".encode() if rows else b"[]\n")


def _write_parquet(answer: pa.Table, target: BinaryIO) -> None:
    pq.write_table(answer, target, compression="zstd")


def _rows(answer: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in answer.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def _text(value: Any) -> Any:
    """COCO counts are ASCII; other bytes become hexadecimal."""
    if not isinstance(value, bytes):
        return value
    return value.decode() if value.isascii() else value.hex()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


FORMS: dict[str, Callable[[pa.Table, BinaryIO], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
