"""Questions in SQL over published tables, wherever they lie: views, named queries, own data beside them.

A question sees one result of each video of the archives; a plan or an evaluation is opened by naming it. It is one
statement that reads, and it sees the views and nothing else: no file, no network, no variable of this process. DuckDB
reads a folder by itself and S3 through Arrow's own client: neither leaves threads behind that need Python.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from jobs import tables
from jobs.evaluation import evaluations, switches
from jobs.lake import Lake
from jobs.store import Plan, Store
from vis_models.config import BadConfig, nearest

PLANS_SHOWN = 5
ROWS_AT_ONCE = 5000


class NamedQuery(NamedTuple):
    """A question that is asked often."""

    asks: str
    sql: str


def _named_queries() -> dict[str, NamedQuery]:
    """The files of the folder `queries`, each with what it asks in its first line."""
    folder = files("jobs.reporting").joinpath("queries")
    texts = {file.name.removesuffix(".sql"): file.read_text(encoding="utf-8") for file in folder.iterdir()}
    return {name: NamedQuery(texts[name].partition("\n")[0].removeprefix("-- "), texts[name]) for name in ORDER}


ORDER = (
    "objects-per-class",
    "longest-tracks",
    "busiest-videos",
    "seen-together",
    "lost-and-found",
    "area-over-time",
    "errors-by-code",
    "video-status",
    "score-history",
    "ap-per-category",
    "identity-switches",
)
"""In which they are listed."""
NAMED_QUERIES = _named_queries()

PLANS = {
    "plan_id": "VARCHAR",
    "name": "VARCHAR",  # of the archive, as in the tables
    "archive": "VARCHAR",  # its address
    "model": "VARCHAR",
    "model_sha256": "VARCHAR",
    "created_at": "VARCHAR",
    "purpose": "VARCHAR",  # archive, evaluation, oracle
    "videos": "BIGINT",
    "failed": "BIGINT",
    "frames": "BIGINT",
    "tracks": "BIGINT",
    "masks": "BIGINT",
    "read": "BOOLEAN",  # its tables are those that the question sees
}
NEWEST = "newest"
"""The variable that names an evaluation in SQL."""
VIEWS = (*tables.SCHEMAS, "passed_over", "plans", "batches", "evaluations", "switches")
NAMES = {  # columns that are text in the tables, and so in what is joined to them
    field.name
    for schema in (*tables.SCHEMAS.values(), evaluations.EVALUATIONS)
    for field in schema
    if pa.types.is_string(field.type)
}
READERS = {
    ".csv": "read_csv({file}, header = true{types})",
    ".json": "read_json({file})",
    ".jsonl": "read_json({file}, format = 'newline_delimited')",
    ".ndjson": "read_json({file}, format = 'newline_delimited')",
    ".parquet": "read_parquet({file})",
}
DESCRIBES = re.compile(r"(?is)\s*(?:DESCRIBE|DESC|SHOW)\s+(?:TABLE\s+)?(\w+)\s*;?\s*")
READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}  # MULTI: a PIVOT
DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.large_binary(): "BLOB",
    pa.map_(pa.string(), pa.string()): "MAP(VARCHAR, VARCHAR)",
    pa.map_(pa.string(), pa.float32()): "MAP(VARCHAR, FLOAT)",
}


class Scope(NamedTuple):
    """Which tables a question sees."""

    plan: str | None = None
    """As in `tables.choose`; None: one result of each video of the archives, or the plan of `evaluation`."""
    evaluation: str | None = None
    """As in `evaluations.choose`: its plan's tables are seen, and `newest` means it. None: the newest of a model."""
    joined: tuple[tuple[str, str], ...] = ()
    """(name, file) of own data: CSV, Parquet, JSON or JSONL, local or `s3://...`, seen as a view of this name."""


EVERYTHING = Scope()


@dataclass(frozen=True)
class Answer:
    """What came out, and what a reader must know of it."""

    table: pa.Table
    notes: tuple[str, ...]
    """About this answer: columns with a new name."""
    read: tuple[str, ...]
    """Which plans were read, and which evaluation."""
    whole: bool
    """It is about errors, whose messages are never cut."""


def ask(question: str, store: Store, scope: Scope = EVERYTHING) -> Answer:
    """The answer to a SQL statement or to a named query.

    Raises:
        BadConfig: a mistake in the SQL, with DuckDB's explanation; a statement that does not read, or more than one;
            nothing was published, or not the plan or evaluation in `scope`; own data that cannot be read.
    """
    if re.fullmatch(r"[\w-]+", question) and question not in NAMED_QUERIES:
        guess = nearest(question, NAMED_QUERIES)
        raise BadConfig(
            f"no named query {question}{f', did you mean {guess}?' if guess else ''} There are "
            f"{', '.join(NAMED_QUERIES)}; anything else is SQL: SELECT ..."
        )
    sql = NAMED_QUERIES[question].sql if question in NAMED_QUERIES else question
    described = DESCRIBES.fullmatch(sql)
    if described and described[1].lower() in tables.SCHEMAS:
        return _described(tables.SCHEMAS[described[1].lower()])
    named = {word.lower() for word in re.findall(r"\w+", sql)} & {*VIEWS}
    with _explained(), duckdb.connect(config=CONFIG) as connection:
        _refuse_writing(connection, sql)
        read = _make_views(connection, store, scope, named or {*VIEWS})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        columns, notes = _columns(relation := connection.sql(sql))
        answer = relation.project(columns).to_arrow_table()
    seen = read if named & {"passed_over", *tables.SCHEMAS} else ()
    if f"getvariable('{NEWEST}')" in sql:
        seen += (_said_of(store, scope),)
    return Answer(answer, notes, seen, whole="errors" in named)


def _described(schema: pa.Schema) -> Answer:
    """What the columns mean, which DuckDB's own DESCRIBE does not tell."""
    comments = [(field.metadata or {}).get(b"comment", b"").decode() for field in schema]
    types = [DUCKDB_TYPES[field.type] for field in schema]
    columns = {"column_name": schema.names, "column_type": types, "comment": comments}
    return Answer(pa.Table.from_pydict(columns), (), (), whole=True)


def run(question: str, store: Store, plan: str | None = None) -> pa.Table:
    """What `ask` answers, alone."""
    return ask(question, store, Scope(plan)).table


CONFIG: dict[str, Any] = {"python_enable_replacements": "false", "autoload_known_extensions": "false"}


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of DuckDB and Arrow become BadConfig."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        raise BadConfig(
            f"{error}\nThe views are {', '.join(VIEWS)}; named queries: {', '.join(NAMED_QUERIES)}"
        ) from error


def _refuse_writing(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if not statements:
        raise BadConfig(f"{sql!r} asks for nothing, expected SELECT ... or one of {', '.join(NAMED_QUERIES)}")
    if len(statements) > 1:
        raise BadConfig(f"{len(statements)} statements, expected one: ask them one after the other")
    if statements[0].type not in READS:
        raise BadConfig(
            f"a statement of the kind {statements[0].type.name}, expected one that reads: SELECT, WITH, FROM, "
            "DESCRIBE, SUMMARIZE or SHOW. Nothing would be kept; an answer is written with --output"
        )


def _columns(relation: duckdb.DuckDBPyRelation) -> tuple[str, tuple[str, ...]]:
    """(the columns by place, each under a name of its own and of a type that every format can say; notes)."""
    names = [name.lower() for name in relation.columns]
    columns, notes, taken = [], [], {*names}
    for n, (name, kind) in enumerate(zip(relation.columns, map(str, relation.types), strict=True)):
        called = name
        if names.index(name.lower()) < n:
            number = next(k for k in count(1) if f"{name}_{k}".lower() not in taken)
            called = f"{name}_{number}"
            taken.add(called.lower())
            notes.append(f"column {n + 1} is called {called}, as there is a {name} before it")
        spoken = re.sub(r"\b(INTERVAL|BIT)\b", "VARCHAR", kind)
        value = f"#{n + 1}" if spoken == kind else f"CAST(#{n + 1} AS {spoken})"
        columns.append(f"{value} AS {_name(called)}")
    return ", ".join(columns), tuple(notes)


# The views


def _make_views(connection: duckdb.DuckDBPyConnection, store: Store, scope: Scope, named: set[str]) -> tuple[str, ...]:
    """Makes those that are named. Returns which plans are read."""
    connection.execute("CREATE SCHEMA hidden")
    evaluation = _evaluation(store, scope)
    connection.execute(f"SET VARIABLE {NEWEST} = {_text_of(evaluation)}")
    for name, file in scope.joined:
        _join(connection, store, name, file)
    allowed = []
    if named & {"evaluations", "switches"}:
        scored, switched = (
            [key for key, _ in store.readable(store.list(folder), store.footer)]
            for folder in (evaluations.FOLDER, switches.FOLDER)
        )
        oracle = f"coalesce(oracle, nullif(regexp_extract(rules, '{evaluations.ORACLE_IN_RULES}', 1), '')) AS oracle"
        _view(connection, store, "evaluations", evaluations.EVALUATIONS, scored, f"* REPLACE ({oracle})")
        _view(connection, store, "switches", switches.SWITCHES, switched)
        allowed += [*scored, *switched]
    if "batches" in named:
        connection.register("batches", Lake(store).batches().drop_columns(["content"]))
    read: tuple[str, ...] = ()
    if named & {"plans", "passed_over", *tables.SCHEMAS}:
        plans, replaced, read = _plans(store, scope, evaluation)
        _plans_view(connection, store, plans)
        columns = {field.name: DUCKDB_TYPES[field.type] for field in tables.PASSED_OVER}
        _table(connection, "passed_over", columns, tables.passed_over(plans))
        _table(connection, "hidden.replaced", {"plan_id": "VARCHAR", "video_id": "VARCHAR"}, replaced)
        wanted = named & {*tables.SCHEMAS}
        found = tables.files(store, plans) if wanted else {}
        only = _only(connection, store, plans) if wanted else ""
        if replaced:
            only = f"ANTI JOIN hidden.replaced USING (plan_id, video_id) {only}"
        for name in wanted:
            _view(connection, store, name, tables.SCHEMAS[name], found[name], "*", only)
            allowed += found[name]
    if store.is_local:
        paths = {literal(store.path(key)) for key in allowed for literal in (_text_of, _file)}
        connection.execute(f"SET allowed_paths = [{', '.join(sorted(paths))}]")
    return read


def _only(connection: duckdb.DuckDBPyConnection, store: Store, plans: Sequence[Plan]) -> str:
    """What keeps the rows of these plans, where their files hold those of others."""
    if not tables.hold_others(store, plans):  # no expression of pyarrow, which loads pandas for it
        return ""
    units = [(unit,) for plan in plans if plan.borrowed for unit in tables.units_of(store, plan.plan_id)]
    _table(connection, "hidden.borrowed", {"unit": "VARCHAR"}, units)
    ids = ", ".join(_text_of(plan.plan_id) for plan in plans)
    _table(connection, "hidden.plans", {"plan_id": "VARCHAR"}, [(plan.plan_id,) for plan in plans])
    if not units:
        return f"WHERE plan_id IN ({ids or 'NULL'})"
    return f"WHERE plan_id IN ({ids}) OR unit IN (SELECT unit FROM hidden.borrowed)"


def _evaluation(store: Store, scope: Scope) -> str | None:
    """What `newest` means."""
    if not scope.evaluation:
        return evaluations.find(store)
    if scope.plan:
        raise BadConfig(f"plan {scope.plan} and evaluation {scope.evaluation}: name one of the two")
    return evaluations.choose(store, scope.evaluation)


def _said_of(store: Store, scope: Scope) -> str:
    """Which evaluation `newest` is."""
    if not (evaluation := _evaluation(store, scope)):
        return "no evaluation: run `vis evaluate`"
    provenance = evaluations.read(store, evaluation)[1]
    scored = provenance["model_name"] or provenance["results"]
    return f"evaluation {evaluation}: {scored} on {provenance['data']}, {provenance['rules']}"


def _plans(
    store: Store, scope: Scope, evaluation: str | None
) -> tuple[Sequence[Plan], list[tuple[str, str]], tuple[str, ...]]:
    """(the plans that are read; the (plan, video) of them that newer ones replace; what is said about it)."""
    if scope.evaluation:
        provenance = evaluations.read(store, str(evaluation))[1]
        if not provenance["plan_id"]:
            return (), [], (f"no plan: evaluation {evaluation} scored {provenance['results']}, which has no tables",)
        return (plans := tables.choose(store, provenance["plan_id"])), [], _said(plans, {})
    try:
        plans = tables.choose(store, scope.plan)
    except BadConfig as error:
        if scope.plan or not (store.plans() or store.list(evaluations.FOLDER)):
            raise
        return (), [], (f"no plan: {error}",)  # scores can be asked without any table
    hidden = {} if scope.plan else tables.replaced(store, plans)
    plans = [plan for plan in plans if plan.plan_id not in hidden or len(hidden[plan.plan_id]) < _videos(plan)]
    replaced = [(plan, video) for plan, videos in hidden.items() for video in videos]
    return plans, replaced, _said(plans, hidden)


def _said(plans: Sequence[Plan], hidden: Mapping[str, set[str]]) -> tuple[str, ...]:
    lines = []
    for plan in plans[::-1]:
        videos, older = _videos(plan), len(hidden.get(plan.plan_id, ()))
        count = f"{videos} video{'s' if videos != 1 else ''}"
        if older:
            count = f"{videos - older} of its {count}, newer plans cover the rest"
        purpose = "" if plan.purpose == "archive" else f" for an {plan.purpose}"
        lines.append(f"plan {plan.plan_id}: {plan.called} by {_model(plan)}, {plan.created_at[:16]}{purpose}, {count}")
    if len(lines) > PLANS_SHOWN:
        more = f'and {len(lines) - PLANS_SHOWN} more plans, see `vis query "FROM plans WHERE read"`'
        return (*lines[:PLANS_SHOWN], more)
    return tuple(lines)


def _model(plan: Plan) -> str:
    return plan.lineage.get("model_name") or plan.model_sha256[:12]


def _videos(plan: Plan) -> int:
    return plan.counts["videos"]


def _plans_view(connection: duckdb.DuckDBPyConnection, store: Store, read: Sequence[Plan]) -> None:
    seen = {plan.plan_id for plan in read}
    rows = [
        (
            plan.plan_id,
            plan.called,
            plan.archive,
            _model(plan),
            plan.model_sha256,
            plan.created_at,
            "oracle" if plan.labels else plan.purpose,
            _videos(plan),
            plan.counts.get("failed", 0),
            plan.counts.get("frames", 0),
            plan.counts["tracks"],
            plan.counts["masks"],
            plan.plan_id in seen,
        )
        for plan in store.plans()
    ]
    _table(connection, "plans", PLANS, rows)


def _table(
    connection: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """A table of these rows. As literals: DuckDB imports pandas to look at values, which takes longer than it takes
    to answer most questions.
    """
    connection.execute(f"CREATE TABLE {name} ({', '.join(f'{column} {kind}' for column, kind in columns.items())})")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        literals = ", ".join(f"({', '.join(map(_literal, row))})" for row in rows[start : start + ROWS_AT_ONCE])
        connection.execute(f"INSERT INTO {name} VALUES {literals}")


def _view(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    name: str,
    schema: pa.Schema,
    keys: Sequence[str],
    columns: str = "*",
    unless: str = "",
) -> None:
    """Parquet files as a view with the columns of `schema`; those that older files lack are null."""
    empty = ", ".join(f"NULL::{DUCKDB_TYPES[field.type]} AS {field.name}" for field in schema)
    source = f"SELECT {empty} WHERE false"
    if keys and store.is_local:
        files = ", ".join(_file(store.path(key)) for key in keys)
        if schema in tables.SCHEMAS.values() and schema is not tables.TRACKS:  # all files have all columns
            source = f"SELECT {', '.join(schema.names)} FROM read_parquet([{files}])"
        else:
            by_name = "true" if schema in (evaluations.EVALUATIONS, tables.TRACKS) else "false"
            source += f" UNION ALL BY NAME SELECT * FROM read_parquet([{files}], union_by_name = {by_name})"
    elif keys:
        connection.register(f"{name}_in_s3", tables.dataset(store, schema, keys))
        source += f" UNION ALL BY NAME SELECT * FROM {name}_in_s3"
    connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM ({source}) {unless}")


def _join(connection: duckdb.DuckDBPyConnection, store: Store, name: str, file: str) -> None:
    """Reads own data, which is gone with the connection. Names are text, as in the tables.

    Raises:
        BadConfig: no such file, of an unknown kind, not readable as what it is called, or a name that is taken.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or name.lower() in VIEWS:
        raise BadConfig(f"--join {name}={file}: expected a word that is none of {', '.join(VIEWS)} before the =")
    kind = Path(file).suffix.lower()
    if kind not in READERS:
        raise BadConfig(f"--join {name}={file}: unknown ending {kind!r}, expected one of {', '.join(READERS)}")
    fs, path = store.open_source(file)
    with store.guard(file):
        if not fs.isfile(path):
            raise BadConfig(f"--join {name}={file}: there is no such file")
    address = store.address(file)
    if address.startswith("s3://") and "s3" not in connection.list_filesystems():
        connection.register_filesystem(fs)
    try:
        source = READERS[kind].format(file=_file(address), types="")
        text = [column for column in connection.sql(f"FROM {source}").columns if column in NAMES]
        if text:
            types = ", types = {" + ", ".join(f"{_name(column)}: 'VARCHAR'" for column in text) + "}"
            as_text = ", ".join(f"CAST({_name(column)} AS VARCHAR) AS {_name(column)}" for column in text)
            source = f"(SELECT * REPLACE ({as_text}) FROM {READERS[kind].format(file=_file(address), types=types)})"
        connection.execute(f"CREATE TABLE {name} AS FROM {source}")
    except duckdb.Error as error:
        raise BadConfig(f"--join {name}={file}: {error}") from error


def _literal(value: str | int | float | None) -> str:
    """Of a bool, too."""
    return _text_of(value) if value is None or isinstance(value, str) else repr(value)


def _text_of(value: str | None) -> str:
    """A literal."""
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def _file(path: str) -> str:
    """A literal that names this file alone, though DuckDB takes it for a pattern."""
    return _text_of(re.sub(r"[*?\[\]]", r"[\g<0>]", path))


def _name(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'
