"""Complete, named training runs. A recipe is a function that returns everything that decides the result.

A variant is a recipe rebuilt, and checked again, with fields changed: `vis train --set stages.0.iterations=500`.
What depends on the machine (workers, GPUs, where data lies) is not here but in `jobs/settings.py`.
"""

import csv
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from vis_models.config import BadConfig, Config, nearest
from vis_models.configs import ROWS, Augmentation, ResNetConfig, RgnnConfig, Row, YolactConfig
from vis_models.data.holdout import HoldOut
from vis_models.data.world import WorldConfig


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


class Stage(Config):
    """One run of gradient descent over one part of the model."""

    name: Name
    part: Literal["detector", "whole"]
    """Whose `loss` is minimised: `detector` or the model itself."""
    iterations: PositiveInt
    batch_size: PositiveInt
    """Clips of an iteration over all workers together."""
    clip_length: PositiveInt = 1
    """Frames of a clip; 1 trains on single frames."""
    mixture_epoch: PositiveInt | None = None
    """Mix the job's `extra` sets in, drawing so many samples without replacement before all can be drawn again. None
    takes the main set alone, every video once before any comes again."""
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the iterations after which the learning rate is divided by 5, rising."""
    cosine: bool = False
    """Let the learning rate fall to zero along a cosine instead."""
    warm_up: NonNegativeInt = 0
    """Iterations in which it rises from zero."""
    weight_decay: float = Field(1e-4, ge=0)
    clip_gradient: PositiveFloat | None = None
    """Largest L2 norm of the gradient; None leaves it."""
    augmentation: Augmentation = Augmentation()
    precision: Literal["bf16", "fp32"] = "bf16"
    batch_norm: Literal["synchronised", "frozen"] = "synchronised"
    """Statistics of the detector's batch norms, where it is trained: those of the global batch, whatever the number of
    workers, or the ones it started with, scale and shift included."""
    compile: bool = False
    """Let `torch.compile` fuse the convolutional parts. On a GPU; without one it is not used."""
    cached_copies: NonNegativeInt = 0
    """Encode so many augmented copies of each video once and train from them; 0 encodes every clip anew.
    For stages whose encoder is frozen."""
    checkpoint_every: PositiveInt = 1000
    """Iterations."""

    @model_validator(mode="after")
    def _caches_one_set(self) -> "Stage":
        if self.mixture_epoch and self.cached_copies:
            raise ValueError("cached copies are of the main set alone: set cached_copies or mixture_epoch, not both")
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
    model: Literal["rgnn"] = "rgnn"
    config: RgnnConfig
    """Its `num_classes` follows the data set."""
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
    gate_ap50: float = Field(0.0, ge=0, le=1)
    """Mask AP50 on single validation frames that the detector must reach before stage 2 is worth its cost."""
    gate_frames: PositiveInt = 500
    """Validation frames that decide, spread evenly."""
    unreadable_share: float = Field(0.01, ge=0, le=1)
    """Frames of a data set that may be unreadable. They are left out and named; more stop the run before it starts."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _is_finite(self) -> "TrainJob":
        for path, value in _numbers("", self.model_dump()):
            if not math.isfinite(value):
                raise ValueError(f"{path}: expected a number that is finite, got {value}")
        return self

    @model_validator(mode="after")
    def _has_slots(self) -> "TrainJob":
        if self.config.tracks < self.config.detections:
            raise ValueError(
                f"config.tracks is {self.config.tracks}, config.detections {self.config.detections}: in training every "
                "detection of a frame may start a track, expected at least as many slots"
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


def rgnn_r18_world_demo() -> TrainJob:
    """Eight minutes on two cores, for `make demo`: a ResNet-18 layout at half width and one block a stage.

    vis train --recipe rgnn_r18_world_demo
    """
    return _world_easy("rgnn_r18_world_demo", detector_iterations=3600, tracker_iterations=330, train_videos=600)


def rgnn_r18_world_tiny() -> TrainJob:
    """The same road in seconds, for tests and CI: it runs every step and learns next to nothing.

    vis train --recipe rgnn_r18_world_tiny
    """
    job = _world_easy("rgnn_r18_world_tiny", detector_iterations=60, tracker_iterations=10, train_videos=24)
    world = WorldData(world=WorldConfig(frames=12), train_videos=24, val_videos=8)
    return job.model_copy(update={"gate_ap50": 0.0, "gate_frames": 16, "world": world})


def rgnn_r18_world_easy() -> TrainJob:
    """The easy world in earnest, meant for 40 minutes on two cores: all blocks of a ResNet-18, at half width.

    vis train --recipe rgnn_r18_world_easy
    """
    job = _world_easy("rgnn_r18_world_easy", detector_iterations=13000, tracker_iterations=1200, train_videos=1500)
    detector = job.config.detector
    backbone = detector.backbone.model_copy(update={"blocks": None})
    detector = detector.model_copy(update={"backbone": backbone, "channels": 64})
    return job.model_copy(update={"config": job.config.model_copy(update={"detector": detector})})


def rgnn_r18_world_hard() -> TrainJob:
    """Crowds, look-alikes and occlusion under a noisy detector: where the rows of the paper's tables are compared.

    vis train --recipe rgnn_r18_world_hard

    A quarter of an hour for the detector on two cores, ten minutes for the tracker. `vis ablate` runs the rows.
    """
    job = _world_easy("rgnn_r18_world_hard", detector_iterations=10_000, tracker_iterations=500, train_videos=1000)
    detector, tracker = job.stages
    return job.model_copy(
        update={
            "world": WorldData(world=WorldConfig(level="hard"), train_videos=1000, val_videos=200),
            "config": job.config.model_copy(update={"detections": 12, "tracks": 16}),
            "stages": (
                detector.model_copy(update={"weight_decay": 1e-4}),  # as it was when the tables were measured
                tracker.model_copy(update={"batch_size": 8, "learning_rate": 6e-3}),
            ),
        }
    )


def rgnn_r50_world_hard() -> TrainJob:
    """The hard world on one GPU, at 288x480: ResNet-50 and the paper's RGNN.

    vis train --recipe rgnn_r50_world_hard

    `--init` takes torchvision's ResNet-50; without it the backbone starts from random weights.
    """
    height, width = 288, 480
    detector = YolactConfig(
        num_classes=6,
        image_size=(height, width),
        prior_scales=((24.0,), (36.0,), (54.0,), (80.0,), (120.0,)),
        prior_aspect=width / height,
        prior_denominator=(width * height) ** 0.5,
        dropout=0.1,
    )
    augmentation = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, swap_colours=True)
    world = WorldConfig(level="hard", height=height, width=width)
    return TrainJob(
        recipe="rgnn_r50_world_hard",
        config=RgnnConfig(detector=detector),
        world=WorldData(world=world, train_videos=2000, val_videos=200),
        stages=(
            Stage(
                name="detector",
                part="detector",
                iterations=12_000,
                batch_size=16,
                optimizer="adamw",
                learning_rate=5e-4,
                cosine=True,
                warm_up=600,
                clip_gradient=10.0,
                augmentation=augmentation,
            ),
            Stage(
                name="tracker",
                part="whole",
                iterations=6_000,
                batch_size=4,
                clip_length=10,
                learning_rate=2e-4,
                augmentation=augmentation,
                cached_copies=2,
            ),
        ),
        gate_ap50=0.5,
        gate_frames=300,
    )


def rgnn_r50_ytvis2019() -> TrainJob:
    """The paper's RGNN on ResNet-50: YouTube-VIS 2019, AP 35.3 published on its validation server.

    vis train --recipe rgnn_r50_ytvis2019 --data /data/youtube-vis-2019 --init yolact_resnet50_54_800000.pth

    The paper's first stage takes three of four samples from OpenImages at first. As it is published, that is
    --set 'extra=[{"labels": "/data/openimages", "chance": 0.75}]'; without it the stage has the videos alone.

    Cost: 206 910 iterations on one GPU; `make bench-gpu` says how long they take on yours. The paper used one V100.
    """
    return _rgnn_ytvis2019("rgnn_r50_ytvis2019", depth=50)


def rgnn_r101_ytvis2019() -> TrainJob:
    """The same on ResNet-101: AP 37.7 published on the validation server.

    vis train --recipe rgnn_r101_ytvis2019 --data /data/youtube-vis-2019 --init yolact_base_54_800000.pth

    OpenImages and cost as in `rgnn_r50_ytvis2019`.
    """
    return _rgnn_ytvis2019("rgnn_r101_ytvis2019", depth=101)


RECIPES: dict[str, Callable[[], TrainJob]] = {
    recipe.__name__: recipe
    for recipe in (
        rgnn_r18_world_demo,
        rgnn_r18_world_tiny,
        rgnn_r18_world_easy,
        rgnn_r18_world_hard,
        rgnn_r50_world_hard,
        rgnn_r50_ytvis2019,
        rgnn_r101_ytvis2019,
    )
}
_WHOLE = tuple(RECIPES)
ROWS_OF = ("rgnn_r18_world_hard", "rgnn_r50_world_hard", "rgnn_r50_ytvis2019")
"""Recipes that also exist with each row of the paper's tables: `rgnn_r18_world_hard.limited`."""


def with_row(recipe: str, name: str, changes: dict[str, Any] | None = None) -> TrainJob:
    """A recipe with one row of the paper's tables, and more fields changed as in `build`."""
    if name not in ROWS:
        meant = nearest(name, ROWS)
        hint = f"did you mean {meant}?" if meant else f"expected one of: {', '.join(ROWS)}"
        raise BadConfig(f"unknown row {name!r} of the paper's tables, {hint}")
    switches = {f"config.{path}": value for path, value in ROWS[name].changes.items()}
    renamed = {"recipe": f"{recipe}.{name}"} if switches else {}
    return build(recipe, switches | renamed | (changes or {}))


def _row(base: str, name: str, row: Row) -> Callable[[], TrainJob]:
    def recipe() -> TrainJob:
        return with_row(base, name)

    recipe.__doc__ = (
        f"Table {row.table}, {row.title}: {row.changes}.\n\nvis train --recipe {base}.{name} --detector MODEL"
    )
    return recipe


RECIPES |= {
    f"{base}.{name}": _row(base, name, row)
    for base in ROWS_OF
    for name, row in ROWS.items()
    if row.changes and name != "resnet101"  # another detector: a recipe of its own
}


MEASURED = Path(__file__).with_name("measured.csv")
"""What was measured with a recipe: figures, data, command and commit, one line per run as `vis ablate` writes them."""


def measured(recipe: str) -> float | None:
    """Mean AP over the runs of a recipe that were measured, as a fraction; None: there was none."""
    with MEASURED.open(newline="") as file:
        found = [float(line["ap"]) for line in csv.DictReader(file) if line["recipe"] == recipe]
    return sum(found) / len(found) if found else None


def published_ap(recipe: str) -> float | None:
    """What the paper reports, in percent; None where it says nothing, or that training diverged."""
    if "r101" in recipe:
        return ROWS["resnet101"].published_ap
    base, _, row = recipe.partition(".")
    return ROWS[row or "proposed"].published_ap if row or base == "rgnn_r50_ytvis2019" else None


DEFAULT = rgnn_r18_world_easy.__name__
"""What is trained when nothing is said."""


def build(recipe: str, changes: dict[str, Any] | None = None) -> TrainJob:
    """A recipe with fields changed, by dotted path: `{"stages.0.iterations": 500}`.

    Raises:
        BadConfig: unknown recipe, unknown field, or a value out of range.
    """
    if recipe not in RECIPES:
        meant = nearest(recipe, RECIPES)
        hint = f"did you mean {meant}" if meant else f"expected one of: {', '.join(_WHOLE)}"
        raise BadConfig(f"unknown recipe {recipe!r}, {hint}; `vis models --recipes` lists all")
    job = RECIPES[recipe]().model_dump()
    for path, value in (changes or {}).items():
        _set(job, path, value)
    try:
        return TrainJob.model_validate(job)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"])[:-1]
        if first["type"] == "value_error":  # ours: its text says what came
            raise BadConfig(f"recipe {recipe}: {f'{where}: ' if where else ''}{first['ctx']['error']}") from None
        raise BadConfig(f"recipe {recipe}: {where}: {first['msg']}, got {first['input']!r}") from None


def _set(job: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place = job
    for part in parents:
        place = _member(place, part, path)
    if isinstance(place, tuple | list):
        raise BadConfig(f"{path}: name the field after the number, as in stages.0.iterations")
    if not isinstance(place, dict) or last not in place:
        raise _unknown(path, last, place)
    place[last] = value


def _member(place: Any, part: str, path: str) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, tuple | list) and part.lstrip("-").isdigit() and -len(place) <= int(part) < len(place):
        return place[int(part)]
    raise _unknown(path, part, place)


def _unknown(path: str, part: str, place: Any) -> BadConfig:
    meant = nearest(part, place) if isinstance(place, dict) else None
    if meant:
        return BadConfig(f"unknown config key {path!r}: {part!r} is no field, did you mean {meant}?")
    if isinstance(place, dict):
        return BadConfig(f"unknown config key {path!r}: {part!r} is not one of {', '.join(place)}")
    inside = f"of numbers 0 to {len(place) - 1}" if isinstance(place, tuple | list) and place else "without fields"
    return BadConfig(f"unknown config key {path!r}: {part!r} was looked for in a value {inside}")


def _world_easy(name: str, detector_iterations: int, tracker_iterations: int, train_videos: int) -> TrainJob:
    """The easy world at 96x160 with a detector that two cores can train."""
    height, width = 96, 160
    detector = YolactConfig(
        num_classes=6,
        image_size=(height, width),
        backbone=ResNetConfig(depth=18, width=32, blocks=(1, 1, 1, 1), stem_pool=False),
        channels=48,
        prototypes=24,
        prototype_channels=32,
        prior_scales=((8.0, 12.0), (18.0, 27.0), (40.0, 56.0)),
        prior_ratios=(1.0,),
        prior_aspect=width / height,
        prior_denominator=(width * height) ** 0.5,
        class_weight=2.5,
        semantic_weight=10.0,
        masks_per_image=16,
        soft_masks=True,
    )
    config = RgnnConfig(
        detector=detector,
        detections=8,
        tracks=10,
        embedding=64,
        bottleneck=16,
        appearance_channels=256,
        inactive_box="last",
        init_test_logit=-1.0,
        keep_active_logit=-2.0,
        loss_frames=3,
        loss_stride=2,
        dropout=0.0,
    )
    augmentation = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, swap_colours=True)
    return TrainJob(
        recipe=name,
        config=config,
        world=WorldData(world=WorldConfig(height=height, width=width), train_videos=train_videos, val_videos=150),
        stages=(
            Stage(
                name="detector",
                part="detector",
                iterations=detector_iterations,
                batch_size=8,
                optimizer="adamw",
                learning_rate=4e-3,
                cosine=True,
                warm_up=detector_iterations // 20,
                weight_decay=0.05,
                clip_gradient=10.0,
                augmentation=augmentation,
            ),
            Stage(
                name="tracker",
                part="whole",
                iterations=tracker_iterations,
                batch_size=16,
                clip_length=10,
                optimizer="adamw",
                learning_rate=8e-3,
                cosine=True,
                warm_up=tracker_iterations // 20,
                clip_gradient=10.0,
                augmentation=augmentation,
                precision="fp32",
                cached_copies=1,
            ),
        ),
        gate_ap50=0.5,
        gate_frames=300,
    )


def _rgnn_ytvis2019(name: str, depth: Literal[50, 101]) -> TrainJob:
    """Sections 4 and C of the paper; where they are silent, its released code.

    Differs from section C.2: the crop is 480x864, to which boxes and priors of the released code are tied, not 480x720.
    """
    augmentation = Augmentation(fit=(720, 1280), scale=(0.475, 1.0))
    return TrainJob(
        recipe=name,
        config=RgnnConfig(detector=YolactConfig(backbone=ResNetConfig(depth=depth), dropout=0.1), dropout=0.1),
        hold_out=HoldOut(rule="rgnn"),
        stages=(
            Stage(
                name="detector",
                part="detector",
                iterations=120 * 933,
                batch_size=8,
                mixture_epoch=933 * 8,  # of 7468, four times the videos, the last 4 do not fill a batch
                learning_rate=5e-5,
                drops=(60 / 120, 90 / 120),
                augmentation=augmentation,
                checkpoint_every=933,
            ),
            Stage(
                name="tracker",
                part="whole",
                iterations=150 * 633,
                batch_size=4,
                clip_length=10,
                learning_rate=2e-4,
                augmentation=augmentation,
                checkpoint_every=633,
            ),
        ),
        gate_ap50=0.3,
    )
