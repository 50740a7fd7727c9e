"""What would stop a training run after hours, found in seconds: every stage is tried before the first one starts.

In the order in which `train` calls them, the cheap ones first: `check_files` (before any data is there),
`check_batches`, `check_clips`, `check_space`, `leave_out_unreadable`, and at last `rehearse`, one whole step of every
stage on the real data, where its workers will run. Each returns, or raises BadConfig with what to change.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs.settings import Settings
from jobs.store import Store
from jobs.training.descent import Losses, LossTerms, descend, optimizer_of
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.run_files import KEPT_CHECKPOINTS, OPTIMIZER, WEIGHTS
from jobs.training.stages import (
    Sets,
    gate_of,
    load_state,
    samples_of,
    save_state,
    starting_model,
    trained_part,
)
from vis_models.checkpoints import weights_hash
from vis_models.config import BadConfig
from vis_models.data.clips import ClipSet, collate
from vis_models.data.readable import in_words, unreadable_frames
from vis_models.metrics.detector import frame_mask_ap
from vis_models.progress import Progress
from vis_models.tensor_files import read_tensors
from vis_models.types import Rows

SAMPLES_ON_CPU = 2
"""Clips of a rehearsed step; a GPU gets the whole batch, as its memory is part of the question."""


def check_files(job: TrainJob, store: Store) -> None:
    """The file to start from is there and holds tensors."""
    if job.init and not job.detector:
        read_tensors(store.local_copy(job.init))


def check_batches(stages: Sequence[Stage], workers: int) -> None:
    """The workers can share every batch, and every part of one, evenly."""
    for stage in stages:
        if stage.batch_size % (workers * stage.accumulate):
            parts = f" in {stage.accumulate} parts (accumulate)" if stage.accumulate > 1 else ""
            raise BadConfig(
                f"stage {stage.name} has batch_size {stage.batch_size}, which {workers} workers cannot share evenly"
                f"{parts}: choose another number of workers (VIS_WORKERS)"
            )


def check_clips(job: TrainJob, stages: Sequence[Stage], sets: Sets) -> None:
    """Every stage finds clips of its length."""
    for stage in stages:
        samples_of(job, stage, sets.train, sets.extra)


def check_space(job: TrainJob, model: nn.Module, store: Store) -> None:
    """The store has room for what the run keeps: checkpoints, the weights of each stage, and the model."""
    if store.is_local:
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        checkpoints = 3 * weights * (KEPT_CHECKPOINTS + 1)  # two moments a weight; one is written beside those kept
        _require_space(Path(store.root), checkpoints + weights * (len(job.stages) + 1), "checkpoints", "VIS_STORE")


def leave_out_unreadable(job: TrainJob, sets: Sets, tell: Progress) -> dict[str, list[str]]:
    """Read every frame once. Returns, and says, which frames of which set are to be left out."""
    left_out = {}
    for name, part in sets.by_name.items():

        def count(done: int, total: int, name: str = name) -> None:
            tell(f"read frames of {name}", done, total, {})

        if found := unreadable_frames(part, job.unreadable_share, count):
            left_out[name] = [one.file_name for one in found]
            total = sum(len(video.file_names) for video in part.videos)
            tell(f"read frames of {name}", total, total, {"note": in_words(found, part)})
    return left_out


def rehearse(
    job: TrainJob,
    stages: Sequence[Stage],
    sets: Sets,
    settings: Settings,
    folder: str,
    device: str,
    workers: int,
    check_gate: Callable[[Stage, dict[str, float]], None],
) -> None:
    """One step of every stage: forward, backward, optimizer, and the checkpoint written to `folder` and read back.

    Args:
        folder: key of the store, for the time being.
        check_gate: raises where a detector that was trained before is too weak; called where there is one.
    """
    store = Store.open(settings)
    model, _ = starting_model(job, sets.train, store)
    model.to(device, memory_format=torch.channels_last)
    if (gate := gate_of(job)) and gate.gate_ap50:
        check_gate(gate, frame_mask_ap(model.frame_detector(gate.part), sets.val, gate.gate_frames))
    for stage in stages:
        part = trained_part(model, stage)
        optimizer = optimizer_of(stage, part)
        clips = samples_of(job, stage, sets.train, sets.extra)
        each = stage.batch_size // workers // stage.accumulate
        batch = collate([clips[n] for n in range(each if device == "cuda" else min(each, SAMPLES_ON_CPU))]).to(device)
        given, loss = (batch,), part.loss
        if stage.cached_copies:
            given, loss = model.encode_clips(batch), part.encoded_loss
            assert isinstance(clips, ClipSet)
            _require_space(
                settings.scratch.expanduser(), _cache_bytes(stage, clips, *given), "encodings", "VIS_SCRATCH"
            )
        watched = LossTerms()
        try:
            given_parts = [given] * stage.accumulate
            for done, terms in descend(stage, (job.seed, 0), Losses(part, loss), optimizer, given_parts):
                watched.see(done, terms)
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=stage.precision == "bf16"):
                watched.see(done + 1, loss(*given))  # what the step has made of the weights
        except torch.OutOfMemoryError as error:
            raise BadConfig(
                f"stage {stage.name}: {each} clips of {stage.clip_length} frames do not fit into the memory of a GPU: "
                f"{str(error).splitlines()[0]} Take smaller batches (batch_size) or more workers (VIS_WORKERS)."
            ) from None
        watched.require_finite(stage)
        _require_gradients(stage, part)
        _write_and_read(store, f"{folder}/{stage.name}", model, optimizer)


def _require_gradients(stage: Stage, part: Any) -> None:
    untouched = [name for name, p in part.named_parameters() if p.requires_grad and p.grad is None]
    if untouched:
        raise BadConfig(
            f"stage {stage.name}: no term of the loss reaches {len(untouched)} trained parameters, such as "
            f"{untouched[0]}, so that several workers could not train them. Clips of one frame teach a tracker nothing "
            "(clip_length), and of the switches of the model change one at a time."
        )


def _write_and_read(store: Store, folder: str, model: Any, optimizer: torch.optim.Optimizer) -> None:
    before = weights_hash(model)
    with tempfile.TemporaryDirectory() as scratch:
        save_state(Path(scratch), model, optimizer, 1)
        try:
            for name in (WEIGHTS, OPTIMIZER):
                store.write_bytes(f"{folder}/{name}", (Path(scratch) / name).read_bytes())
                (Path(scratch) / name).write_bytes(store.read_bytes(f"{folder}/{name}"))
        finally:
            with suppress(OSError):  # what went wrong before is what counts
                store.fs.rm(store.path(folder), recursive=True)
        if load_state(Path(scratch), model, optimizer) != 1 or weights_hash(model) != before:
            raise BadConfig(f"{store.uri(folder)}: a checkpoint came back with other bytes than were written")


def _cache_bytes(stage: Stage, clips: ClipSet, encoded: Rows, objects: Rows) -> int:
    """What the copies of all videos will take, by what this batch takes; floats are kept in half precision."""
    values = [getattr(rows, field.name) for rows in (encoded, objects) for field in fields(rows)]
    size = sum(_kept_bytes(value) for value in values if isinstance(value, Tensor))
    frames = sum(len(video.file_names) for video in clips.usable)
    return size * frames * stage.cached_copies // len(encoded)


def _kept_bytes(value: Tensor) -> int:
    return value.numel() * (2 if value.is_floating_point() else value.element_size())


def _require_space(place: Path, needed: int, what: str, setting: str) -> None:
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise BadConfig(
            f"{place} has {free / 1e9:.1f} GB free, the run's {what} take up to {needed / 1e9:.1f} GB: make room, or "
            f"name another place ({setting})"
        )
