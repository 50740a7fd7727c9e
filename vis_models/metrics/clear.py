"""CLEAR: matches frame by frame at IoU 0.5, and every change of identity counted.

Source: Bernardin and Stiefelhagen, "Evaluating multiple object tracking performance: the CLEAR MOT metrics", EURASIP
Journal on Image and Video Processing 2008; the numbers are those of TrackEval @ 12c8791b.

    MOTA = (TP - FP - IDSW) / (TP + FN)        below 0 where more is superfluous than found
    MOTP = mean IoU of the matches

A match of the frame before is kept where it still reaches 0.5. An identity switch: an object is matched with another
track than at its last match, however long ago that was. Frag: how often an object is lost and found again.

Two rules of the reference that nobody would guess: a frame in which one side shows nothing at all leaves the matches of
the frame before in force, so it fragments nothing; and MT means a share above 0.8, PT one of 0.2 to 0.8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from vis_models.metrics.assignment import assign
from vis_models.metrics.scenes import FrameIou, frames_seen

THRESHOLD = 0.5
EPS = float(np.finfo(float).eps)
"""An IoU may fall short of a threshold by this much. Differs from video AP, where it may not."""
KEPT = 1000.0
"""Added to the IoU of a pair that was matched in the frame before, so that it comes first."""


@dataclass(frozen=True)
class Switch:
    """From this frame on another track follows the object. Objects and tracks are places in the lists of the video."""

    frame: int
    object: int
    before: int
    after: int
    frames_before: int
    """Matches of the object with the one track until the switch, since the switch before it."""
    frames_after: int
    """And with the other from here on, until the next switch."""

    @property
    def cost_frames(self) -> int:
        """Frames that would have to be renamed to mend it: many where a track is lost for good, 1 where it flickers."""
        return min(self.frames_before, self.frames_after)


@dataclass
class _Run:
    """Matches of an object with one track, from a frame on, with no other track in between."""

    frame: int
    track: int
    matches: int = 0


@dataclass(frozen=True)
class Clear:
    """Counts that add up over videos and categories."""

    tp: int = 0
    fn: int = 0
    fp: int = 0
    idsw: int = 0
    frag: int = 0
    mt: int = 0
    """Objects mostly tracked, in more than 0.8 of their frames."""
    pt: int = 0
    """Partly."""
    ml: int = 0
    """Mostly lost, tracked in less than 0.2 of them."""
    iou: float = 0.0
    """Sum over TP."""
    frames: int = 0
    """Of the videos that show both objects and tracks of the category; the reference counts no others."""

    def __add__(self, other: "Clear") -> "Clear":
        return Clear(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    def figures(self) -> dict[str, float]:
        """Fractions, false masks per frame, and the counts IDSW, Frag, MT, PT, ML; 0/0 is 0."""
        masks = max(1, self.tp + self.fn)
        counts = {"IDSW": self.idsw, "Frag": self.frag, "MT": self.mt, "PT": self.pt, "ML": self.ml}
        return {
            "MOTA": (self.tp - self.fp - self.idsw) / masks,
            "MOTP": self.iou / max(1, self.tp),
            "FP_per_frame": self.fp / max(1, self.frames),
            **{name: float(count) for name, count in counts.items()},
        }


def clear(frames: Sequence[FrameIou], objects: int, tracks: int) -> tuple[Clear, list[Switch]]:
    """Count one video, one category, and list its switches. `objects`, `tracks`: how many there are."""
    seen, found = frames_seen(frames, objects, tracks)
    now = np.full(objects, -1)  # each object's track in the last frame that shows both sides
    starts, iou = np.zeros(objects, dtype=int), 0.0
    runs: list[list[_Run]] = [[] for _ in range(objects)]
    for number, frame in enumerate(frames):
        if not frame.iou.size:
            continue
        gain = np.where(frame.iou >= THRESHOLD - EPS, frame.iou + KEPT * _kept(frame, now), 0.0)
        rows, columns = assign(gain)
        which, by = frame.objects[rows], frame.tracks[columns]
        for each, track in zip(which.tolist(), by.tolist(), strict=True):
            if not runs[each] or runs[each][-1].track != track:
                runs[each].append(_Run(number, track))
            runs[each][-1].matches += 1
        starts[which[now[which] < 0]] += 1
        now[:] = -1
        now[which] = by
        iou += float(frame.iou[rows, columns].sum())
    switches = [switch for each, own in enumerate(runs) for switch in _switches(each, own)]
    matched = np.array([sum(run.matches for run in own) for own in runs], dtype=int)
    share = matched[seen > 0] / seen[seen > 0]
    mostly, at_all = int((share > 0.8).sum()), int((share >= 0.2).sum())
    tp = int(matched.sum())
    counts = Clear(
        tp=tp,
        fn=int(seen.sum()) - tp,
        fp=int(found.sum()) - tp,
        idsw=len(switches),
        frag=int(np.maximum(starts - 1, 0).sum()),
        mt=mostly,
        pt=at_all - mostly,
        ml=len(share) - at_all,
        iou=iou,
        frames=len(frames) if seen.any() and found.any() else 0,
    )
    return counts, switches


def _kept(frame: FrameIou, now: Int[np.ndarray, " _"]) -> Bool[np.ndarray, "G P"]:
    return now[frame.objects][:, None] == frame.tracks[None]


def _switches(object_: int, runs: Sequence[_Run]) -> list[Switch]:
    return [
        Switch(after.frame, object_, before.track, after.track, before.matches, after.matches)
        for before, after in pairwise(runs)
    ]
