"""What a training run is: data, model, stages of gradient descent. Everything that decides the result, and no more.

What depends on the machine (workers, GPUs, where data lies) is not here but in `jobs/settings.py`.
"""

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from vis_models.config import Config, ModelConfig
from vis_models.data.augmentation import Augmentation
from vis_models.data.holdout import HoldOut
from vis_models.data.sampling import Consecutive, Sampling
from vis_models.data.world import WorldConfig
from vis_models.zoo import config_class


class WorldData(Config):
    """A drawn data set, made on the spot."""

    world: WorldConfig = WorldConfig()
    train_videos: PositiveInt
    val_videos: PositiveInt


class ExtraData(Config):
    """A second labelled set, of videos or of single images, that stages can mix with the main one."""

    labels: str
    """JSON (or `s3://...`) in the COCO format of single images, or in the YouTube-VIS format; or the folder of an
    OpenImages release as `vis_models/data/open_images.py` shows it."""
    frames: str | None = None
    """Folder that its file names are relative to; None looks beside the JSON."""
    chance: float = Field(gt=0, lt=1)
    """That the first sample of an epoch comes from this set."""
    names: dict[str, str] = Field(default_factory=dict)
    """What its categories are called in the main set, where the names differ by more than case, space, `_` and `-`."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Fit for a folder, an object key and a command line."""


def fit_name(name: str) -> str:
    """`name`. Raises ValueError: it is no `NAME`."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"expected letters, digits, dots, dashes and underscores, 100 at most, the first a letter or digit, got "
            f"{name!r}"
        )
    return name


Name = Annotated[str, AfterValidator(fit_name)]


class ParameterGroup(Config):
    """Parameters that learn otherwise than the rest of their stage."""

    begins: Annotated[tuple[str, ...], Field(min_length=1)]
    """Beginnings of their names within the trained part, such as `backbone.`."""
    rate: float = Field(1.0, gt=0)
    """Factor of the stage's learning rate."""
    weight_decay: float | None = Field(None, ge=0)
    """In the place of the stage's; None: the same."""


class Stage(Config):
    """One run of gradient descent over one part of the model."""

    name: Name
    part: Name = "whole"
    """Which part of the model is trained, by the model's own name for it (`ModelConfig.parts`)."""
    iterations: PositiveInt
    batch_size: PositiveInt
    """Clips of an iteration over all workers together."""
    clip_length: PositiveInt = 1
    """Frames of a clip; 1 trains on single frames."""
    sampling: Sampling | None = None
    """What a sample is, where it is no clip of so many frames in a row."""
    mixture_epoch: PositiveInt | None = None
    """Mix the job's `extra` sets in, drawing so many samples without replacement before all can be drawn again. None
    takes the main set alone, every video once before any comes again."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """sgd has a momentum of 0.9."""
    learning_rate: PositiveFloat
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the iterations after which the learning rate is divided by `drop_factor`, rising."""
    drop_factor: float = Field(5.0, gt=1)
    cosine: bool = False
    """Let the learning rate fall to zero along a cosine instead."""
    warm_up: NonNegativeInt = 0
    """Iterations in which it rises."""
    warm_up_from: float = Field(0.0, ge=0, lt=1)
    """Share of the learning rate from which it does."""
    weight_decay: float = Field(1e-4, ge=0)
    groups: tuple[ParameterGroup, ...] = ()
    """Parameters with a rate or decay of their own; of several that fit the first one counts."""
    clip_gradient: PositiveFloat | None = None
    """Largest L2 norm of the gradient; None leaves it."""
    accumulate: PositiveInt = 1
    """Equal parts of a batch, one after the other through the network, whose mean gradient makes one step: for batches
    that do not fit into memory. A loss that is normalised by what its batch holds is normalised part by part."""
    average: float | None = Field(None, gt=0, lt=1)
    """Decay, per iteration, of a running mean of the weights. The mean is what is scored, and the stage's result."""
    augmentation: Augmentation = Augmentation()
    precision: Literal["bf16", "fp32"] = "bf16"
    batch_norm: Literal["synchronised", "frozen"] = "synchronised"
    """Statistics of the detector's batch norms, where it is trained: those of the global batch, whatever the number of
    workers, or the ones it started with, scale and shift included."""
    recompute: bool = False
    """Compute what the stages of a backbone and the layers of a transformer answer again for the backward pass instead
    of keeping it: less memory, a third more time. For frozen batch norms."""
    compile: bool = False
    """Let `torch.compile` fuse the convolutional parts. On a GPU; without one it is not used."""
    cached_copies: NonNegativeInt = 0
    """Encode so many augmented copies of each video once and train from them; 0 encodes every clip anew.
    For stages whose encoder is frozen."""
    checkpoint_every: PositiveInt = 1000
    """Iterations."""
    validate_every: NonNegativeInt = 0
    """Iterations between two scores on held-out videos, of which the best one's weights are the stage's result: mask AP
    on `gate_frames` frames where the part detects, else AP on `validation_videos` videos. 0: the last weights."""
    validation_videos: PositiveInt = 50
    """Held-out videos that are played, spread evenly."""
    gate_ap50: float = Field(0.0, ge=0, le=1)
    """Mask AP50 on single validation frames that a part which detects must reach, so that the next stages are worth
    their cost."""
    gate_frames: PositiveInt = 500
    """Validation frames that decide, spread evenly."""

    @property
    def samples(self) -> Sampling:
        """What a sample is."""
        return self.sampling or Consecutive(frames=self.clip_length)

    @model_validator(mode="after")
    def _samples_one_thing(self) -> "Stage":
        if self.sampling and self.clip_length > 1:
            raise ValueError(f"a sample is a {self.sampling.kind} (sampling) or a clip (clip_length), not both")
        if self.sampling and self.sampling.kind != "clip" and self.cached_copies:
            raise ValueError(
                f"encoded copies are of whole videos: cached_copies are for clips, no {self.sampling.kind}"
            )
        return self

    @model_validator(mode="after")
    def _caches_one_set(self) -> "Stage":
        if self.mixture_epoch and self.cached_copies:
            raise ValueError("cached copies are of the main set alone: set cached_copies or mixture_epoch, not both")
        return self

    @model_validator(mode="after")
    def _recomputes_frozen_norms(self) -> "Stage":
        if self.recompute and self.batch_norm != "frozen":
            raise ValueError("recompute would take the statistics of batch norms twice: set batch_norm to frozen, too")
        return self

    @model_validator(mode="after")
    def _splits_evenly(self) -> "Stage":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} has no {self.accumulate} equal parts (accumulate)")
        return self

    @field_validator("drops")
    @classmethod
    def _rise(cls, drops: tuple[float, ...]) -> tuple[float, ...]:
        if any(one >= next_one for one, next_one in pairwise(drops)):
            raise ValueError(f"expected shares that rise, got {list(drops)}")
        return drops


class TrainJob(Config):
    """A training run from data to registered model."""

    recipe: Name
    model: str = "rgnn"
    """Its name in the zoo."""
    config: SerializeAsAny[ModelConfig]
    """Of that model. Its number of classes follows the data set."""
    data: str | None = None
    """Folder (or `s3://...`) with `train.json` in the YouTube-VIS format and its frames; None draws `world`."""
    world: WorldData | None = None
    extra: tuple[ExtraData, ...] = ()
    """Data sets that stages with a `mixture_epoch` mix in."""
    hold_out: HoldOut | None = None
    """Which videos of `train.json` are for validation; None takes `val.json`."""
    init: str | None = None
    """Checkpoint to start from: torchvision ResNet, YOLACT, RGNN, or a model folder of the same classes and config."""
    detector: str | None = None
    """Registered model (or folder) whose detector is taken; stages that would train one are left out."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    unreadable_share: float = Field(0.01, ge=0, le=1)
    """Frames of a data set that may be unreadable. They are left out and named; more stop the run before it starts."""
    seed: NonNegativeInt = 0

    @property
    def to_train(self) -> tuple[Stage, ...]:
        """The stages that are trained: with another run's detector all but that of the detector."""
        return tuple(stage for stage in self.stages if stage.part != "detector" or not self.detector)

    @model_validator(mode="before")
    @classmethod
    def _config_of_the_model(cls, values: Any) -> Any:
        """A dictionary becomes the config class of the model that is named beside it."""
        if isinstance(values, dict) and isinstance(values.get("config"), dict):
            name = values.get("model", cls.model_fields["model"].default)
            try:
                return values | {"config": config_class(name).model_validate(values["config"])}
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, ("config", *first["loc"])))
                ours = first["type"] == "value_error"  # its text says what came
                said = first["ctx"]["error"] if ours else f"{first['msg']}, got {first['input']!r}"
                raise ValueError(f"{where}: {said}") from None
        return values

    @model_validator(mode="after")
    def _is_finite(self) -> "TrainJob":
        for path, value in _numbers("", self.model_dump()):
            if not math.isfinite(value):
                raise ValueError(f"{path}: expected a number that is finite, got {value}")
        return self

    @model_validator(mode="after")
    def _can_be_trained(self) -> "TrainJob":
        self.config.require_trainable()
        for stage in self.stages:
            if stage.part not in self.config.trained_parts:
                raise ValueError(
                    f"stage {stage.name} trains the part {stage.part!r}, expected one of the model's: "
                    f"{', '.join(self.config.trained_parts)}"
                )
        return self

    @model_validator(mode="after")
    def _names_each_stage(self) -> "TrainJob":
        names = [stage.name for stage in self.stages]
        if len({*names}) < len(names):
            raise ValueError(f"the stages are named {', '.join(names)}: expected another name for each")
        return self

    @model_validator(mode="after")
    def _mixes_what_it_has(self) -> "TrainJob":
        if sum(part.chance for part in self.extra) >= 1:
            raise ValueError("the chances of the extra data sets sum to 1 or more and leave none for the main one")
        if self.extra and not any(stage.mixture_epoch for stage in self.stages):
            raise ValueError("no stage mixes the extra data in: set the mixture_epoch of one")
        return self


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every float inside nested dictionaries and tuples, with its dotted path."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
    for name, each in inside:
        yield from _numbers(f"{path}.{name}" if path else str(name), each)
    if isinstance(value, float):
        yield path, value
