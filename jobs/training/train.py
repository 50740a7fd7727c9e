"""Frames and labels in, a registered model out: stages of gradient descent on Ray Train.

One road: `prepare_data` -> `prepare_run` -> `train_stage` and `check_gate` for each stage -> `register`. What can go
wrong is looked for before the first stage, for all of them (`preflight.py`); what a worker does is in `worker.py`.
Everything of a run lies under `vis/v1/runs/<run_id>/`; running the same id again goes on where it stopped:
a finished stage is read from its `done.json`, an unfinished one continues from its last checkpoint.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayTaskError
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from jobs.cluster import Workers, cluster
from jobs.launch import LostWorker
from jobs.models import put, registered
from jobs.settings import Settings
from jobs.store import Store, code_version
from jobs.training import preflight
from jobs.training.data_sets import Data, prepare_data, read_data, read_sets, require_same_data
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.run_files import DONE, LEFT_OUT, RESULT, RUNS, SPEC, TYPED, WEIGHTS, stage_folder
from jobs.training.runs import at_place, figures_of
from jobs.training.stages import sized, starting_model
from jobs.training.watch import relay
from jobs.training.worker import train_on_worker
from jobs.workers import ray_to_join
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
    preflight.check_files(job, store)
    data = prepare_data(job, settings, report)
    prepare_run(job, todo, data, settings, run_id, report)
    metrics: dict[str, float] = {}
    weights = None
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how long a checkpoint waits for its answer
    if not ray_to_join(settings)[0]:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
    report("start Ray", 0, 1, {})
    with cluster(settings) as workers:
        report("start Ray", 1, 1, {})
        preflight.check_batches(todo, workers.count)
        if todo and not _workers_here(settings):
            report(REHEARSAL, 0, 1, {})
            rehearse_there(job, todo, data, settings, run_id, workers)
            report(REHEARSAL, 1, 1, {})
        for stage in job.to_train:
            done = train_stage(job, stage, data, settings, workers, run_id, weights, report)
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


def rehearse_there(
    job: TrainJob, todo: Sequence[Stage], data: Data, settings: Settings, run_id: str, workers: Workers
) -> None:
    """The rehearsal where the workers will be: on a GPU, or on another machine, which reads the data by itself."""

    def rehearse() -> None:
        sets, _ = read_sets(job, data, Store.open(settings), run_id)
        folder = f"{RUNS}/{run_id}/rehearsal"
        gate = partial(check_gate, job)
        preflight.rehearse(job, todo, sets, settings, folder, workers.device, workers.count, gate)

    gpu = workers.device == "cuda"
    try:
        ray.get(ray.remote(num_cpus=0 if gpu else 1, num_gpus=int(gpu), max_calls=1)(rehearse).remote())
    except RayTaskError as error:
        raise error.cause from None


def _workers_here(settings: Settings) -> int | None:
    """How many workers there will be where that is known without Ray: on the CPU of this machine."""
    on_gpus = settings.device != "cpu" and torch.cuda.is_available()
    return None if ray_to_join(settings)[0] or on_gpus else settings.workers or 1


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
    workers: Workers,
    run_id: str,
    start: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run one stage to its end on the workers of `settings`, or return what an earlier run of it reached.

    Returns:
        `weights`, the key of its final weights in the store, and `metrics` of its end.
    """
    store, folder = Store.open(settings), stage_folder(run_id, stage)
    if store.exists(f"{folder}/{DONE}"):
        return store.read_json(f"{folder}/{DONE}")
    with relay(stage, progress) as board:

        def work() -> None:
            train_on_worker(job, stage, data, settings, workers, run_id, start, board)

        result = _fit(work, stage, store, workers, run_id, progress)
    if result.checkpoint is None or result.metrics is None:
        raise RuntimeError(f"stage {stage.name} of run {run_id} ended without a checkpoint")
    weights = f"{folder}/{RESULT if stage.validate_every else WEIGHTS}"
    if not stage.validate_every:  # else the best weights are there already
        with result.checkpoint.as_directory() as checkpoint:
            handed_on = Path(checkpoint) / (RESULT if stage.average else WEIGHTS)
            store.write_bytes(weights, handed_on.read_bytes())
    done = {"weights": weights, "metrics": result.metrics}
    store.write_json(f"{folder}/{DONE}", done)
    return done


def _fit(
    work: Callable[[], None], stage: Stage, store: Store, workers: Workers, run_id: str, progress: Progress
) -> ray.train.Result:
    """The work done by all workers. Lost ones are replaced and go on at the last checkpoint, each time with a note.

    Raises:
        LostWorker: they were lost too often.
        Exception: what our own code raised on a worker; trying that again would end in the same place.
    """
    for losses in count(1):
        try:
            return _trainer(work, stage, store, workers, run_id).fit()
        except ray.train.TrainingFailedError as error:
            reason = why_lost(error)
            if losses > LOSSES:
                raise LostWorker(f"stage {stage.name} lost its workers {losses} times, at last: {reason}") from error
            note = f"lost a worker ({reason}); goes on from the last checkpoint, {losses} of at most {LOSSES} times"
            progress(f"train {stage.name}", 0, stage.iterations, {"note": note})
    raise AssertionError


def why_lost(error: ray.train.TrainingFailedError) -> str:
    """In words, how a process or a machine was lost. Raises what our own code raised, if that is what happened."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        if not _of_surroundings(failure):
            raise failure from error
    reasons = {str(rank): failure for rank, failure in failures.items()} or {"all": error}
    return "; ".join(
        f"{rank}: {type(each).__name__}: {str(each).splitlines()[0][:200]}" for rank, each in reasons.items()
    )


def _of_surroundings(failure: BaseException) -> bool:
    """Did Ray raise it, or the network between the workers, which breaks when one of them is gone?"""
    from_ray = type(failure).__module__.startswith("ray.") and not isinstance(failure, RayTaskError)
    gone = isinstance(failure, torch.distributed.DistError)
    return from_ray or gone or (isinstance(failure, RuntimeError) and bool(re.search(r"\bgloo\b|NCCL", str(failure))))


def _trainer(work: Callable[[], None], stage: Stage, store: Store, workers: Workers, run_id: str) -> TorchTrainer:
    return TorchTrainer(
        work,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.device == "cuda",
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1} if workers.device == "cuda" else {}),
        ),
        run_config=ray.train.RunConfig(
            name=stage.name,
            storage_path=store.path(f"{RUNS}/{run_id}"),
            storage_filesystem=store.arrow,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=preflight.KEPT_CHECKPOINTS),
            failure_config=ray.train.FailureConfig(max_failures=0),  # of Ray's; `_fit` knows which to try again
        ),
    )


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
