"""Frames and labels in, a registered model out: two stages of gradient descent on Ray Train.

One road: `prepare_data` -> `prepare_run` -> `train_stage` (detector) -> `check_gate` -> `train_stage` (tracker) ->
`register`. What can go wrong is looked for before the first stage, for all of them (`preflight.py`).
Everything of a run lies under `vis/v1/runs/<run_id>/`; running the same id again goes on where it stopped:
a finished stage is read from its `done.json`, an unfinished one continues from its last checkpoint.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayTaskError
from ray.train.torch import TorchTrainer, get_device, prepare_model
from safetensors.torch import load_file
from torch import Tensor, nn

from jobs.cluster import Workers, cluster
from jobs.launch import LostWorker
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, code_version
from jobs.training import preflight
from jobs.training.descent import (
    FiniteTerms,
    Losses,
    RunningMean,
    compile_fusible,
    descend,
    diverged,
    learning_rate,
    load_batches,
    optimizer_of,
)
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.runs import check_data
from jobs.training.stages import (
    RESULT,
    WEIGHTS,
    Sets,
    broken_tensors,
    load_state,
    samples_of,
    save_state,
    save_weights,
    sized,
    stages_of,
    starting_model,
    trained_part,
)
from jobs.training.validation import Judge
from jobs.training.watch import Events, Stopwatch, relay, say
from jobs.workers import ray_to_join
from vis_models.checkpoints import ModelCard, build, save_model, weights_hash
from vis_models.config import BadConfig, config_hash
from vis_models.data import findings
from vis_models.data.annotations import VideoSet, digest, hold_out, read_youtube_vis, split_hash
from vis_models.data.categories import counterparts
from vis_models.data.clips import ClipSet
from vis_models.data.coco import read_in_categories, translate
from vis_models.data.encoded import encode_copies
from vis_models.data.mixture import Mixture
from vis_models.data.world import write_youtube_vis
from vis_models.losses import worker_count
from vis_models.progress import Progress

LOSSES = 8
"""How often a stage goes on after its workers were lost; then the flow starts anew."""


@dataclass(frozen=True)
class Data:
    """Where a run's data set lies, and its name in provenance."""

    uri: str
    name: str


def train(
    job: TrainJob, settings: Settings, run_id: str, progress: Progress | None = None, command: str = ""
) -> ModelCard:
    """Train a recipe and register the model under the run's name.

    Args:
        command: what was typed, for the record.

    Raises:
        BadConfig: data that does not fit, or a detector below the gate.
    """
    report = progress or (lambda *_: None)
    store = Store.open(settings)
    freeze(job, store, run_id)
    todo = [stage for stage in stages_of(job) if not store.exists(f"{_folder(run_id, stage)}/done.json")]
    preflight.check_files(job, store)
    data = prepare_data(job, settings, report)
    prepare_run(job, todo, data, settings, run_id, report)
    metrics: dict[str, float] = {}
    weights = None
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how long a checkpoint waits for its answer
    with cluster(settings) as workers:
        preflight.check_batches(todo, workers.count)
        if todo and not _workers_here(settings):
            rehearse_there(job, todo, data, settings, run_id, workers)
        for stage in stages_of(job):
            done = train_stage(job, stage, data, settings, workers, run_id, weights, report)
            weights, metrics = done["weights"], metrics | done["metrics"]
            check_gate(job, stage, metrics)
    assert weights is not None
    return register(job, settings, run_id, data, weights, metrics, command)


def prepare_run(
    job: TrainJob, todo: Sequence[Stage], data: Data, settings: Settings, run_id: str, report: Progress
) -> None:
    """Everything that can be known before Ray is started and a GPU taken, for all stages that are left.

    Raises:
        BadConfig: what would stop the run later.
    """
    if not todo:
        return
    store, folder = Store.open(settings), f"{LAYOUT}/runs/{run_id}"
    sets, found = read_sets(job, data, store, run_id)
    preflight.check_batches(todo, _workers_here(settings) or 1)
    preflight.check_clips(job, todo, sets)
    model, _ = starting_model(job, sets.train, store)
    preflight.check_space(job, model, store)
    for note in filter(None, dict.fromkeys((*sets.train.notes, *sets.val.notes, found))):
        report("read labels", 1, 1, {"note": note})
    for finding in findings.quick(sets.train, sets.val):
        report("look at labels", 1, 1, {"note": " ".join((finding.text, *finding.examples))})
    key = f"{folder}/left_out.json"
    if not store.exists(key):
        left_out = preflight.leave_out_unreadable(job, sets, report)
        sets = sets.without(left_out)
        preflight.check_clips(job, todo, sets)
        store.write_json(key, left_out)
    if workers := _workers_here(settings):
        rehearsed = f"{folder}/rehearsal"
        preflight.rehearse(job, todo, sets, settings, rehearsed, "cpu", workers, partial(check_gate, job))


def rehearse_there(
    job: TrainJob, todo: Sequence[Stage], data: Data, settings: Settings, run_id: str, workers: Workers
) -> None:
    """The rehearsal where the workers will be: on a GPU, or on another machine, which reads the data by itself."""

    def rehearse() -> None:
        sets, _ = read_sets(job, data, Store.open(settings), run_id)
        folder = f"{LAYOUT}/runs/{run_id}/rehearsal"
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


def _folder(run_id: str, stage: Stage) -> str:
    return f"{LAYOUT}/runs/{run_id}/{stage.name}"


def freeze(job: TrainJob, store: Store, run_id: str) -> None:
    """Write the run's spec, or make sure that a run of this name has the same one."""
    key = f"{LAYOUT}/runs/{run_id}/spec.json"
    if not store.exists(key):
        store.write_json(key, json.loads(job.model_dump_json()))
    elif TrainJob.model_validate(store.read_json(key)) != job:  # a field that is new since then has its default
        raise BadConfig(
            f"run {run_id} was started with another recipe or other fields, see {store.uri(key)}. "
            "Resume it without changes (`vis train --resume`), or start a new run."
        )


def prepare_data(job: TrainJob, settings: Settings, progress: Progress) -> Data:
    """Find the data set, or draw it.

    A drawn world lies in the store when that is a folder, and else in the scratch folder, from where every worker
    of this machine reads it; the seed makes the same bytes anywhere.
    """
    check_data(job, Store.open(settings))
    if job.data:
        return Data(job.data, job.data)
    world = job.world
    assert world is not None  # as checked
    name = f"{world.world.level}-v{world.world.version}-{config_hash(world.model_dump())}"
    folder = world_folder(settings) / name
    write_youtube_vis(world.world, folder, world.train_videos, world.val_videos, progress)
    return Data(str(folder), f"world {name}")


def world_folder(settings: Settings) -> Path:
    """Where drawn data sets lie on this machine."""
    store = Store.open(settings)
    return Path(store.path(f"{LAYOUT}/worlds")) if store.is_local else settings.scratch.expanduser() / "worlds"


def read_data(job: TrainJob, data: Data, store: Store) -> tuple[VideoSet, VideoSet]:
    """Training and validation videos, checked."""
    folder = store.local_copy(data.uri)
    videos = read_youtube_vis(folder / "train.json")
    if job.hold_out:
        train_set, val_set = hold_out(videos, job.hold_out)
    else:
        train_set, val_set = videos, read_youtube_vis(folder / "val.json")
    for part in (train_set, val_set):
        part.require_labels()
    return train_set, in_categories_of(train_set, val_set)


def in_categories_of(train_set: VideoSet, val_set: VideoSet) -> VideoSet:
    """The validation videos in the categories of the training set, by name; says what only one of the two has."""
    if val_set.categories == train_set.categories:
        return val_set
    joined, dropped = translate(val_set, train_set.categories)
    ours, theirs = ([c.name for c in part.categories] for part in (train_set, val_set))
    notes = []
    for where, other, names in (
        (val_set, train_set, [name for name, pair in counterparts(theirs, ours).items() if pair is None]),
        (train_set, val_set, [name for name, pair in counterparts(ours, theirs).items() if pair is None]),
    ):
        if names:
            notes.append(f"only {where.source} has the categories {', '.join(names[:5])}, {other.source} has not")
    if dropped:
        notes.append(f"{sum(dropped.values())} objects of {val_set.source} are left out: {', '.join(dropped)}")
    if not joined.has_labels:
        raise BadConfig(f"{val_set.source} has no object of a category to train on: {'; '.join(notes)}")
    return replace(joined, notes=(*joined.notes, *notes))


def read_extra(job: TrainJob, main: VideoSet, store: Store) -> tuple[tuple[VideoSet, ...], str]:
    """The job's extra sets in the categories of the main one, and what was found and dropped, in words."""
    sets, words = [], []
    for part in job.extra:
        frames = store.local_copy(part.frames) if part.frames else None
        read, dropped = read_in_categories(store.local_copy(part.labels), main.categories, part.names, frames)
        read.require_labels()
        sets.append(read)
        words.append(
            f"{part.labels}: {sum(bool(video.tracks) for video in read.videos)} of {len(read.videos)} have labels"
            + "".join(f", {count} x {name} dropped" for name, count in sorted(dropped.items()))
        )
        words.extend(read.notes)
    return tuple(sets), "; ".join(words)


def read_sets(job: TrainJob, data: Data, store: Store, run_id: str, mixes: bool = True) -> tuple[Sets, str]:
    """The run's data without the frames that its preflight left out, and what was found in the extra sets, in words.

    Args:
        mixes: whether the extra sets are needed.
    """
    train_set, val_set = read_data(job, data, store)
    extra, found = read_extra(job, train_set, store) if mixes else ((), "")
    key = f"{LAYOUT}/runs/{run_id}/left_out.json"
    sets = Sets(train_set, val_set, extra)
    return sets.without(store.read_json(key)) if store.exists(key) else sets, found


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
    store, folder = Store.open(settings), _folder(run_id, stage)
    if store.exists(f"{folder}/done.json"):
        return store.read_json(f"{folder}/done.json")
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
    store.write_json(f"{folder}/done.json", done)
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
            storage_path=store.path(f"{LAYOUT}/runs/{run_id}"),
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
                metrics={name: value for name, value in metrics.items() if name != "iteration"},
            ),
        )
        for name in ("model.safetensors", "card.json"):  # the card last: a folder without one is no model
            store.write_bytes(f"{LAYOUT}/models/{run_id}/{name}", (folder / run_id / name).read_bytes())
    return card


# ---- on a worker ---------------------------------------------------------------------------------------------------


def train_on_worker(
    job: TrainJob,
    stage: Stage,
    data: Data,
    settings: Settings,
    workers: Workers,
    run_id: str,
    start: str | None,
    board: Any,
) -> None:
    """One of the workers of a stage, from first iteration to last checkpoint."""
    store = Store.open(settings)
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(workers.cpus)
    device = get_device()
    sets, _ = read_sets(job, data, store, run_id, bool(stage.mixture_epoch))
    model, origin = _model(job, sets, store, start)
    model.to(device, memory_format=torch.channels_last)
    part = trained_part(model, stage)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every batch has the same shapes
        if stage.compile:
            compile_fusible(model)
    optimizer = optimizer_of(stage, part)
    mean = RunningMean(part, stage.average) if stage.average else None
    first = _restore(model, optimizer, mean)
    for note in (f"goes on after iteration {first}" if first else origin, _about_norms(stage, part, workers)):
        if note:
            say(board, rank, {"note": note})
    clips = samples_of(job, stage, sets.train, sets.extra)
    batches, losses = _batches(job, stage, model, part, clips, device, first, board, settings)
    module = prepare_model(losses, parallel_strategy="ddp" if workers.count > 1 else None)
    events = Events(store, _folder(run_id, stage), rank)
    judge = Judge(stage, model, sets.val, store, _folder(run_id, stage))
    watch, finite = Stopwatch(), FiniteTerms()
    for done, terms in descend(stage, (job.seed, rank), module, optimizer, watch.waits_for(batches), first):
        finite.see(done, terms)
        if mean:
            mean.update(done)
        last = done == stage.iterations
        if watch.due() or last:
            finite.require(stage)
            values = {name: float(term) for name, term in terms.items()}
            speed = {"it_per_s": watch.rate(done - first), "waiting": watch.waiting()}
            say(board, rank, {"done": done, "loss": sum(values.values())} | speed)
            events.write(done, values | speed | {"learning_rate": learning_rate(stage, done - 1)})
        scores: dict[str, float] = {}
        if rank == 0 and judge.due(done):
            finite.require(stage)
            with mean.in_place() if mean else nullcontext():
                say(board, rank, {"done": done, "note": f"scoring the {stage.name} on held-out videos"})
                events.write(done, figures := judge.score())
                scores = judge.keep(done, figures)
            say(board, rank, {"done": done} | figures)
        if done % stage.checkpoint_every == 0 or last:
            finite.require(stage)
            if broken := broken_tensors(model, optimizer):
                raise diverged(stage, f"iteration {done} left no finite numbers in {len(broken)} tensors: {broken[0]}")
            metrics = {"iteration": done, "loss": float(sum(terms.values()))} | scores
            events.save(last)
            _checkpoint(model, optimizer, mean, done, metrics, rank)


def _model(job: TrainJob, sets: Sets, store: Store, start: str | None) -> tuple[Any, str]:
    """The model as this stage finds it, and where its weights come from where that was not said before."""
    if start:
        model = build(job.model, sized(job, sets.train))
        model.load_state_dict(_tensors(store, start))
        return model, ""
    return starting_model(job, sets.train, store)


def _about_norms(stage: Stage, part: nn.Module, workers: Workers) -> str:
    """Said where somebody may wonder."""
    learn = any(isinstance(norm, nn.BatchNorm2d) and norm.training for norm in part.modules())
    if stage.batch_norm == "synchronised" and not (learn and workers.count > 1):
        return ""
    return f"batch norms are {stage.batch_norm}" + (f" over {workers.count} workers" if workers.count > 1 else "")


def encodings_folder(settings: Settings, model: Any, clips: ClipSet) -> Path:
    """Where encoded copies lie on this machine: the same folder for all that makes the same files."""
    what = model.config.encoding | {
        "weights": weights_hash(model.encoder),
        "data": digest(clips.videos),
        "videos": [video.video_id for video in clips.usable],
        "clip_length": clips.length,
        "augmentation": clips.augmentation.model_dump(mode="json", exclude_none=True),
    }
    return settings.scratch.expanduser() / "encodings" / config_hash(what)


def _batches(
    job: TrainJob,
    stage: Stage,
    model: Any,
    part: Any,
    clips: ClipSet | Mixture,
    device: torch.device,
    first: int,
    board: Any,
    settings: Settings,
) -> tuple[Iterator[tuple], Losses]:
    """This worker's share of every global batch from iteration `first` on, and the loss that takes it.

    Sample n of a run is the same for any number of workers.
    """
    context = ray.train.get_context()
    rank, each = context.get_world_rank(), stage.batch_size // context.get_world_size()
    samples = [
        list(range(iteration * stage.batch_size + rank * each, iteration * stage.batch_size + (rank + 1) * each))
        for iteration in range(first, stage.iterations)
    ]
    part_size = each // stage.accumulate
    samples = [whole[n : n + part_size] for whole in samples for n in range(0, each, part_size)]
    if stage.cached_copies:
        assert isinstance(clips, ClipSet)  # a stage cannot have both
        model.eval()
        cached = encode_copies(
            clips,
            stage.cached_copies,
            model.encoded,
            lambda one: model.encode_clips(one.to(device)),
            encodings_folder(settings, model, clips),
            (context.get_local_rank(), context.get_local_world_size()),
            lambda done, total: say(board, rank, {"encoded": done, "of": total}),
        )
        if worker_count() > 1:
            torch.distributed.barrier()  # any sample can need any copy
        trained_part(model, stage)

        def from_cache() -> Iterator[tuple]:
            for numbers in samples:
                encoded, objects = cached.batch(numbers)
                yield encoded.to(device), objects.to(device)

        return from_cache(), Losses(part, part.encoded_loss)
    processes = max(torch.get_num_threads() - 1, 1) if device.type == "cuda" else 0
    return ((clip,) for clip in load_batches(clips, samples, device, processes)), Losses(part, part.loss)


def _restore(model: Any, optimizer: torch.optim.Optimizer, mean: RunningMean | None) -> int:
    """Go on from this stage's last checkpoint, if there is one. Returns the next iteration."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        return load_state(Path(folder), model, optimizer, mean)


def _checkpoint(
    model: Any,
    optimizer: torch.optim.Optimizer,
    mean: RunningMean | None,
    iteration: int,
    metrics: dict[str, float],
    rank: int,
) -> None:
    """Report to Ray Train, which waits for all workers; the first one brings the files."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            save_state(Path(folder), model, optimizer, iteration, mean)
            if mean:
                with mean.in_place():
                    save_weights(Path(folder) / RESULT, model)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _tensors(store: Store, key: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(store.read_bytes(key))
        return load_file(path)
