"""Which frames of a video make one training sample: what each of the papers learns from. No torch.

A sample is L frames in the order that a model's loss expects; an object keeps its slot through all of them. The draws
depend on the given generator alone, so that sample n of a run is the same on any number of workers.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field, PositiveInt, model_validator

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


class Single(Config):
    """One frame that shows an object: L = 1. Detectors that learn from images alone begin so (COCO)."""

    length: ClassVar[int] = 1
    looks_for_objects: ClassVar[bool] = True
    redraws: ClassVar[bool] = False
    kind: Literal["image"] = "image"

    @property
    def needs(self) -> str:
        return "a frame with an object, as an image needs"

    def fits(self, shows: Bool[np.ndarray, " T"]) -> bool:
        return bool(shows.any())

    def draw(self, shows: Bool[np.ndarray, " T"], rng: np.random.Generator) -> list[int]:
        seen = np.flatnonzero(shows)
        return [int(seen[rng.integers(len(seen))])]


class Pair(Config):
    """A key frame that shows an object, and a reference frame near it: in this order, L = 2.

    MaskTrack R-CNN takes any other frame that shows an object, IDOL any one at most 10 away, VisSTG one at most 4 away
    that shows an object, MaskProp any one at most 25 away, the key itself among them.
    """

    length: ClassVar[int] = 2
    looks_for_objects: ClassVar[bool] = True
    redraws: ClassVar[bool] = False
    kind: Literal["pair"] = "pair"
    window: PositiveInt | None = None
    """Most frames between the two; None: the whole video."""
    direction: Literal["before", "after", "both"] = "both"
    """Where the reference lies, seen from the key."""
    itself: bool = False
    """Whether the key can be its own reference, whatever the direction."""
    reference_shows: bool = False
    """Whether the reference must show an object, too: where the model is given those of the reference."""

    @property
    def needs(self) -> str:
        where = {"before": " before it", "after": " after it", "both": ""}[self.direction]
        far = f", at most {self.window} away" if self.window else ""
        other = "itself or another one" if self.itself else "another one"
        shown = " with an object" if self.reference_shows else ""
        return f"a frame with an object and {other}{shown}{where}{far}, as a pair needs"

    def fits(self, shows: Bool[np.ndarray, " T"]) -> bool:
        return any(len(self._references(int(key), shows)) for key in np.flatnonzero(shows))

    def draw(self, shows: Bool[np.ndarray, " T"], rng: np.random.Generator) -> list[int]:
        keys = [int(key) for key in np.flatnonzero(shows) if len(self._references(int(key), shows))]
        key = keys[rng.integers(len(keys))]
        references = self._references(key, shows)
        return [key, int(references[rng.integers(len(references))])]

    def _references(self, key: int, shows: Bool[np.ndarray, " T"]) -> np.ndarray:
        away = np.arange(len(shows)) - key
        near = {"before": away < 0, "after": away > 0, "both": away != 0}[self.direction]
        if self.itself:
            near |= away == 0
        if self.reference_shows:
            near &= shows
        return np.flatnonzero(near & (np.abs(away) <= (self.window or len(shows))))


class KeyWithReferences(Config):
    """A key frame that shows an object, then as many references before it as after it: L = 1 + 2 * each_side.

    The references of a side are different frames, drawn at random and in order of time: first those before the key,
    then those after it. For models that look both ways.
    """

    looks_for_objects: ClassVar[bool] = True
    redraws: ClassVar[bool] = False
    kind: Literal["key_with_references"] = "key_with_references"
    each_side: PositiveInt = 1
    """References before the key, and as many after it."""
    window: PositiveInt | None = None
    """Most frames between the key and a reference; None: the whole video."""

    @model_validator(mode="after")
    def _has_room(self) -> "KeyWithReferences":
        if self.window and self.window < self.each_side:
            raise ValueError(f"a window of {self.window} frames has no room for {self.each_side} references on a side")
        return self

    @property
    def length(self) -> int:
        return 1 + 2 * self.each_side

    @property
    def needs(self) -> str:
        far = f", at most {self.window} away" if self.window else ""
        return f"a frame with an object and {self.each_side} before and after it{far}, as a key with references needs"

    def fits(self, shows: Bool[np.ndarray, " T"]) -> bool:
        return len(self._keys(shows)) > 0

    def draw(self, shows: Bool[np.ndarray, " T"], rng: np.random.Generator) -> list[int]:
        keys = self._keys(shows)
        key = int(keys[rng.integers(len(keys))])
        window = self.window or len(shows)
        sides = (range(max(0, key - window), key), range(key + 1, min(len(shows), key + window + 1)))
        drawn = (np.sort(rng.choice(side, self.each_side, replace=False)).tolist() for side in sides)
        return [key, *(reference for side in drawn for reference in side)]

    def _keys(self, shows: Bool[np.ndarray, " T"]) -> np.ndarray:
        seen = np.flatnonzero(shows)
        return seen[(seen >= self.each_side) & (seen < len(shows) - self.each_side)]


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


Sampling = Annotated[Consecutive | Single | Pair | PseudoPair | KeyWithReferences, Field(discriminator="kind")]
