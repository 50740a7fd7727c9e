"""What there is to do for an archive, what was done before, and how what is finished gets published."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from jobs import tables
from jobs.archives.archive import Archive
from jobs.lake import ROOT, Lake
from jobs.segmentation.plans import Unit, digest, read_listing, units_of, write_listing
from jobs.store import Part, Plan, Purpose, Store, now
from vis_models.cards import ModelCard

STATUSES = ("done", "partial", "failed")
BATCH_PARTS, BATCH_S = 64, 30.0
"""Finished shards are published together: as soon as there are so many, or after so long."""
COMPACT_FILES, COMPACT_AT_END = 64, 8
"""Small files of a table that are merged into one, between batches and after the last."""
Only = Literal["new", "errors", "missing"]


@dataclass(frozen=True)
class Known:
    """What the tables say about the units of an archive."""

    counts: Counter[str] = field(default_factory=Counter)
    """Videos by status, frames, rows of each table."""
    again: dict[str, str] = field(default_factory=dict)
    """Units that are published and may go better now -> why: `retryable`, `error`, `min_score`."""
    fine: set[str] = field(default_factory=set)
    borrowed: bool = False
    """Some are of another plan."""
    moved: set[str] = field(default_factory=set)
    """Units that the archive had under other names when they were published."""
    before: dict[str, str] = field(default_factory=dict)
    """Video id -> the published unit of a video of the archive that has changed since."""


@dataclass(frozen=True)
class Work:
    """An archive with a model: its units, and those of them that are to be done."""

    store: Store
    lake: Lake
    plan_id: str
    card: ModelCard
    archive: Archive
    lineage: dict[str, str]
    name: str
    purpose: Purpose
    labels: str | None
    min_score: float
    retry_errors: bool
    units: Sequence[Unit]
    todo: Sequence[Unit]
    known: Known
    relisted: bool
    """The archive holds other units than when it was looked at last."""

    def stand(self, run: dict[str, str] | None = None) -> Plan:
        """What stands in the tables now, written down for those who ask.

        Args:
            run: the lineage of a run that adds to it; None: nothing is done.
        """
        known = look(self.lake, self.units, self.plan_id, self.min_score, self.retry_errors)
        if known.moved:
            moved = {unit.id: (unit.source.video_id, unit.source.uri) for unit in self.units if unit.id in known.moved}
            over = [known.before[name] for name, _ in moved.values() if name in known.before]
            self.lake.rename(moved, over, f"rename-{now()}")
        if self.relisted:
            write_listing(self.store, self.plan_id, self.units)
        before = self.store.plan(self.plan_id)
        plan = Plan(
            plan_id=self.plan_id,
            archive=self.lineage["dataset"],
            name=self.name,
            purpose=self.purpose,
            labels=self.labels,
            model_sha256=self.card.sha256,
            card=self.card.model_dump(mode="json"),
            created_at=now(),
            lineage=run or (before.lineage if before else self.lineage | {"run_id": "", "created_at": now()}),
            lake=self.lake.root,
            borrowed=known.borrowed,
            counts=dict(known.counts),
            seconds=self.lake.seconds(self.plan_id),
            passed_over=tuple(row.model_dump() for row in self.archive.passed_over),
        )
        if before and plan.model_copy(update={"created_at": before.created_at}) == before:
            return before
        self.store.write_plan(plan)
        return plan

    def errors(self) -> dict[str, int]:
        """Videos of the archive by the code of their error, the most frequent first."""
        if not self.known.counts and not self.lake.exists:
            return {}
        rows = tables.dataset(self.store, tables.ERRORS, self.lake.files()["errors"])
        found = rows.to_table(columns=["unit", "code"], use_threads=False)
        own = {unit.id for unit in self.units}
        codes = (
            code for unit, code in zip(found["unit"].to_pylist(), found["code"].to_pylist(), strict=True) if unit in own
        )
        return dict(Counter(codes).most_common())


def look(lake: Lake, units: Sequence[Unit], plan_id: str, min_score: float, retry_errors: bool) -> Known:
    """What is published of these units."""
    known = Known(Counter(dict.fromkeys((*STATUSES, "frames", *tables.SCHEMAS), 0)))
    if not lake.exists:
        return known
    names = {unit.id: unit.source.video_id for unit in units}
    videos = {*names.values()}
    columns = ["unit", "plan_id", "video_id", "status", "retryable", "min_score"]
    columns += ["sampled_frames", "n_tracks", "n_masks"]
    rows = tables.dataset(lake.store, tables.VIDEOS, lake.files()["videos"])
    borrowed = False
    for batch in rows.to_batches(columns=columns, use_threads=False):
        for unit, plan, video_id, status, retryable, floor, frames, tracks, masks in zip(
            *(batch[name].to_pylist() for name in columns), strict=True
        ):
            if unit not in names:
                if plan == plan_id and video_id in videos:
                    known.before[video_id] = unit
                continue
            known.counts.update({status: 1, "frames": frames, "videos": 1, "tracks": tracks, "masks": masks})
            known.counts["errors"] += status != "done"
            borrowed |= plan != plan_id
            if video_id != names[unit] and plan == plan_id:
                known.moved.add(unit)
            if retryable:
                known.again[unit] = "retryable"
            elif retry_errors and status != "done":
                known.again[unit] = "error"
            elif floor > min_score + 1e-6:
                known.again[unit] = "min_score"
            else:
                known.fine.add(unit)
    return Known(known.counts, known.again, known.fine, borrowed, known.moved, known.before)


def find_work(
    store: Store,
    archive: Archive,
    card: ModelCard,
    settings: str,
    lineage: dict[str, str],
    *,
    name: str,
    purpose: Purpose = "archive",
    labels: str | None = None,
    min_score: float,
    retry_errors: bool = False,
    only: Only | None = None,
) -> Work:
    """Which units an archive has, and which of them are to be done.

    An archive may grow, shrink, change and overlap others: it keeps its plan, and what is published of it stays. The
    predictions of an evaluation are of one state of its data set: they have a plan and tables of their own.

    Args:
        settings: from `plans.settings_id`.
        lineage: without the id of the plan.
        only: `new`: what was never done; `errors`: what was done and may go better; `missing`: what was not there.
    """
    publish_left(store)
    evaluated = purpose == "evaluation" or labels is not None  # an oracle is no prediction of an archive
    units = units_of(archive.videos, settings, by_name=evaluated)
    what = [name, min_score, [unit.id for unit in units]] if evaluated else [name]
    plan_id = digest([settings, purpose, *what])[:16]
    lake = Lake(store, f"predictions/{plan_id}" if evaluated else ROOT)
    known = look(lake, units, plan_id, min_score, retry_errors)
    todo = []
    for unit in units:
        if unit.id in known.fine or not _meant(unit, known, only):
            continue
        old = unit.id if unit.id in known.again else known.before.get(unit.source.video_id)
        todo.append(Unit(unit.id, unit.source, old))
    listed = {unit.source.video_id: unit.id for unit in units}
    return Work(
        store, lake, plan_id, card, archive, lineage | {"plan_id": plan_id}, name, purpose, labels, min_score,
        retry_errors, units, todo, known, listed != read_listing(store, plan_id),
    )  # fmt: skip


def _meant(unit: Unit, known: Known, only: Only | None) -> bool:
    if only == "new":
        return unit.id not in known.again
    if only == "errors":
        return known.again.get(unit.id) in ("retryable", "error")
    if only == "missing":
        return unit.id in known.again and unit.source.content_id == tables.UNKNOWN
    return True


class Publisher:
    """Publishes what the shards of a run wrote, many together."""

    def __init__(self, work: Work, plan: Plan) -> None:
        """`plan`: what stands before."""
        self._work, self._plan = work, plan
        self._stands = Counter(plan.counts)
        self._lakes = {work.lake.root: work.lake}
        self._waiting: list[Part] = []
        self._sure: list[Part] = []
        """Published; what says that they were finished stays until the next batch is."""
        self._last_s = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        """Of this run."""

    def add(self, part: Part) -> None:
        """A shard is finished."""
        self._waiting.append(part)
        self.counts.update(part.counts)
        self.errors.update(part.errors)
        self.seconds.update(part.seconds)
        if len(self._waiting) >= BATCH_PARTS or time.monotonic() - self._last_s >= BATCH_S:
            self._publish()

    @contextmanager
    def left_whole(self) -> Iterator[None]:
        """However it ends: what is finished is published."""
        try:
            yield
        finally:
            self._publish()
            self._publish()  # looks once more whether it stands
        self._work.lake.compact(least=COMPACT_AT_END)

    def _publish(self) -> None:
        parts = [*self._sure, *self._waiting]
        publish(self._work.store, parts, self._lakes)
        for part in self._waiting:
            rows = {name: ref.rows for name, ref in part.files.items()}
            self._stands.update({key: part.counts.get(key, 0) for key in (*STATUSES, "frames")} | rows)
        if self._waiting:  # about, until the run has ended: rows that were replaced are counted twice
            self._work.store.write_plan(self._plan.model_copy(update={"counts": dict(self._stands)}))
        self._work.store.forget(self._sure)
        self._sure, self._waiting = self._waiting, []
        self._work.lake.compact(least=COMPACT_FILES)
        self._last_s = time.monotonic()


def publish(store: Store, parts: Sequence[Part], lakes: dict[str, Lake]) -> None:
    """Every unit of these parts once; those that are published already stay.

    Args:
        lakes: by root; those that are missing are added.
    """
    by_run = sorted(parts, key=lambda part: (part.lake, part.run_id, part.shard))
    for (root, _), of_run in groupby(by_run, key=lambda part: (part.lake, part.run_id)):
        lakes.setdefault(root, Lake(store, root)).commit(list(of_run))


def publish_left(store: Store) -> None:
    """What runs finished that ended before they could publish it."""
    if parts := store.finished():
        publish(store, parts, {})
        store.forget(parts)
