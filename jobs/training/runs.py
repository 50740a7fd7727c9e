"""Training runs: the job that a person's words mean, and which runs of a store there are. No torch, no Ray.

Everything that can be known before an engine starts is asked here, by the command line and by the flow alike.
"""

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from jobs import models
from jobs.store import Store
from jobs.training.forks import forked
from jobs.training.recipes.base import NAME, TrainJob, fit_name
from jobs.training.recipes.catalogue import DEFAULT, build
from jobs.training.run_files import DONE, ENDED, RUNS, SPEC, TYPED, newest_checkpoint
from vis_models.cards import kind_of_weights
from vis_models.config import BadConfig, Config, nearest

QUIET_S = 120
"""A run that wrote nothing for so long, nor why it ended, is taken for one that was killed."""
OPTIONS = {
    "recipe": "--recipe",
    "init": "--init",
    "detector": "--detector",
    "name": "--name",
    "changes": "--set",
}
"""Parameters of a training that a resumed run has already, as the command line calls them."""


def asked_for(
    store: Store,
    *,
    recipe: str | None = None,
    resume: str | None = None,
    origin: str | None = None,
    name: str | None = None,
    changes: Mapping[str, Any] | None = None,
    data: str | None = None,
    init: str | None = None,
    detector: str | None = None,
) -> TrainJob:
    """The job that the parameters of a training mean, its inputs looked for.

    A run that is resumed, or from whose checkpoint a new one begins (`origin`), keeps its data; `data` says where they
    lie now.

    Raises:
        BadConfig: unknown recipe, field or model; a value out of range; no data set where one is needed or named; a
            name that is taken; no run to resume, or a field beside it, as a run keeps its own.
    """
    if resume and origin:
        raise BadConfig("--resume goes on with a run, --from begins a new one from its checkpoint: give one of the two")
    if resume:
        given = {"recipe": recipe, "init": init, "detector": detector, "name": name, "changes": changes}
        _leave_away(
            given,
            f"--resume {resume} goes on with the recipe, data and fields of that run",
            f"let a new run go on from its checkpoint with other fields (--from {resume})",
        )
        return _where_data_lie(store, resume, resumable(store, resume), data)
    if name is not None:
        _check_name(store, name)
    if origin:
        given = {"recipe": recipe, "init": init, "detector": detector}
        _leave_away(given, f"--from {origin} keeps the recipe of that run", "start anew without --from")
        before = _where_data_lie(store, origin, resumable(store, origin), data)
        return forked(store, origin, before, dict(changes or {}))
    given = {"data": data and store.address(data), "init": init, "detector": detector and models.find(store, detector)}
    typed = {field: value for field, value in given.items() if value}
    job = build(recipe or DEFAULT, {**(changes or {}), **typed})
    check_data(job, store)
    for place in filter(None, [each for part in job.extra for each in (part.labels, part.frames)]):
        if not _is_there(store, place):
            raise BadConfig(f"{place} does not exist: correct the name")
    return job.model_copy(update={"init": _start(store, job.init)}) if job.init else job


def _start(store: Store, init: str) -> str:
    """Address of the weights to start from: of a registered model of this name, else of a file or folder.

    Raises:
        BadConfig: there is none, or a file that holds no weights.
    """
    known = models.registered(store)
    if init in known:
        return models.find(store, init)
    place = store.address(init)
    if not _is_there(store, place):
        meant = nearest(init, known)
        remedy = f"did you mean {meant}?" if meant else "correct the name"
        raise BadConfig(f"{place} does not exist, nor a registered model {init!r}: {remedy}")
    fs, path = store.open_source(place)
    if fs.isfile(path):
        kind_of_weights(place, fs.read_block(path, 0, 64))
    return place


def _leave_away(given: Mapping[str, Any], because: str, otherwise: str) -> None:
    """Raises BadConfig: something is given that belongs to a run already."""
    beside = [option for field, option in OPTIONS.items() if given.get(field)]
    if changes := given.get("changes"):
        beside[-1] += f" ({', '.join(changes)})"
    if beside:
        raise BadConfig(f"{because}: leave {', '.join(beside)} away, or {otherwise}")


def _where_data_lie(store: Store, run_id: str, job: TrainJob, data: str | None) -> TrainJob:
    """The job of a run with its data set at `data`, if they were moved there."""
    if data and not job.data:
        raise BadConfig(f"recipe {job.recipe} of run {run_id} draws its data, leave --data away")
    if data:
        job = at_place(job, store.address(data))
    if job.data and not _is_there(store, f"{job.data}/train.json"):
        raise BadConfig(
            f"{job.data} holds no train.json, and run {run_id} goes on with its own data: say where they are now "
            "(--data FOLDER)"
        )
    return job


def check_data(job: TrainJob, store: Store) -> None:
    """Raises BadConfig: the job has no data set, or not with the files that it needs."""
    if not job.data and not job.world:
        raise BadConfig(
            f"recipe {job.recipe} draws no data: give a folder in the YouTube-VIS format with `--data`, "
            "holding train.json and the frames under train/JPEGImages"
        )
    if not job.data:
        return
    if not _is_there(store, job.data):
        raise BadConfig(f"{job.data} does not exist: expected a data set in the YouTube-VIS format")
    if not _is_there(store, f"{job.data}/train.json"):
        raise BadConfig(f"{job.data} holds no train.json: expected a data set in the YouTube-VIS format")
    if not job.hold_out and not _is_there(store, f"{job.data}/val.json"):
        raise BadConfig(
            f"{job.data} holds no val.json and recipe {job.recipe} holds no videos of train.json out: "
            'set the rule, as in `--set hold_out=\'{"rule": "hash", "share": 0.1}\'`'
        )


def at_place(job: TrainJob, data: str | None) -> TrainJob:
    """The same job with its data set in another folder."""
    return job.model_copy(update={"data": data})


def resumable(store: Store, run_id: str) -> TrainJob:
    """The job of an earlier run. Raises BadConfig when there is none of this name."""
    key = f"{RUNS}/{run_id}/{SPEC}"
    if not NAME.fullmatch(run_id) or not store.exists(key):
        raise _no_run(store, run_id)
    try:
        return TrainJob.model_validate(store.read_json(key))
    except ValueError as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(map(str, first["loc"]))
        raise BadConfig(
            f"{store.uri(key)} is no job of this version ({where}: {first['msg']}): start a new run"
        ) from None


class Run(Config):
    """What is known of a training run from what it wrote."""

    name: str
    state: Literal["finished", "running", "stopped", "failed to start"]
    """finished: its model is registered; running: it wrote something in the last minutes; stopped: it has a checkpoint
    from which `--resume` goes on; failed to start: it ended before its first one."""
    reason: str
    """Why it ended, where it is not finished and could still say so."""
    recipe: str
    data: str
    stage: str | None
    """The stage that it is in, or ended with; None: no stage wrote anything."""
    iteration: int
    """Of that stage's newest checkpoint; 0: there is none."""
    iterations: int
    """Of that stage when it is done."""
    size_bytes: int
    files: int
    started_at: datetime
    written_at: datetime
    """When something was last written."""
    metrics: dict[str, float]
    """At the end of each finished stage."""


def runs(store: Store) -> list[Run]:
    """Every training run of a store, the one written to last at the end."""
    with store.guard(store.uri(RUNS)):
        found = store.fs.find(store.path(RUNS), detail=True)
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, info in found.items():
        run, _, inside = path.removeprefix(f"{store.path(RUNS)}/").partition("/")
        files[run][inside] = info
    finished = set(models.registered(store))
    specs = [f"{RUNS}/{name}/{SPEC}" for name, each in files.items() if SPEC in each]

    def read_run(spec: str) -> Run:
        name = spec.split("/")[-2]
        return _read(store, name, files[name], name in finished)

    read = store.readable(specs, read_run)
    return sorted((run for _, run in read), key=lambda run: (run.written_at, run.name))


def run_of(store: Store, name: str) -> Run:
    """One training run. Raises BadConfig: there is none of this name."""
    found = next((run for run in runs(store) if run.name == name), None)
    if found is None:
        raise _no_run(store, name)
    return found


def compared(store: Store, one: str, other: str) -> list[tuple[str, str, str]]:
    """What is different between two runs: (field of the recipe or figure, of one, of the other)."""
    pairs = [(run_of(store, name), dict(flat(store.read_json(f"{RUNS}/{name}/{SPEC}")))) for name in (one, other)]
    (first, fields), (second, others) = pairs
    rows = [(path, fields.get(path, ""), others.get(path, "")) for path in dict.fromkeys((*fields, *others))]
    for name in dict.fromkeys((*first.metrics, *second.metrics)):
        left, right = (f"{run.metrics[name]:.4g}" if name in run.metrics else "" for run in (first, second))
        rows.append((name, left, right))
    rows.append(("state", first.state, second.state))
    return [row for row in rows if row[1] != row[2]]


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested values of a recipe by dotted path, as `--set` names them, in JSON."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from flat(each, f"{path}.{name}" if path else str(name))
    else:
        yield path, json.dumps(value)


@contextmanager
def says_why_it_ends(store: Store, run_id: str) -> Iterator[None]:
    """An error or an interruption inside is written beside what the run has written, and goes on its way.

    A run that has written nothing but what was asked for leaves nothing.
    """
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        why = "interrupted" if interrupted else str(error) if isinstance(error, BadConfig) else repr(error)
        wrote = {posixpath.basename(key) for key in store.list(f"{RUNS}/{run_id}")}
        if wrote - {SPEC, TYPED}:
            store.write_json(f"{RUNS}/{run_id}/{ENDED}", {"reason": why})
        elif has_begun(store, run_id):
            store.fs.rm(store.path(f"{RUNS}/{run_id}"), recursive=True)
        raise


def has_begun(store: Store, run_id: str) -> bool:
    """Whether there is a run of this name to go on with."""
    return store.exists(f"{RUNS}/{run_id}/{SPEC}")


def delete(store: Store, run: Run) -> None:
    """Remove everything that a run wrote, but not the model that it registered.

    Raises:
        BadConfig: it is running.
    """
    if run.state == "running":
        raise BadConfig(
            f"run {run.name} wrote something less than {QUIET_S} s ago and may be running: stop it first, or wait"
        )
    with store.guard(store.uri(RUNS)):
        store.fs.rm(store.path(f"{RUNS}/{run.name}"), recursive=True)


def _read(store: Store, name: str, files: Mapping[str, Any], finished: bool) -> Run:
    spec = store.read_json(f"{RUNS}/{name}/{SPEC}")  # as it stands: it may be of an older version
    stage, iteration, iterations = None, 0, 0
    metrics: dict[str, float] = {}
    for each in spec["stages"]:
        if f"{each['name']}/{DONE}" in files:
            done = store.read_json(f"{RUNS}/{name}/{each['name']}/{DONE}")["metrics"]
            stage, iteration, iterations = each["name"], each["iterations"], each["iterations"]
            metrics |= figures_of(each["name"], done)
        elif any(inside.startswith(f"{each['name']}/") for inside in files):
            stage, iterations = each["name"], each["iterations"]
            iteration = (newest_checkpoint(store, f"{RUNS}/{name}/{stage}") or ("", 0))[1]
    written_at = max(_time(info) for info in files.values())
    ended = ENDED in files and _time(files[ENDED]) == written_at  # a resumed run has written since
    running = not ended and (datetime.now(UTC) - written_at).total_seconds() < QUIET_S
    world = spec.get("world")
    drawn = f"world {world['world']['level']}" if world else ""
    return Run(
        name=name,
        state="finished" if finished else "running" if running else "stopped" if iteration else "failed to start",
        reason=store.read_json(f"{RUNS}/{name}/{ENDED}")["reason"] if ended and not finished else "",
        recipe=spec["recipe"],
        data=spec.get("data") or drawn,
        stage=stage,
        iteration=iteration,
        iterations=iterations,
        size_bytes=sum(info["size"] for info in files.values()),
        files=len(files),
        started_at=_time(files[SPEC]),
        written_at=written_at,
        metrics=metrics,
    )


def figures_of(stage: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a stage ended with, beside what others did: each has a loss, and one alone is scored."""
    return {f"{stage}_{name}" if name == "loss" else name: x for name, x in metrics.items() if isinstance(x, float)}


def _time(info: Mapping[str, Any]) -> datetime:
    """When a file was written; a folder's and a bucket's listings say so in different words."""
    return info["LastModified"] if "LastModified" in info else datetime.fromtimestamp(info["mtime"], UTC)


def _is_there(store: Store, uri: str) -> bool:
    fs, path = store.open_source(uri)
    store.check(uri)
    with store.guard(uri):
        return fs.exists(path)


def _check_name(store: Store, name: str) -> None:
    try:
        fit_name(name)
    except ValueError as error:
        raise BadConfig(f"--name: {error}") from None
    if store.exists(f"{RUNS}/{name}/{SPEC}"):
        raise BadConfig(f"--name {name}: a run has it already; `vis train --resume {name}` goes on, or take another")
    if name in models.registered(store):
        raise BadConfig(f"--name {name}: a registered model has it already, take another")


def _no_run(store: Store, name: str) -> BadConfig:
    names = sorted({key.split("/")[3] for key in store.list(RUNS) if posixpath.basename(key) == SPEC})
    if not names:
        return BadConfig(f"no run {name!r} in {store.uri(RUNS)}: there is none at all")
    meant = nearest(name, names)
    hint = f"did you mean {meant}" if meant else f"expected one of: {', '.join(names[-5:])}"
    return BadConfig(f"no run {name!r} in {store.uri(RUNS)}, {hint}; `vis runs` lists all")
