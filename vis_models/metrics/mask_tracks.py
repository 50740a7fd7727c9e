"""What evaluators compare: the masks of an object through a video, labelled or predicted.

Axes: T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Rle = dict[str, Any]
"""`size` [height, width] in px and `counts`, COCO's compressed runs: what pycocotools takes."""


@dataclass(frozen=True)
class MaskTrack:
    """The masks of one object, one entry per frame; None where it is not visible."""

    rles: Sequence[Rle | None]
    areas_px: Float[np.ndarray, " T"]
    """Area of each mask, 0 where there is none."""


@dataclass(frozen=True)
class Truth(MaskTrack):
    """An annotated object of a video."""

    truth_id: int
    """Rule: a match is stored as this id and 0 means no match, so whatever matches id 0 is a false positive."""
    category: int
    mean_area_px: float
    """Rule: from the stated areas, not from the masks; over the frames where they are not zero."""
    crowd: bool = False
    """May be matched any number of times, and counts neither as found nor as missed."""


@dataclass(frozen=True)
class Prediction(MaskTrack):
    """A predicted track of a video."""

    category: int
    mean_area_px: float
    """From the masks, over the frames where they are not empty."""
    score: float
    """Any finite number; only the order counts."""
    track_id: int = 0
    """Its name among the tracks of the video, to speak of it; no figure depends on it."""


def mean_area_px(areas_px: Sequence[int | float | None] | Float[np.ndarray, " _"]) -> float:
    """Mean over the frames where the area is neither null nor zero; 0 if there is none."""
    if isinstance(areas_px, np.ndarray):
        seen = areas_px[areas_px != 0]
        return float(seen.mean()) if len(seen) else 0.0
    seen = [area for area in areas_px if area]
    return float(np.mean(seen)) if seen else 0.0
