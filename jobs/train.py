"""Frames and labels in, a registered model out: two stages of gradient descent on Ray Train.

One road: `prepare_data` -> `train_stage` (detector) -> `check_gate` -> `train_stage` (tracker) -> `register`.
Everything of a run lies under `vis/v1/runs/<run_id>/`; running the same id again goes on where it stopped:
a finished stage is read from its `done.json`, an unfinished one continues from its last checkpoint.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jobs.cluster import Workers, cluster
from jobs.descent import Losses, compile_convolutions, descend, learning_rate, load_batches, optimizer_of
from jobs.models import find
from jobs.recipes import Stage, TrainJob
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, code_version
from jobs.watch import Events, Stopwatch, relay, say
from vis_models.checkpoints import ModelCard, build, initialise, save_model, weights_hash
from vis_models.config import BadConfig, config_hash
from vis_models.data.annotations import VideoSet, hold_out, read_youtube_vis, split_hash
from vis_models.data.clips import Augmentation, ClipSet
from vis_models.data.coco import read_labels, translate
from vis_models.data.encoded import encode_copies
from vis_models.data.mixture import Mixture
from vis_models.data.world import write_youtube_vis
from vis_models.metrics.detector import frame_mask_ap
from vis_models.progress import Progress

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"


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
    data = prepare_data(job, settings, report)
    metrics: dict[str, float] = {}
    weights = None
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how long a checkpoint waits for its answer
    with cluster(settings) as workers:
        for stage in stages(job):
            done = train_stage(job, stage, data, settings, workers, run_id, weights, report)
            weights, metrics = done["weights"], metrics | done["metrics"]
            if stage.part == "detector":
                check_gate(job, metrics)
    assert weights is not None
    return register(job, settings, run_id, data, weights, metrics, command)


def stages(job: TrainJob) -> tuple[Stage, ...]:
    """What is left to train: with another run's detector everything but the detector."""
    return tuple(stage for stage in job.stages if stage.part != "detector" or not job.detector)


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


def resumable(settings: Settings, run_id: str) -> TrainJob:
    """The job of an earlier run. Raises BadConfig when there is none of this name."""
    store = Store.open(settings)
    key = f"{LAYOUT}/runs/{run_id}/spec.json"
    if not store.exists(key):
        names = sorted({key.split("/")[3] for key in store.list(f"{LAYOUT}/runs") if key.endswith("/spec.json")})
        raise BadConfig(f"no run {run_id!r} in {store.uri(f'{LAYOUT}/runs')}, expected one of: {', '.join(names)}")
    return TrainJob.model_validate(store.read_json(key))


def prepare_data(job: TrainJob, settings: Settings, progress: Progress) -> Data:
    """Find the data set, or draw it.

    A drawn world lies in the store when that is a folder, and else in the scratch folder, from where every worker
    of this machine reads it; the seed makes the same bytes anywhere.
    """
    if job.data:
        return Data(job.data, job.data)
    if not job.world:
        raise BadConfig(
            f"recipe {job.recipe} draws no data: give a folder in the YouTube-VIS format with `--data`, "
            "holding train.json and the frames under train/JPEGImages"
        )
    world = job.world
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
    train_json = folder / "train.json"
    if not train_json.is_file():
        raise BadConfig(f"{data.uri} holds no train.json: expected a data set in the YouTube-VIS format")
    videos = read_youtube_vis(train_json)
    if job.hold_out:
        train_set, val_set = hold_out(videos, job.hold_out)
    elif (folder / "val.json").is_file():
        train_set, val_set = videos, read_youtube_vis(folder / "val.json")
    else:
        raise BadConfig(
            f"{data.uri} holds no val.json and recipe {job.recipe} holds no videos of train.json out: "
            'set the rule, as in `--set hold_out=\'{"rule": "hash", "share": 0.1}\'`'
        )
    for part in (train_set, val_set):
        part.require_labels()
    return train_set, val_set


def read_extra(job: TrainJob, main: VideoSet, store: Store) -> tuple[tuple[VideoSet, ...], str]:
    """The job's extra sets in the categories of the main one, and what was found and dropped, in words."""
    sets, words = [], []
    for part in job.extra:
        frames = store.local_copy(part.frames) if part.frames else None
        read, dropped = translate(read_labels(store.local_copy(part.labels), frames), main.categories, part.names)
        read.require_labels()
        sets.append(read)
        words.append(
            f"{part.labels}: {sum(bool(video.tracks) for video in read.videos)} of {len(read.videos)} have labels"
            + "".join(f", {count} x {name} dropped" for name, count in sorted(dropped.items()))
        )
    return tuple(sets), "; ".join(words)


def samples_of(job: TrainJob, stage: Stage, train_set: VideoSet, extra: tuple[VideoSet, ...]) -> ClipSet | Mixture:
    """The stream of clips of a stage: of the main set, or of all sets where the stage mixes them."""
    size = job.config.detector.image_size
    sets = [ClipSet(part, stage.clip_length, size, stage.augmentation, job.seed) for part in (train_set, *extra)]
    if not extra or not stage.mixture_epoch:
        return sets[0]
    chances = [part.chance for part in job.extra]
    return Mixture(tuple(sets), (1 - sum(chances), *chances), stage.mixture_epoch, job.seed)


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
    store = Store.open(settings)
    folder = f"{LAYOUT}/runs/{run_id}/{stage.name}"
    if store.exists(f"{folder}/done.json"):
        return store.read_json(f"{folder}/done.json")
    if stage.batch_size % workers.count:
        raise BadConfig(
            f"stage {stage.name} has batch_size {stage.batch_size}, which {workers.count} workers cannot share evenly: "
            "choose another number of workers (VIS_WORKERS)"
        )
    train_set, _ = read_data(job, data, store)  # complains here, before a worker starts
    extra, found = read_extra(job, train_set, store) if stage.mixture_epoch else ((), "")
    for part in (train_set, *extra):
        part.check_frames()
    samples_of(job, stage, train_set, extra)
    if found:
        progress(f"train {stage.name}", 0, stage.iterations, {"note": found})
    with relay(stage, progress) as board:

        def work() -> None:
            train_on_worker(job, stage, data, settings, workers, folder, start, board)

        result = _trainer(work, stage, store, workers, run_id).fit()
    if result.checkpoint is None or result.metrics is None:
        raise RuntimeError(f"stage {stage.name} of run {run_id} ended without a checkpoint")
    weights = f"{folder}/{WEIGHTS}"
    with result.checkpoint.as_directory() as checkpoint:
        store.write_bytes(weights, (Path(checkpoint) / WEIGHTS).read_bytes())
    done = {"weights": weights, "metrics": result.metrics}
    store.write_json(f"{folder}/done.json", done)
    return done


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
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=8),
        ),
    )


def check_gate(job: TrainJob, metrics: dict[str, float]) -> None:
    """Raises BadConfig when the detector is too weak for stage 2 to be worth its cost."""
    reached = metrics["mask_ap50"]
    if reached < job.gate_ap50:
        raise BadConfig(
            f"the detector of {job.recipe} reached mask AP50 {reached:.3f} on validation frames, the gate is "
            f"{job.gate_ap50:.3f}. Train it longer (--set stages.0.iterations=...), start from pretrained weights "
            "(--init), or lower gate_ap50 if you know why."
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


def sized(job: TrainJob, videos: VideoSet) -> dict[str, Any]:
    """The model's config with as many classes as the data set has."""
    config = job.config.model_dump(mode="json")
    config["detector"]["num_classes"] = len(videos.categories)
    return config


# ---- on a worker ---------------------------------------------------------------------------------------------------


def train_on_worker(
    job: TrainJob,
    stage: Stage,
    data: Data,
    settings: Settings,
    workers: Workers,
    folder: str,
    start: str | None,
    board: Any,
) -> None:
    """One of the workers of a stage, from first iteration to last checkpoint."""
    store = Store.open(settings)
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(workers.cpus)
    device = get_device()
    train_set, val_set = read_data(job, data, store)
    extra = read_extra(job, train_set, store)[0] if stage.mixture_epoch else ()
    torch.manual_seed(job.seed)
    model: Any = build(job.model, sized(job, train_set))
    if start:
        model.load_state_dict(_tensors(store, start))
    elif job.detector:
        folder_of_model = store.local_copy(find(store, job.detector))
        say(board, rank, {"note": f"detector: {initialise(model.detector, folder_of_model / WEIGHTS)}"})
    elif job.init:
        say(board, rank, {"note": str(initialise(model, store.local_copy(job.init)))})
    else:
        say(board, rank, {"note": f"no --init: {job.recipe} starts from random weights"})
    model.to(device, memory_format=torch.channels_last)
    part = model.detector if stage.part == "detector" else model
    part.train()
    if stage.part == "detector":
        part.requires_grad_(True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every batch has the same shapes
        if stage.compile:
            compile_convolutions(model.detector)
    optimizer = optimizer_of(stage, part)
    first = _restore(model, optimizer)
    if first:
        say(board, rank, {"note": f"goes on after iteration {first}"})
    share = (rank, workers.count)
    videos = f"{data.name} {split_hash(train_set, val_set)}"
    clips = samples_of(job, stage, train_set, extra)
    batches, losses = _batches(job, stage, model, part, clips, share, device, first, board, settings, videos)
    module = prepare_model(losses, parallel_strategy="ddp" if workers.count > 1 else None)
    events = Events(store, folder, rank)
    watch = Stopwatch()
    for done, terms in descend(stage, (job.seed, rank), module, optimizer, watch.waits_for(batches), first):
        if watch.due() or done == stage.iterations:
            values = {name: float(term) for name, term in terms.items()}
            if not math.isfinite(sum(values.values())):
                raise FloatingPointError(f"loss of {job.recipe}, stage {stage.name}, iteration {done}: {values}")
            speed = {"it_per_s": watch.rate(done - first), "waiting": watch.waiting()}
            say(board, rank, {"done": done, "loss": sum(values.values())} | speed)
            events.write(done, values | speed | {"learning_rate": learning_rate(stage, done - 1)})
        if done % stage.checkpoint_every == 0 or done == stage.iterations:
            metrics: dict[str, float] = {"iteration": done, "loss": float(sum(terms.values()))}
            if done == stage.iterations and stage.part == "detector" and rank == 0:
                say(board, rank, {"note": f"scoring the detector on {job.gate_frames} validation frames"})
                metrics |= frame_mask_ap(model.detector, val_set, job.gate_frames, device)
                events.write(done, metrics)
            events.save(last=done == stage.iterations)
            _checkpoint(model, optimizer, done, metrics, rank)


def encodings_folder(settings: Settings, model: Any, videos: str, augmentation: Augmentation) -> Path:
    """Where encoded copies lie on this machine: the same folder for the same detector, videos and augmentation."""
    what = model.config.encoding | {
        "weights": weights_hash(model.detector),
        "videos": videos,
        "augmentation": augmentation.model_dump(mode="json", exclude_none=True),
    }
    return settings.scratch.expanduser() / "encodings" / config_hash(what)


def _batches(
    job: TrainJob,
    stage: Stage,
    model: Any,
    part: Any,
    clips: ClipSet | Mixture,
    share: tuple[int, int],
    device: torch.device,
    first: int,
    board: Any,
    settings: Settings,
    videos: str,
) -> tuple[Iterator[tuple], Losses]:
    """This worker's share of every global batch from iteration `first` on, and the loss that takes it.

    Without cached copies sample n of a run is the same for any number of workers.
    """
    rank, workers = share
    each = stage.batch_size // workers
    if stage.cached_copies:
        assert isinstance(clips, ClipSet)  # a stage cannot have both
        model.eval()
        cached = encode_copies(
            clips,
            stage.cached_copies,
            model.encoded,
            lambda one: model.encode_clips(one.to(device)),
            encodings_folder(settings, model, videos, stage.augmentation),
            share,
            lambda done, total: say(board, rank, {"encoded": done, "of": total}),
        )
        part.train()

        def from_cache() -> Iterator[tuple]:
            for iteration in range(first, stage.iterations):
                encoded, objects = cached.batch(range(iteration * each, (iteration + 1) * each))
                yield encoded.to(device), objects.to(device)

        return from_cache(), Losses(part, part.encoded_loss)

    samples = [
        list(range(iteration * stage.batch_size + rank * each, iteration * stage.batch_size + (rank + 1) * each))
        for iteration in range(first, stage.iterations)
    ]
    processes = max(torch.get_num_threads() - 1, 1) if device.type == "cuda" else 0
    return ((clip,) for clip in load_batches(clips, samples, device, processes)), Losses(part, part.loss)


def _restore(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Go on from this stage's last checkpoint, if there is one. Returns the next iteration."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))
        saved = torch.load(Path(folder) / OPTIMIZER, weights_only=True)
    optimizer.load_state_dict(saved["optimizer"])
    return saved["iteration"]


def _checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, metrics: dict[str, float], rank: int
) -> None:
    """Report to Ray Train, which waits for all workers; the first one brings the files."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
            save_file(state, Path(folder) / WEIGHTS)
            torch.save({"optimizer": optimizer.state_dict(), "iteration": iteration}, Path(folder) / OPTIMIZER)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def _tensors(store: Store, key: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(store.read_bytes(key))
        return load_file(path)
