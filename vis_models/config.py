"""What every config is, and the two families of errors that a caller can do something about. No torch."""

import hashlib
import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every config: frozen, unknown keys refused, field docstrings become descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class ModelConfig(Config):
    """Base of every model's config: what recipes and training ask of it before there is a model."""

    parts: ClassVar[tuple[str, ...]] = ("whole",)
    """The parts of the model that a stage can train, by the names that `TrainableModel.part` knows."""
    encoded_by: ClassVar[tuple[str, ...]] = ()
    """Fields that `encode` reads and that can be changed without other weights."""

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Those of `parts` that a model of this config has."""
        return self.parts

    @property
    def classes(self) -> int:
        """How many there are, without background."""
        raise NotImplementedError

    def with_classes(self, count: int) -> "ModelConfig":
        """The same model for a data set with so many classes."""
        raise NotImplementedError

    @property
    def frame_px(self) -> tuple[int, int] | None:
        """(height, width) of the frames that it is trained on; None: any, as the augmentation of a stage says."""
        raise NotImplementedError

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
