"""IDF1: one track for one object over the whole video, and how much of both that explains.

Source: Ristani et al., "Performance measures and a data set for multi-target, multi-camera tracking", ECCV workshops
2016; the numbers are those of TrackEval @ 12c8791b. Objects and tracks are paired one to one for the whole video such
that most masks agree (IoU 0.5 or more):

    IDTP = masks that agree within the pairs      IDR = IDTP / masks of objects      IDP = IDTP / masks of tracks
    IDF1 = IDTP / (IDTP + IDFN / 2 + IDFP / 2)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vis_models.metrics.assignment import assign
from vis_models.metrics.clear import THRESHOLD
from vis_models.metrics.scenes import FrameIou, frames_seen


@dataclass(frozen=True)
class Identity:
    """Counts that add up over videos and categories."""

    tp: int = 0
    fn: int = 0
    fp: int = 0

    def __add__(self, other: "Identity") -> "Identity":
        return Identity(self.tp + other.tp, self.fn + other.fn, self.fp + other.fp)

    def figures(self) -> dict[str, float]:
        """Fractions; 0/0 is 0."""
        return {
            "IDF1": self.tp / max(1.0, self.tp + self.fn / 2 + self.fp / 2),
            "IDR": self.tp / max(1, self.tp + self.fn),
            "IDP": self.tp / max(1, self.tp + self.fp),
        }


def identity(frames: Sequence[FrameIou], objects: int, tracks: int) -> Identity:
    """Count one video, one category. `objects`, `tracks`: how many there are."""
    seen, found = frames_seen(frames, objects, tracks)
    agree = np.zeros((objects, tracks))
    for frame in frames:
        if not frame.iou.size:
            continue
        # Differs from CLEAR and HOTA as the reference does: an IoU may not fall short of the threshold at all.
        agree[np.ix_(frame.objects, frame.tracks)] += frame.iou >= THRESHOLD
    tp = int(agree[assign(agree)].sum())
    return Identity(tp, int(seen.sum()) - tp, int(found.sum()) - tp)
