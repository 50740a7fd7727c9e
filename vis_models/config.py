"""What every config is, and the two families of errors that a caller can do something about. No torch."""

import hashlib
import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class Config(BaseModel):
    """Base of every config: frozen, unknown keys refused, field docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class FramesConfig(Config):
    """Base of configs of networks that take frames of any size: what these become before."""

    num_classes: PositiveInt = 40
    """Foreground classes."""
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) in pixels that every frame is resized to, the aspect not kept; None keeps it."""
    shorter_px: PositiveInt = 360
    """Of the frame's sides, where the aspect is kept."""
    longer_most_px: PositiveInt = 640
    """What the longer side may become; the shorter one is smaller then."""
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std_rgb: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)


class FinderConfig(Config):
    """Base of detectors' configs."""

    num_classes: PositiveInt
    """Foreground classes."""

    unseen: ClassVar[tuple[str, ...]] = ()
    """Fields that only training reads, and those of what a tracker is given."""

    @property
    def seen(self) -> dict[str, Any]:
        """Every field that decides what a trained detector says."""
        return self.model_dump(mode="json", exclude=set(self.unseen))

    @property
    def classes(self) -> int:
        return self.num_classes

    def with_classes(self, count: int) -> "FinderConfig":
        """The same detector for a data set with so many classes."""
        return self.model_copy(update={"num_classes": count})


class ModelConfig(Config):
    """Base of every model's config: what recipes and training ask of it before there is a model."""

    parts: ClassVar[tuple[str, ...]] = ("whole",)
    """The parts of the model that a stage can train, by the names that `TrainableModel.part` knows."""
    encoded_by: ClassVar[tuple[str, ...]] = ()
    """Fields that `encode` reads and that can be changed without other weights."""
    network_fields: ClassVar[tuple[str, ...]] = ()
    """Fields, outside a detector, under which alone weights mean what they were trained for."""
    trained_anew: ClassVar[tuple[str, ...]] = ()
    """Beginnings of fields that change the weights which the rows of the paper's tables share."""

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Those of `parts` that a model of this config has."""
        return self.parts

    @property
    def classes(self) -> int:
        """How many there are, without background: `num_classes` of its `detector`, or its own."""
        return self._finder.num_classes

    def with_classes(self, count: int) -> "ModelConfig":
        """The same model for a data set with so many classes."""
        alone = self._finder is self
        changed = {"num_classes": count} if alone else {"detector": self._finder.with_classes(count)}
        return self.model_copy(update=changed)

    @property
    def frame_px(self) -> tuple[int, int] | None:
        """(height, width) of the frames that it is trained on, `image_size` of its `detector` or its own; None: any, as
        the augmentation of a stage says."""
        return self._finder.image_size

    @property
    def _finder(self) -> Any:
        """Who finds the objects."""
        return getattr(self, "detector", self)

    @property
    def switches(self) -> dict[str, Any]:
        """Every field, outside the detector, under which alone weights mean what they were trained for."""
        return self.model_dump(mode="json", include=set(self.network_fields), exclude={"backbone": {"drop_path"}})

    @property
    def seen(self) -> dict[str, Any]:
        """Every field that decides which objects are found: the detector's, or of a model without one `switches`."""
        return self.switches if self._finder is self else self._finder.seen

    @property
    def encoding(self) -> dict[str, Any]:
        """Every field that decides what the model's frozen half returns, besides its weights: what cached encodings
        are named by. For models that have such a half."""
        raise NotImplementedError

    def require_trainable(self) -> None:
        """Raises ValueError: with these fields the model can run, but not be trained."""


def config_hash(config: dict[str, Any]) -> str:
    """A short, stable name for a config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


class BadConfig(ValueError):
    """Something the user gave cannot work and the user can mend it. Raised before any expensive work.

    The message says where, what was expected, what came, and what to do.
    """


def nearest(word: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """What was probably meant by a mistyped name; None: it is like none of them. `alike`: from 0 to 1, the same."""
    return next(iter(get_close_matches(word, [*known], 1, alike)), None)


class BadVideo(Exception):
    """A video cannot be read, or not to its end. Becomes a row of the table `errors`; the run goes on.

    Attributes:
        code: a short, stable reason such as `not_a_video`, fit for GROUP BY.
        frames_kept: how many frames were decoded before the damage.
    """

    def __init__(self, message: str, *, code: str, frames_kept: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.frames_kept = frames_kept

    def __reduce__(self) -> tuple:  # keeps its fields on the way back from a worker process
        return _bad_video, (str(self), self.code, self.frames_kept)


def _bad_video(message: str, code: str, frames_kept: int) -> BadVideo:
    return BadVideo(message, code=code, frames_kept=frames_kept)
