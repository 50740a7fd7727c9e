"""The published tables as a whole: what was committed, merging, cleaning, taking rows out, bringing old stores over."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs import tables
from jobs.archives.sources import VideoSource
from jobs.lake import ROOT, Lake
from jobs.segmentation.plans import HALFWAY, Unit, digest, drop_from_listing, settings_id, units_of, write_listing
from jobs.segmentation.work import STATUSES, publish_left
from jobs.store import LAYOUT, OVERLAYS, FileRef, Part, Plan, Store, now, overlay_key
from vis_models.cards import ModelCard
from vis_models.config import BadConfig


def lakes(store: Store) -> list[Lake]:
    """Every set of tables of a store: that of the archives, and one for each evaluation's predictions."""
    roots = dict.fromkeys([ROOT, *(plan.lake for plan in store.plans())])
    return [lake for lake in (Lake(store, root) for root in roots) if lake.exists]


def history(store: Store) -> pa.Table:
    """One row per commit of the archives' tables, newest last."""
    return Lake(store).batches().drop_columns(["content"])


def compact(store: Store, dry_run: bool) -> dict[str, tuple[int, int]]:
    """Table -> (small files, larger ones in their place)."""
    publish_left(store)
    found = {lake.root: lake.compact(dry_run=dry_run) for lake in lakes(store)}
    return {f"{root}/{name}": counts for root, done in found.items() for name, counts in done.items()}


def vacuum(store: Store, hours: float, dry_run: bool) -> list[str]:
    """Keys of files that nothing needs; removed, unless it is a dry run."""
    publish_left(store)
    notes = _old_notes(store, hours)
    if not dry_run:
        remove(store, notes)
    return [*notes, *(key for lake in lakes(store) for key in lake.vacuum(hours, dry_run))]


def _old_notes(store: Store, hours: float) -> list[str]:
    """Keys of what runs noted for themselves that wrote nothing for so long."""
    found = store.times(f"{LAYOUT}/_work")
    last: dict[str, float] = {}
    for key, at in found.items():
        last[_run_of(key)] = max(at, last.get(_run_of(key), 0))
    long_ago = time.time() - hours * 3600
    return [key for key in found if last[_run_of(key)] <= long_ago]


def _run_of(key: str) -> str:
    return key.removeprefix(f"{LAYOUT}/_work/").partition("/")[0]


def remove(store: Store, keys: Sequence[str]) -> None:
    """Files that may be gone already."""
    for key in keys:
        with suppress(FileNotFoundError):
            store.fs.rm(store.path(key))


def verify(store: Store) -> list[str]:
    """What is wrong with the tables, a sentence each."""
    return [f"{store.uri(lake.root)}: {sentence}" for lake in lakes(store) for sentence in lake.verify()]


def delete(store: Store, where: str, dry_run: bool) -> dict[str, int]:
    """Take the videos out of all tables for which a condition holds, and the films and notes that were made of them.

    Returns rows by table, and how many `films` and `listed` videos of archives. A video that still lies in its archive
    comes back with the next `vis segment`.

    Args:
        where: SQL over the columns of the table videos.

    Raises:
        BadConfig: no such column, or no condition.
    """
    import duckdb

    publish_left(store)
    gone: Counter[str] = Counter()
    chosen = set[str]()
    for lake in lakes(store):
        keys = lake.files()
        with duckdb.connect() as connection:
            connection.register("videos", tables.dataset(store, tables.VIDEOS, keys["videos"]))
            try:
                found = connection.sql(f"SELECT unit FROM videos WHERE ({where})").fetchall()
            except duckdb.Error as error:
                raise BadConfig(f"--where {where}: {error}; expected a condition on columns of videos") from error
        if units := [unit for (unit,) in found]:
            for name, schema in tables.SCHEMAS.items():
                gone[name] += tables.dataset(store, schema, keys[name]).count_rows(filter=pc.field("unit").isin(units))
            if not dry_run:
                lake.remove(units, f"delete-{now()}", f"delete where {where}")
            chosen |= {*units}
    marks = {overlay_key("", "", unit).rpartition("-")[2] for unit in chosen}
    films = [key for key in store.list(OVERLAYS) if key.rpartition("-")[2] in marks]
    gone["films"] = len(films)
    if not dry_run:
        notes = [key for unit in sorted(chosen) for key in store.list(f"{HALFWAY}/{unit}")]
        remove(store, [*films, *notes])
        gone["listed"] = sum(drop_from_listing(store, plan.plan_id, chosen) for plan in store.plans())
    return dict(gone)


# Stores of version 1


def migrate(store: Store) -> Iterator[str]:
    """Brings the tables of a store of version 1 over; says each plan that it brought or must leave. Files stay."""
    keys = [key for key in store.list(f"{LAYOUT}/_snapshots") if key.endswith(".json")]
    snapshots = [snapshot for _, snapshot in store.readable(keys, store.read_json)]
    for snapshot in sorted(snapshots, key=lambda found: (found["created_at"], found["plan_id"])):
        plan_id = snapshot["plan_id"]
        if store.plan(plan_id):
            continue
        try:
            _bring(store, snapshot)
        except (ValueError, KeyError, FileNotFoundError, pa.ArrowException) as error:
            yield f"left        {plan_id} {snapshot['archive']}: {' '.join(str(error).split())[:200]}"
        else:
            videos = sum(snapshot["counts"].get(status, 0) for status in STATUSES)
            yield f"brought     {plan_id} {snapshot['archive']}: {videos} videos"


def _bring(store: Store, old: dict[str, Any]) -> None:
    plan_id, lineage = old["plan_id"], old["lineage"]
    command = lineage.get("command", "")
    evaluated = old.get("labels") or command.startswith("vis evaluate") or "evaluate-youtube-vis" in command
    purpose = old.get("purpose") or ("evaluation" if evaluated else "archive")
    root = f"predictions/{plan_id}" if purpose == "evaluation" or old.get("labels") else ROOT
    config = json.loads(lineage.get("config_json", "{}"))
    card, listing = _identified(store, old, config, root)
    units = {unit.source.video_id: unit.id for unit in listing}
    old_tables = {
        name: tables.dataset(store, schema, [ref["key"] for ref in old["tables"][name] if ref["rows"]]).to_table()
        for name, schema in tables.SCHEMAS.items()
    }
    for video_id in old_tables["videos"]["video_id"].to_pylist():
        units.setdefault(video_id, digest([plan_id, video_id]))  # what cannot be told is done again when asked for
    origin = {"archive": old["archive"], "model": card["name"], "min_score": config.get("min_score", 0.0)}
    new = _with_origin(old_tables, units, origin)
    lake, refs = Lake(store, root), dict[str, FileRef]()
    for name, content in new.items():
        if len(content):
            with tables.create(store, lake.new_key(name), name, lineage, refs) as writer:
                writer.write(content.sort_by([(key, "ascending") for key in tables.SORTED_BY[name]]))
    counts = {key: int(value) for key, value in old["counts"].items()}
    names = {"plan_id": plan_id, "archive": old["archive"], "model": card["name"], "shard": "0", "attempt": "1"}
    run = {"run_id": lineage.get("run_id", ""), "lake": root, "created_at": old["created_at"]}
    ids = tuple(new["videos"]["unit"].to_pylist())
    borrowed = lake.exists and bool(lake.known(ids))
    lake.commit([Part(**names, **run, units=ids, files=refs, counts=counts, seconds=old["seconds"])], "migrate")
    write_listing(store, plan_id, listing)
    store.write_plan(
        Plan(
            plan_id=plan_id,
            archive=old["archive"],
            name=old["archive"],
            purpose=purpose,
            labels=old.get("labels"),
            model_sha256=old["model_sha256"],
            card=card,
            created_at=old["created_at"],
            lineage=lineage,
            lake=root,
            borrowed=borrowed,
            counts=counts | {name: len(content) for name, content in new.items()},
            seconds=old["seconds"],
            passed_over=tuple(old.get("passed_over", ())),
        )
    )


def _identified(
    store: Store, old: dict[str, Any], config: dict[str, Any], root: str
) -> tuple[dict[str, Any], list[Unit]]:
    """(card of the model, the videos of the archive with their units), as far as the plan still tells."""
    folder, lineage = f"{LAYOUT}/_plans/{old['plan_id']}", old["lineage"]
    said = dict.fromkeys(("recipe", "run_id", "commit", "data", "command"), "") | {
        "name": lineage.get("model_name", "")
    }
    try:
        card = ModelCard.model_validate(store.read_json(f"{folder}/spec.json")["card"])
        sources = [_source(row) for row in store.read_table(f"{folder}/plan.parquet").to_pylist()]
    except (ValueError, KeyError, FileNotFoundError):
        return said | {"name": lineage.get("model_name", "")}, []
    settings = settings_id({"slot_recycling": config.get("slot_recycling", True)}, card, None)
    if old.get("labels"):
        settings = digest([settings, old["plan_id"]])
    return card.model_dump(mode="json"), units_of(sources, settings, by_name=root != ROOT)


def _source(row: dict[str, Any]) -> VideoSource:
    """A video of a plan of version 1. Of a film without an ETag the content id had no mark before its time."""
    content = re.sub(r"^(\d+)-(\d+(\.\d+)?)$", r"\1-@\2", row["content_id"])
    own = ("video_id", "uri", "kind", "size_bytes", "listed", "fps", "height", "width")
    frames = None if row["frames"] is None else tuple(row["frames"])
    hashed = row["kind"] == "film" and row["uri"].startswith("s3://")
    return VideoSource(
        **{key: row[key] for key in own if key in row}, frames=frames, content_id=content, content_hash=hashed
    )


def _with_origin(old: dict[str, pa.Table], units: dict[str, str], origin: dict[str, Any]) -> dict[str, pa.Table]:
    """Tables of version 1 with the columns that came since."""
    tracks = {(row["video_id"], row["track_id"]): row for row in old["tracks"].to_pylist()}
    worth = {row["video_id"]: row["retryable"] for row in old["errors"].to_pylist()}
    masks: Counter[str] = Counter()
    for (video_id, _), row in tracks.items():
        masks[video_id] += row["n_obs"]
    new = {}
    for name, content in old.items():
        ids = content["video_id"].to_pylist()
        columns: dict[str, list[Any]] = {"unit": [units[video_id] for video_id in ids]}
        columns |= {key: [origin[key]] * len(ids) for key in ("archive", "model")}
        if name == "videos":
            columns["min_score"] = [origin["min_score"]] * len(ids)
            columns["retryable"] = [worth.get(video_id, False) for video_id in ids]
            columns["n_masks"] = [masks[video_id] for video_id in ids]
        if name == "masks":
            seen = [tracks[key] for key in zip(ids, content["track_id"].to_pylist(), strict=True)]
            columns["category"] = [track["category"] for track in seen]
            columns["track_score"] = [track["score"] for track in seen]
        schema = tables.SCHEMAS[name]
        new[name] = pa.Table.from_arrays(
            [
                pa.array(columns[field.name], field.type)
                if field.name in columns
                else content[field.name]
                if field.name in content.column_names
                else pa.nulls(len(ids), field.type)
                for field in schema
            ],
            schema=schema,
        )
    return new
