"""What one of the workers of a stage does, wherever it runs: its share of every batch, scores, checkpoints.

Sample n of a run is the same for any number of workers, and after a resume.
"""

import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jobs.settings import Settings
from jobs.store import Store
from jobs.training.crew import Place
from jobs.training.data_sets import Data, read_sets
from jobs.training.descent import (
    Losses,
    LossTerms,
    RunningMean,
    compile_fusible,
    descend,
    diverged,
    learning_rate,
    load_batches,
    optimizer_of,
)
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.run_files import (
    OPTIMIZER,
    RESULT,
    WEIGHTS,
    newest_checkpoint,
    stage_folder,
    write_checkpoint,
)
from jobs.training.stages import (
    Sets,
    broken_tensors,
    load_state,
    samples_of,
    save_state,
    save_weights,
    sized,
    starting_model,
    trained_part,
)
from jobs.training.validation import Judge
from jobs.training.watch import MEAN_OVER, Curve, Stopwatch
from vis_models.checkpoints import build, weights_hash
from vis_models.config import config_hash
from vis_models.data.annotations import digest
from vis_models.data.clips import ClipSet
from vis_models.data.encoded import encode_copies
from vis_models.data.mixture import Mixture
from vis_models.losses import worker_count


def train_on_worker(
    job: TrainJob, stage: Stage, data: Data, settings: Settings, run_id: str, start: str | None, place: Place
) -> None:
    """One of the workers of a stage, from first iteration to last checkpoint, or to that of a run that is stopped.

    Args:
        start: key of the weights that the stage before ended with.
    """
    store, rank, device = Store.open(settings), place.rank, place.device
    torch.set_num_threads(place.workers.cpus)
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
    folder, terms = stage_folder(run_id, stage), LossTerms()
    first = _restore(store, folder, model, optimizer, mean, terms)
    for note in (
        f"goes on after iteration {first}" if first else origin,
        _about_norms(stage, part, place.workers.count),
    ):
        if note:
            place.say({"note": note})
    clips = samples_of(job, stage, sets.train, sets.extra)
    batches, losses = _batches(job, stage, model, part, clips, first, place, settings)
    module = place.share(losses)
    curve = Curve(store, folder, rank, first)
    judge = Judge(stage, model, sets.val, store, folder)
    watch = Stopwatch()
    for done, now in descend(stage, (job.seed, rank), module, optimizer, watch.waits_for(batches), first):
        terms.see(done, now)
        if mean:
            mean.update(done)
        last = done == stage.iterations
        if watch.due() or last:
            terms.require_finite(stage)
            speed = {"it_per_s": watch.rate(done - first), "waiting": watch.waiting()}
            place.say({"done": done, "loss": terms.so_far()} | speed)
        if done % MEAN_OVER == 0 or last:
            curve.add(done, terms.means() | {"learning_rate": learning_rate(stage, done - 1)})
        scores: dict[str, float] = {}
        if rank == 0 and judge.due(done):
            terms.require_finite(stage)
            with mean.in_place() if mean else nullcontext():
                place.say({"done": done, "note": f"scoring the {stage.name} on held-out videos"})
                curve.add(done, figures := judge.score())
                scores = judge.keep(done, figures)
            found = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
            place.say({"done": done, "note": f"after {done} iterations {found}"})  # a sentence is never passed over
        ends = place.asked_to_end()
        if done % stage.checkpoint_every == 0 or last or ends:
            terms.require_finite(stage)
            if broken := broken_tensors(model, optimizer):
                raise diverged(stage, f"iteration {done} left no finite numbers in {len(broken)} tensors: {broken[0]}")
            terms.share()
            metrics = {"iteration": done} | ({"loss": curve.loss} if curve.loss is not None else {}) | scores
            curve.save(last or ends)
            if rank == 0:  # the others wait for it where they share gradients
                _checkpoint(store, folder, model, optimizer, mean, terms, done, metrics)
        if ends:
            return


def _model(job: TrainJob, sets: Sets, store: Store, start: str | None) -> tuple[Any, str]:
    """The model as this stage finds it, and where its weights come from where that was not said before."""
    if start:
        model = build(job.model, sized(job, sets.train))
        model.load_state_dict(_tensors(store, start))
        return model, ""
    return starting_model(job, sets.train, store)


def _about_norms(stage: Stage, part: nn.Module, workers: int) -> str:
    """Said where somebody may wonder."""
    learn = any(isinstance(norm, nn.BatchNorm2d) and norm.training for norm in part.modules())
    if stage.batch_norm == "synchronised" and not (learn and workers > 1):
        return ""
    return f"batch norms are {stage.batch_norm}" + (f" over {workers} workers" if workers > 1 else "")


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
    first: int,
    place: Place,
    settings: Settings,
) -> tuple[Iterator[tuple], Losses]:
    """This worker's share of every global batch from iteration `first` on, and the loss that takes it.

    Sample n of a run is the same for any number of workers.
    """
    rank, device, each = place.rank, place.device, stage.batch_size // place.workers.count
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
            (place.local_rank, place.local_count),
            lambda done, total: place.say({"encoded": done, "of": total}),
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


def _restore(
    store: Store,
    folder: str,
    model: Any,
    optimizer: torch.optim.Optimizer,
    mean: RunningMean | None,
    terms: LossTerms,
) -> int:
    """Go on from this stage's last checkpoint, or from another run's that it took over. Returns the next iteration."""
    newest = newest_checkpoint(store, folder)
    if not newest:
        return 0
    with tempfile.TemporaryDirectory() as here:
        for name in (WEIGHTS, OPTIMIZER):
            (Path(here) / name).write_bytes(store.read_bytes(f"{newest[0]}/{name}"))
        return load_state(Path(here), model, optimizer, mean, terms)


def _checkpoint(
    store: Store,
    folder: str,
    model: Any,
    optimizer: torch.optim.Optimizer,
    mean: RunningMean | None,
    terms: LossTerms,
    iteration: int,
    metrics: dict[str, float],
) -> None:
    with tempfile.TemporaryDirectory() as here:
        files = Path(here)
        save_state(files, model, optimizer, iteration, mean, terms)
        if mean:
            with mean.in_place():
                save_weights(files / RESULT, model)
        write_checkpoint(store, folder, iteration, files, metrics)


def _tensors(store: Store, key: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(store.read_bytes(key))
        return load_file(path)
