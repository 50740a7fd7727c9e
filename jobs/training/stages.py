"""A stage of a run apart from any cluster: what it learns from, the weights it starts with, what it saves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jobs.models import find
from jobs.store import Store
from jobs.training.descent import LossTerms, RunningMean
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.run_files import OPTIMIZER, WEIGHTS
from vis_models.checkpoints import build, initialise, take_detector
from vis_models.config import BadConfig
from vis_models.data.annotations import VideoSet
from vis_models.data.clips import ClipSet
from vis_models.data.mixture import Mixture
from vis_models.data.readable import without
from vis_models.layers import backbones, norm


@dataclass(frozen=True)
class Sets:
    """The data of a run."""

    train: VideoSet
    val: VideoSet
    extra: tuple[VideoSet, ...] = ()

    @property
    def by_name(self) -> dict[str, VideoSet]:
        """As `left_out.json` of a run calls them."""
        return {"train": self.train, "val": self.val} | {f"extra {n}": part for n, part in enumerate(self.extra)}

    def without(self, left_out: Mapping[str, Iterable[str]]) -> "Sets":
        """Without the named frames of each set."""
        parts = {name: without(part, left_out.get(name, ())) for name, part in self.by_name.items()}
        return Sets(parts.pop("train"), parts.pop("val"), tuple(parts.values()))


def gate_of(job: TrainJob) -> Stage | None:
    """The stage whose gate another run's detector must pass, as it takes its place."""
    return next((stage for stage in job.stages if job.detector and stage.part == "detector"), None)


def samples_of(job: TrainJob, stage: Stage, train_set: VideoSet, extra: tuple[VideoSet, ...]) -> ClipSet | Mixture:
    """The stream of clips of a stage: of the main set, or of all sets where the stage mixes them.

    Raises:
        BadConfig: the sets have no such clip, or too few.
    """
    size = job.config.frame_px
    mixed = extra if stage.mixture_epoch else ()
    try:
        sets = [ClipSet(part, stage.samples, size, stage.augmentation, job.seed) for part in (train_set, *mixed)]
        if not mixed or not stage.mixture_epoch:
            return sets[0]
        chances = [part.chance for part in job.extra]
        return Mixture(tuple(sets), (1 - sum(chances), *chances), stage.mixture_epoch, job.seed)
    except BadConfig as error:
        raise BadConfig(f"stage {stage.name}: {error}") from None


def sized(job: TrainJob, videos: VideoSet) -> dict[str, Any]:
    """The model's config with as many classes as the data set has."""
    return job.config.with_classes(len(videos.categories)).model_dump(mode="json")


def starting_model(job: TrainJob, train_set: VideoSet, store: Store) -> tuple[Any, str]:
    """The model as the first stage finds it, and in words where its weights come from.

    Raises:
        BadConfig: a file or model of other weights than the job's, with the field that differs.
    """
    torch.manual_seed(job.seed)
    model: Any = build(job.model, sized(job, train_set))
    if job.detector:
        folder = store.local_copy(find(store, job.detector))
        return model, f"detector: {take_detector(model.detector, folder, train_set.categories)}"
    if job.init:
        return model, str(initialise(model, store.local_copy(job.init), train_set.categories))
    return model, f"no --init: {job.recipe} starts from random weights"


def trained_part(model: Any, stage: Stage) -> Any:
    """The module that the stage trains, ready for it; what it does not train is frozen."""
    part = model.part(stage.part)
    if stage.batch_norm == "frozen":
        norm.freeze(part)
    if stage.recompute:
        backbones.recompute(part)
    return part


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    mean: RunningMean | None = None,
    terms: LossTerms | None = None,
) -> None:
    """The two files of a checkpoint."""
    save_weights(folder / WEIGHTS, model)
    state: dict[str, Any] = {"optimizer": optimizer.state_dict(), "iteration": iteration}
    if mean:
        state["mean"] = mean.mean
    if terms:
        state["terms"] = {"sums": terms.sums, "count": terms.count}
    torch.save(state, folder / OPTIMIZER)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    mean: RunningMean | None = None,
    terms: LossTerms | None = None,
) -> int:
    """Take both files back, whatever device they came from. Returns how many iterations were done."""
    model.load_state_dict(load_file(folder / WEIGHTS))
    saved = torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu")
    optimizer.load_state_dict(saved["optimizer"])  # which moves them to where the parameters are
    if mean:
        for name, tensor in saved["mean"].items():
            mean.mean[name].copy_(tensor)
    if terms and "terms" in saved:
        terms.sums, terms.count = saved["terms"]["sums"], saved["terms"]["count"]
    return saved["iteration"]


def save_weights(file: Path, model: nn.Module) -> None:
    """All weights and buffers of a model."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, file)


def broken_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Weights, and what the optimizer remembers of them, that are no finite numbers, by the weights' names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [name for name, tensor in model.state_dict().items() if not _finite(tensor)]
    for parameter, memory in optimizer.state.items():
        if not all(_finite(tensor) for tensor in memory.values() if isinstance(tensor, Tensor)):
            found.append(f"{names[id(parameter)]} (in the optimizer)")
    return found


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
