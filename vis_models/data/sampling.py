"""Which frames of a video make one training sample: what each of the papers learns from. No torch.

A sample is L frames in the order that a model's loss expects; an object keeps its slot through all of them. The draws
depend on the given generator alone, so that sample n of a run is the same on any number of workers.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field, PositiveInt

from vis_models.config import Config


class Consecutive(Config):
    """Frames in a row: clips of RGNN; one frame alone for a detector."""

    looks_for_objects: ClassVar[bool] = False
    """Whether frames are chosen by what can be seen in them."""
    redraws: ClassVar[bool] = False
    """Whether every frame of a sample is changed by a draw of its own."""
    kind: Literal["clip"] = "clip"
    frames: PositiveInt = 1
    """L."""

    @property
    def length(self) -> int:
        return self.frames

    @property
    def needs(self) -> str:
        """What a video must have, in words."""
        return f"the {self.frames} frames that a clip needs"

    def fits(self, shows: Bool[np.ndarray, " T"]) -> bool:
        """Whether a video has such a sample; `shows`: the frames in which an object can be seen."""
        return len(shows) >= self.frames

    def draw(self, shows: Bool[np.ndarray, " T"], rng: np.random.Generator) -> list[int]:
        """Indices of the frames of a sample, of a video that fits."""
        start = int(rng.integers(0, len(shows) - self.frames + 1))
        return list(range(start, start + self.frames))


class Pair(Config):
    """A key frame that shows an object, and a reference frame near it: in this order, L = 2.

    MaskTrack R-CNN takes any other frame of the video, IDOL one at most 10 away, VisSTG one at most 4 before,
    MaskProp one at most 25 away.
    """

    length: ClassVar[int] = 2
    looks_for_objects: ClassVar[bool] = True
    redraws: ClassVar[bool] = False
    kind: Literal["pair"] = "pair"
    window: PositiveInt | None = None
    """Most frames between the two; None: the whole video."""
    direction: Literal["before", "after", "both"] = "both"
    """Where the reference lies, seen from the key."""

    @property
    def needs(self) -> str:
        where = {"before": " before it", "after": " after it", "both": ""}[self.direction]
        far = f", at most {self.window} away" if self.window else ""
        return f"a frame with an object and another one{where}{far}, as a pair needs"

    def fits(self, shows: Bool[np.ndarray, " T"]) -> bool:
        return any(len(self._references(int(key), len(shows))) for key in np.flatnonzero(shows))

    def draw(self, shows: Bool[np.ndarray, " T"], rng: np.random.Generator) -> list[int]:
        keys = [int(key) for key in np.flatnonzero(shows) if len(self._references(int(key), len(shows)))]
        key = keys[rng.integers(len(keys))]
        references = self._references(key, len(shows))
        return [key, int(references[rng.integers(len(references))])]

    def _references(self, key: int, frames: int) -> np.ndarray:
        away = np.arange(frames) - key
        near = (away != 0) & (np.abs(away) <= (self.window or frames))
        if self.direction != "both":
            near &= (away < 0) if self.direction == "before" else (away > 0)
        return np.flatnonzero(near)


class PseudoPair(Config):
    """One frame that shows an object, twice, each time changed by a draw of its own: L = 2.

    IDOL learns from single images so: two crops of one image stand for two frames of a video.
    """

    length: ClassVar[int] = 2
    looks_for_objects: ClassVar[bool] = True
    redraws: ClassVar[bool] = True
    kind: Literal["pseudo_pair"] = "pseudo_pair"

    @property
    def needs(self) -> str:
        return "a frame with an object, as a pseudo pair needs"

    def fits(self, shows: Bool[np.ndarray, " T"]) -> bool:
        return bool(shows.any())

    def draw(self, shows: Bool[np.ndarray, " T"], rng: np.random.Generator) -> list[int]:
        seen = np.flatnonzero(shows)
        return [int(seen[rng.integers(len(seen))])] * 2


Sampling = Annotated[Consecutive | Pair | PseudoPair, Field(discriminator="kind")]
