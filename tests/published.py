"""Tables made by hand, published as a run publishes what it made."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs import tables
from jobs.lake import ROOT, Lake
from jobs.store import FileRef, Part, Plan, Purpose, Store

Row = dict[str, Any]


def publish(
    store: Store, plan_id: str, rows: Mapping[str, Sequence[Row]], *, purpose: Purpose = "archive", **more: Any
) -> dict[str, FileRef]:
    """Rows by table, sorted or not; what they lack of where they come from is filled in. `more`: see `stand`."""
    archive = more.get("archive", "a")
    refs: dict[str, FileRef] = {}
    lake = root(plan_id, purpose, more.get("labels"))
    for name in tables.SCHEMAS:
        content = [filled(row, plan_id, archive) for row in rows.get(name, ())]
        if content:
            key = f"{lake}/{name}/part-{plan_id}.parquet"
            with tables.create(store, key, name, {"plan_id": plan_id}, refs) as writer:
                writer.write(tables.from_rows(name, content))
    units = {filled(row, plan_id, archive)["unit"] for content in rows.values() for row in content}
    stand(store, plan_id, {name: [ref] for name, ref in refs.items()}, units or {plan_id}, purpose=purpose, **more)
    return refs


def root(plan_id: str, purpose: Purpose = "archive", labels: str | None = None) -> str:
    return f"predictions/{plan_id}" if purpose == "evaluation" or labels else ROOT


def filled(row: Row, plan_id: str, archive: str) -> Row:
    """A row with the columns that say where it comes from."""
    origin = {"plan_id": plan_id, "unit": f"{plan_id}/{row['video_id']}", "archive": archive, "model": "drawn"}
    more = {"min_score": 0.0, "retryable": False, "n_masks": 1, "category": "dog", "track_score": 0.5}
    return origin | more | {name: value for name, value in row.items() if value is not None or name not in more}


def stand(
    store: Store,
    plan_id: str,
    files: Mapping[str, Sequence[FileRef]],
    units: set[str],
    *,
    archive: str = "a",
    purpose: Purpose = "archive",
    created_at: str = "2026-01",
    model_sha256: str = "m",
    lineage: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
    **more: Any,
) -> None:
    """Commit files, and say that the plan stands."""
    lake = root(plan_id, purpose, more.get("labels"))
    rows = {name: sum(ref.rows for ref in files.get(name, ())) for name in tables.SCHEMAS}
    most = max(1, *(len(refs) for refs in files.values())) if files else 1
    for n in range(most):
        part = Part(
            run_id=f"run-{plan_id}",
            plan_id=plan_id,
            lake=lake,
            archive=archive,
            model="drawn",
            shard=f"{n}",
            attempt="1",
            units=tuple(sorted(units)) if most == 1 else (f"{plan_id}/v{n}",),
            files={name: refs[n] for name, refs in files.items() if n < len(refs)},
            counts=dict(counts or {}),
            seconds={},
            created_at=created_at,
        )
        Lake(store, lake).commit([part])
    store.write_plan(
        Plan(
            plan_id=plan_id,
            archive=archive,
            purpose=purpose,
            model_sha256=model_sha256,
            created_at=created_at,
            lineage=dict(lineage or {"class_map_json": '{"3": "dog"}'}),
            lake=lake,
            counts=rows | {"videos": max(1, rows["videos"])} | dict(counts or {}),
            **{"card": {}, "seconds": {}} | more,
        )
    )
