"""Rows of which only the tracker is trained, all on the same detector and the same cached encodings: RGNN's.

The detector's outputs are computed once, for training and for validation, so that a row costs minutes on one core and
as many rows run side by side as there are cores.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from jobs.ablation.results import Asked, Run, figures_of
from jobs.cluster import TICKETS_PER_CORE, cluster, listening
from jobs.models import find
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.descent import descend, optimizer_of
from jobs.training.recipes.base import TrainJob
from jobs.training.stages import gate_of, starting_model
from jobs.training.train import check_gate
from jobs.training.validation import Encode, play
from jobs.training.watch import Stopwatch
from jobs.training.worker import encodings_folder
from vis_models.cards import WEIGHTS
from vis_models.checkpoints import build, initialise
from vis_models.data.annotations import AnnotatedVideo, VideoSet
from vis_models.data.clips import ClipSet, collate
from vis_models.data.encoded import UNCHANGED, EncodedClips, encode_copies
from vis_models.data.readable import unreadable_frames, without
from vis_models.data.sampling import Consecutive
from vis_models.metrics.detector import detected_masks, frame_mask_ap, identity_oracle
from vis_models.progress import Progress

DETECTOR = "detector.json"
"""In the folder of an ablation: what the detections that its rows share allow."""


@dataclass(frozen=True)
class Shared:
    """What every row starts from."""

    detector: Path
    """Weights."""
    image_size: tuple[int, int]
    """(height, width) of the detector's input."""
    classes: int
    train: EncodedClips | ClipSet
    """Encoded copies where the recipe asks for them, else clips that are drawn and encoded anew each time."""
    val: EncodedClips
    val_set: VideoSet
    videos: list[AnnotatedVideo]
    """Of validation, in the order of `val`."""


def run_rows(
    asked: Asked, store: Store, settings: Settings, report: Progress
) -> Iterator[tuple[Run, dict[str, Any], list[dict[str, Any]]]]:
    """Runs as they finish, as many side by side as there are cores: which, its figures, its results.

    Raises:
        BadConfig: the detector is of another config or of other classes, or below the recipe's gate.
    """
    base, (train_set, val_set) = asked.base, asked.sets
    unreadable = unreadable_frames(train_set, base.unreadable_share)
    train_set = without(train_set, [one.file_name for one in unreadable])
    with cluster(settings):
        shared, model = _encode(asked.models[0], base, settings, store, (train_set, val_set), report)
        if not store.exists(f"{asked.folder}/{DETECTOR}"):
            if (gate := gate_of(base)) and gate.gate_ap50:
                check_gate(base, gate, frame_mask_ap(model.detector, val_set, gate.gate_frames))
            store.write_json(f"{asked.folder}/{DETECTOR}", _detector_figures(shared))
        place = ray.put(shared)
        run = ray.remote(num_cpus=TICKETS_PER_CORE if settings.ray_address is None else 1)(run_row)
        with listening(lambda note: report(note["run"], note["done"], note["of"], {"loss": note["loss"]})) as board:
            tasks = {run.remote(job, place, board): which for which, job in asked.waiting.items()}
            while tasks:
                (finished,), _ = ray.wait(list(tasks), num_returns=1)
                yield tasks.pop(finished), *ray.get(finished)


def _encode(
    detector: str,
    base: TrainJob,
    settings: Settings,
    store: Store,
    sets: tuple[VideoSet, VideoSet],
    report: Progress,
) -> tuple[Shared, Any]:
    """The detector's outputs for the training copies and the validation videos, computed where they are missing, and
    the model that gave them."""
    train_set, val_set = sets
    model: Any = starting_model(base, train_set, store)[0].eval()
    size, stage = base.config.frame_px, base.stages[-1]
    assert size is not None  # the rows are RGNN's

    def encode(part: str, clips: ClipSet, copies: int) -> EncodedClips:
        folder = encodings_folder(settings, model, clips)
        tell = lambda done, total: report(f"encode {part}", done, total, {})  # noqa: E731
        return encode_copies(clips, copies, model.encoded, model.encode_clips, folder, (0, 1), tell)

    clips = ClipSet(train_set, stage.samples, size, stage.augmentation, 0)
    train = encode("train", clips, stage.cached_copies) if stage.cached_copies else clips
    val_clips = ClipSet(val_set, Consecutive(), size, UNCHANGED, 0)
    val = encode("val", val_clips, 1)
    weights = store.local_copy(find(store, detector)) / WEIGHTS
    return Shared(weights, size, len(train_set.categories), train, val, val_set, val_clips.usable), model


def _model(job: TrainJob, detector: Path, classes: int) -> Any:
    model: Any = build(job.model, job.config.with_classes(classes).model_dump(mode="json"))
    initialise(model.detector, detector)
    return model.eval()


def _detector_figures(shared: Shared) -> dict[str, float]:
    """What these detections allow: AP of the tracks whose identity is taken from the truth."""
    results = []
    ids = [category.id for category in shared.val_set.categories]
    for n, video in enumerate(shared.videos):
        results += identity_oracle(video, _detections(shared, n, (video.height, video.width)), ids)
    figures = figures_of(shared.val_set, results)
    return {"identity_oracle_ap": figures["ap"], "identity_oracle_ap50": figures["ap50"]}


def _detections(shared: Shared, n: int, size_px: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks and class probabilities of the detections in each frame of the n-th validation video."""
    rows: Any = shared.val.whole(n)[0]
    for boxes_px, logits, masks, valid in zip(
        rows.boxes_px, rows.class_logits, rows.mask_logits, rows.valid, strict=True
    ):
        found = detected_masks(boxes_px[valid], masks[valid], size_px, shared.image_size)
        yield found, logits[valid].softmax(-1)[:, 1:]


# ---- one row -------------------------------------------------------------------------------------------------------


def run_row(job: TrainJob, shared: Shared, board: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train one row on one core, then let it track the validation videos. Returns its figures and its results."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    model = _model(job, shared.detector, shared.classes)
    stage, started, losses = job.stages[-1], time.perf_counter(), []
    numbers = [range(n * stage.batch_size, (n + 1) * stage.batch_size) for n in range(stage.iterations)]
    batches: Iterator[tuple]
    if isinstance(shared.train, EncodedClips):
        cached = replace(shared.train, length=stage.clip_length, seed=job.seed)
        batches, loss = (cached.batch(each) for each in numbers), model.encoded_loss
    else:
        clips = replace(shared.train, sampling=stage.samples, seed=job.seed)
        batches, loss = ((collate([clips[n] for n in each]),) for each in numbers), model.loss
    model.train()
    watch = Stopwatch()
    for done, terms in descend(stage, (job.seed, 0), loss, optimizer_of(stage, model), batches):
        losses.append(float(torch.stack(list(terms.values())).sum()))
        if watch.due() or done == stage.iterations:
            run = f"{job.recipe} seed {job.seed}"
            board.write.remote({"run": run, "done": done, "of": stage.iterations, "loss": losses[-1]})
    minutes = (time.perf_counter() - started) / 60
    results = list(track(model.eval(), shared))
    last = losses[-max(len(losses) // 10, 1) :]
    said = {"loss": sum(last) / len(last), "iterations": stage.iterations, "minutes": round(minutes, 2)}
    return figures_of(shared.val_set, results) | said, results


def track(model: Any, shared: Shared) -> Iterator[dict[str, Any]]:
    """The model's tracks in the encoded validation videos, as entries of a results file."""
    numbers = {video.video_id: n for n, video in enumerate(shared.videos)}

    def frames_of(batch: list[AnnotatedVideo]) -> Encode:
        rows: list[Any] = [shared.val.whole(numbers[video.video_id])[0] for video in batch]
        return lambda frame: type(rows[0]).join([row[[frame]] for row in rows])

    return play(model, shared.videos, shared.val_set.categories, frames_of)
