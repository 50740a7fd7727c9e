"""Frames and labels in, a registered model out: stages of gradient descent.

One road: `prepare_data` -> `prepare_run` -> `train_stage` and `check_gate` for each stage -> `register`. What can go
wrong is looked for before the first stage, for all of them (`preflight.py`); who does the work is in `crew.py`, what a
worker does in `worker.py`. Everything of a run lies under `vis/v1/runs/<run_id>/`; running the same id again goes on
where it stopped: a finished stage is read from its `done.json`, an unfinished one continues from its last checkpoint.
"""

import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from jobs.launch import LostWorker
from jobs.models import put, registered
from jobs.settings import Settings
from jobs.store import Store, code_version
from jobs.training import preflight
from jobs.training.crew import Crew, Lost, Place, gathered
from jobs.training.data_sets import Data, prepare_data, read_data, read_sets, require_same_data
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.run_files import (
    DONE,
    LEFT_OUT,
    RESULT,
    RUNS,
    SPEC,
    TYPED,
    WEIGHTS,
    last_metrics,
    newest_checkpoint,
    stage_folder,
)
from jobs.training.runs import at_place, figures_of
from jobs.training.stages import sized, starting_model
from jobs.training.watch import hearing
from jobs.training.worker import train_on_worker
from jobs.workers import ray_to_join, share
from vis_models.checkpoints import ModelCard, build, save_model
from vis_models.config import BadConfig
from vis_models.data import findings
from vis_models.data.annotations import split_hash
from vis_models.progress import Progress

LOSSES = 8
"""How often a stage goes on after its workers were lost; then the flow starts anew."""
REHEARSAL = "rehearse every stage"
"""As it is called where a run says how far it is."""


def train(
    job: TrainJob, settings: Settings, run_id: str, progress: Progress | None = None, command: str = ""
) -> ModelCard:
    """Train a recipe and register the model under the run's name; a run that did is finished, its card stays.

    Args:
        command: what was typed, for the record.

    Raises:
        BadConfig: data that does not fit, or a part below its gate.
    """
    report = progress or (lambda *_: None)
    store = Store.open(settings)
    freeze(job, store, run_id)
    if finished := registered(store).get(run_id):
        since = f"its model was registered {finished.created_at:%Y-%m-%d %H:%M} UTC and stays as it is"
        report("train", 1, 1, {"note": f"run {run_id} is finished: {since}"})
        return finished
    typed = remember(command, store, run_id)
    todo = [stage for stage in job.to_train if not store.exists(f"{stage_folder(run_id, stage)}/{DONE}")]
    _workers_here(settings)  # a GPU that is not there is said before films are drawn, copied or read
    preflight.check_files(job, store)
    data = prepare_data(job, settings, report)
    prepare_run(job, todo, data, settings, run_id, report)
    metrics: dict[str, float] = {}
    weights = None
    with gathered(settings, f"{RUNS}/{run_id}", report) as crew:
        preflight.check_batches(todo, crew.workers.count)
        if todo and not _workers_here(settings):
            report(REHEARSAL, 0, 1, {})
            crew.try_out(partial(rehearse, job, todo, data, settings, run_id))
            report(REHEARSAL, 1, 1, {})
        for stage in job.to_train:
            done = train_stage(job, stage, data, settings, crew, run_id, weights, report)
            weights = done["weights"]
            metrics |= figures_of(stage.name, done["metrics"])
            check_gate(job, stage, metrics)
    assert weights is not None
    return register(job, settings, run_id, data, weights, metrics, "; ".join(typed))


def prepare_run(
    job: TrainJob, todo: Sequence[Stage], data: Data, settings: Settings, run_id: str, report: Progress
) -> None:
    """Everything that can be known before Ray is started and a GPU taken, for all stages that are left.

    Raises:
        BadConfig: what would stop the run later.
    """
    if not todo:
        return
    store, folder = Store.open(settings), f"{RUNS}/{run_id}"
    sets, found = read_sets(job, data, store, run_id)
    preflight.check_batches(todo, _workers_here(settings) or 1)
    preflight.check_clips(job, todo, sets)
    model, _ = starting_model(job, sets.train, store)
    preflight.check_space(job, model, store)
    for note in filter(None, dict.fromkeys((*sets.train.notes, *sets.val.notes, found))):
        report("read labels", 1, 1, {"note": note})
    for finding in findings.quick(sets.train, sets.val):
        report("look at labels", 1, 1, {"note": " ".join((finding.text, *finding.examples))})
    key = f"{folder}/{LEFT_OUT}"
    if not store.exists(key):
        left_out = preflight.leave_out_unreadable(job, sets, report)
        sets = sets.without(left_out)
        preflight.check_clips(job, todo, sets)
        store.write_json(key, left_out)
    require_same_data(job, data, sets, store, run_id, report)
    if workers := _workers_here(settings):
        report(REHEARSAL, 0, 1, {})
        rehearsed = f"{folder}/rehearsal"
        preflight.rehearse(job, todo, sets, settings, rehearsed, "cpu", workers, partial(check_gate, job))
        report(REHEARSAL, 1, 1, {})


def rehearse(job: TrainJob, todo: Sequence[Stage], data: Data, settings: Settings, run_id: str, place: Place) -> None:
    """The rehearsal where the workers will be: on a GPU, or on another machine, which reads the data by itself."""
    sets, _ = read_sets(job, data, Store.open(settings), run_id)
    folder, workers = f"{RUNS}/{run_id}/rehearsal", place.workers
    preflight.rehearse(job, todo, sets, settings, folder, workers.device, workers.count, partial(check_gate, job))


def _workers_here(settings: Settings) -> int | None:
    """How many workers there will be where that is known before they are there: on the CPU of this machine.

    Raises:
        BadConfig: GPUs of this machine were asked for that are not there.
    """
    if ray_to_join(settings)[0]:
        return None
    workers = share(settings, torch.cuda.device_count())
    return None if workers.device == "cuda" else workers.count


def freeze(job: TrainJob, store: Store, run_id: str) -> None:
    """Write the run's spec, or make sure that a run of this name has the same one."""
    key = f"{RUNS}/{run_id}/{SPEC}"
    if not store.exists(key):
        store.write_json(key, json.loads(job.model_dump_json()))
    elif at_place(TrainJob.model_validate(store.read_json(key)), job.data) != job:  # a new field has its default
        raise BadConfig(
            f"run {run_id} was started with another recipe or other fields, see {store.uri(key)}. "
            "Resume it without changes (`vis train --resume`), or start a new run."
        )


def remember(command: str, store: Store, run_id: str) -> list[str]:
    """What was typed for this run from its beginning on, now `command` too: the last one alone names no origin."""
    key = f"{RUNS}/{run_id}/{TYPED}"
    typed = store.read_json(key) if store.exists(key) else []
    if command and command not in typed:  # a flow that tries again, and who resumes twice, types nothing new
        typed.append(command)
        store.write_json(key, typed)
    return typed


def train_stage(
    job: TrainJob,
    stage: Stage,
    data: Data,
    settings: Settings,
    crew: Crew,
    run_id: str,
    start: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run one stage to its end, or return what an earlier run of it reached.

    Returns:
        `weights`, the key of its final weights in the store, and `metrics` of its end.
    """
    store, folder = Store.open(settings), stage_folder(run_id, stage)
    if store.exists(f"{folder}/{DONE}"):
        return store.read_json(f"{folder}/{DONE}")
    task, hear = partial(train_on_worker, job, stage, data, settings, run_id, start), hearing(stage, progress)
    for losses in count(1):
        try:
            crew.run(task, stage.name, hear)
            break
        except Lost as lost:
            if losses > LOSSES:
                raise LostWorker(f"stage {stage.name} lost its workers {losses} times, at last: {lost}") from lost
            note = f"lost a worker ({lost}); goes on from the last checkpoint, {losses} of at most {LOSSES} times"
            progress(f"train {stage.name}", 0, stage.iterations, {"note": note})
    last = newest_checkpoint(store, folder)
    assert last is not None  # a stage ends with one
    weights = f"{folder}/{RESULT if stage.validate_every else WEIGHTS}"
    if not stage.validate_every:  # else the best weights are there already
        handed_on = RESULT if stage.average else WEIGHTS
        store.write_bytes(weights, store.read_bytes(f"{last[0]}/{handed_on}"))
    done = {"weights": weights, "metrics": last_metrics(store, folder)}
    store.write_json(f"{folder}/{DONE}", done)
    return done


def check_gate(job: TrainJob, stage: Stage, metrics: dict[str, float]) -> None:
    """Raises BadConfig when what a stage trained is too weak for the next ones to be worth their cost."""
    if not stage.gate_ap50 or (reached := metrics["mask_ap50"]) >= stage.gate_ap50:
        return
    place = f"stages.{job.stages.index(stage)}"
    raise BadConfig(
        f"the {stage.name} of {job.recipe} reached mask AP50 {reached:.3f} on validation frames, the gate is "
        f"{stage.gate_ap50:.3f}. Train it longer (--set {place}.iterations=...), start from pretrained weights "
        f"(--init), or lower {place}.gate_ap50 if you know why."
    )


def register(
    job: TrainJob, settings: Settings, run_id: str, data: Data, weights: str, metrics: dict[str, float], command: str
) -> ModelCard:
    """Copy the final weights into `models/<run_id>/` with a card that says where they come from."""
    store = Store.open(settings)
    train_set, val_set = read_data(job, data, store)
    model = build(job.model, sized(job, train_set))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / WEIGHTS).write_bytes(store.read_bytes(weights))
        model.load_state_dict(load_file(folder / WEIGHTS))
        card = save_model(
            folder / run_id,
            model,
            ModelCard(
                name=run_id,
                model=job.model,
                config=sized(job, train_set),
                classes=train_set.categories,
                recipe=job.recipe,
                run_id=run_id,
                commit=code_version(),
                data=f"{data.name}, split {split_hash(train_set, val_set)}"
                + "".join(f", {part.labels} at {part.chance:g}" for part in job.extra),
                command=command,
                created_at=datetime.now(UTC),
                metrics=metrics,
            ),
        )
        put(store, run_id, folder / run_id)
    return card
