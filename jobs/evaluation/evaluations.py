"""The record of all evaluations: one Parquet file each under `vis/v1/evaluations/`, never overwritten.

One flat row per figure, each with its provenance: the history of a score is one SELECT away. What the rows say:

    category, video_id null   a figure of the whole data set: AP, AP50, ..., objects
    category                  the same figure of one category
    video_id                  AP and AP50 of that video alone, objects, objects_found (at IoU 0.5)
    recall                    metric `precision`: a point of the curve at IoU 0.5
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.store import LAYOUT, Store
from vis_models.config import BadConfig

FOLDER = f"{LAYOUT}/evaluations"
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Of a whole data set, in the order in which everybody prints them."""
SERVER = "the benchmark's server"
"""The rules of a score that a benchmark's server gave: a few figures, typed by a person, without videos or curves."""
AGNOSTIC = "class-agnostic"
"""Stands among the words of rules that ignore categories."""
ORACLE_IN_RULES = r"(identity|frame|clip|image) oracle"
Provenance = dict[str, str | None]

PROVENANCE = {
    "evaluation_id": "unique, begins with the time",
    "created_at": "UTC",
    "data": "YouTube-VIS file with the labels",
    "data_sha256": "of that file: the version of the data",
    "split": "name of the split of which the held-out videos were scored; null: all videos of the file were",
    "rules": "whose numbers these are, in words; only equal ones can be held against each other",
    "oracle": "what was made perfect, so that this is no score of a model: identity, frame, clip, image; null: nothing",
    "plan_id": "the plan whose tables were scored",
    "results": "the results file that was scored, where it was not a plan",
    "results_sha256": "of that file",
    "run_id": "the run that segmented",
    "model_name": "as registered",
    "model_sha256": "of the weights",
    "config_hash": "of the segmentation",
    "tables_commit": "the code that segmented",
    "commit": "the code that scored",
    "command": "what was typed to score",
}
EVALUATIONS = pa.schema(
    [
        *(pa.field(name, pa.string(), metadata={"meaning": meaning}) for name, meaning in PROVENANCE.items()),
        pa.field("metric", pa.string(), False, {"meaning": "name of the figure"}),
        pa.field("category_id", pa.int32(), True, {"meaning": "id in the labels; null: all categories"}),
        pa.field("category", pa.string(), True, {"meaning": "name in the labels; null: all categories"}),
        pa.field("video_id", pa.string(), True, {"meaning": "null: all videos"}),
        pa.field("recall", pa.float64(), True, {"meaning": "point of a curve", "range": "0 to 1"}),
        pa.field("value", pa.float64(), False, {"meaning": "fraction or count; -1: nothing to find"}),
    ]
)


def new_id(created_at: str) -> str:
    """A name that sorts by time and that nobody else takes."""
    return f"{created_at[:26].translate(str.maketrans('', '', '-:.'))}-{uuid.uuid4().hex[:8]}"


def write(store: Store, provenance: Provenance, notes: Sequence[str], figures: Iterator[dict[str, Any]]) -> str:
    """The URI of a new file."""
    key = f"{FOLDER}/{provenance['evaluation_id']}.parquet"
    table = pa.Table.from_pylist([provenance | row for row in figures], schema=EVALUATIONS)
    footer = {"provenance": json.dumps(provenance), "notes": json.dumps(list(notes))}
    assert not store.exists(key), f"{key} is there already, yet its name is unique"
    with store.create(key) as file:
        pq.write_table(table.replace_schema_metadata(footer), file, compression="zstd")
    return store.uri(key)


def read(store: Store, evaluation_id: str) -> tuple[pa.Table, Provenance, list[str]]:
    """(rows, provenance, notes). Raises BadConfig: there is no such evaluation."""
    key = f"{FOLDER}/{evaluation_id}.parquet"
    if not store.exists(key):
        newest = f"the newest is {found}" if (found := find(store)) else "there is none yet"
        raise BadConfig(
            f"no evaluation {evaluation_id} in {store.uri(FOLDER)}, {newest}. `vis evaluate` prints the id of each; "
            "results files are compared with --gt"
        )
    try:
        table = store.read_table(key)
        return table, _provenance(table.schema.metadata), json.loads((table.schema.metadata or {})[b"notes"])
    except (ValueError, KeyError) as error:
        raise BadConfig(f"{store.uri(key)} is damaged ({error}): evaluate once more, or bring it back") from error


def _provenance(footer: Mapping[bytes, bytes] | None) -> Provenance:
    """Files of the days before the column `oracle` name it in the words of their rules."""
    found = json.loads((footer or {})[b"provenance"])
    if "oracle" not in found:
        named = re.search(ORACLE_IN_RULES, found["rules"])
        found["oracle"] = named[1] if named else None
    return found


def is_of_a_model(provenance: Provenance) -> bool:
    """Whether this is a score that was made here with nothing made perfect: what the measure can be."""
    return provenance["oracle"] is None and provenance["rules"] != SERVER


def _beside(rules: str | None) -> bool:
    """Whether a score is none of all that was asked of the model: a server's few figures, or without categories."""
    return rules == SERVER or AGNOSTIC in str(rules)


def id_of(name: str) -> str:
    """The id in the name or address of an evaluation's file."""
    return name.rsplit("/", 1)[-1].removesuffix(".parquet")


def find(store: Store, before: str | None = None, **wanted: str | None) -> str | None:
    """The newest evaluation (older than the one named `before`) with this provenance, e.g. `plan_id=...`, or None.

    Scores of a server, of oracles and without categories count only where they are asked for, by `rules` and `oracle`.
    """
    keys = (key for key in reversed(store.list(FOLDER)) if not before or key < f"{FOLDER}/{before}.parquet")
    for _, provenance in store.readable(keys, lambda key: _provenance(store.footer(key).metadata)):
        if provenance["oracle"] != wanted.get("oracle") or ("rules" not in wanted and _beside(provenance["rules"])):
            continue
        if wanted.items() <= provenance.items():
            return provenance["evaluation_id"]
    return None


def choose(store: Store, name: str) -> str:
    """The id that is meant by the id, the beginning of one, the address of a file, or `latest`: the newest of a model.

    Raises:
        BadConfig: none is meant, or several are.
    """
    if name == "latest":
        if newest := find(store):
            return newest
        raise BadConfig(f"no model was evaluated yet in {store.uri(FOLDER)}: run `vis evaluate`")
    named = id_of(name)
    meant = [found for found in map(id_of, store.list(FOLDER)) if found.startswith(named)]
    if named in meant or len(meant) < 2:
        return named if named in meant else (meant or [named])[0]
    raise BadConfig(f"{len(meant)} evaluations begin with {name}, name one (newest last): {', '.join(meant[-5:])}")


def server_scores(store: Store, model_sha256: str) -> list[tuple[Provenance, dict[str, float]]]:
    """(provenance, figures) of what servers said about a model, the newest first."""
    found, older = [], find(store, rules=SERVER, model_sha256=model_sha256)
    while older:
        rows, provenance, _ = read(store, older)
        found.append((provenance, summary(rows)))
        older = find(store, before=older, rules=SERVER, model_sha256=model_sha256)
    return found


def summary(table: pa.Table) -> dict[str, float]:
    """The figures of the whole data set in the rows of an evaluation."""
    columns = (table[name].to_pylist() for name in ("category", "video_id", "recall", "metric", "value"))
    return {metric: value for *part, metric, value in zip(*columns, strict=True) if part == [None, None, None]}
