"""SeqTracker: the best path through all frames, then the best of what is left, and so on.

Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, section 6.1, in the manner of Han et al., "Seq-NMS for
video object detection", 2016. A path takes a detection of each of some frames that follow each other; its value is that
of IoUTracker+ summed along it: alpha log s of each detection, and beta IoU + gamma [same class] of each pair that
overlaps enough. The detections of the best path are taken out, until the best one is shorter than `least_frames`.

It answers late. Until then a video's detections wait in its state: boxes, scores and classes as numbers, masks as
run-length codes. They are those of `window_frames` frames at most: a full window is searched and told, all but its last
frame, which is the first of the next window; a path that goes through it keeps its identity. So memory has a bound, and
a film of one window gets the answer of the paper.

Axes: B videos, W frames of a window, N detections of a frame, C classes without background.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.trackers.config import SeqTrackerConfig
from vis_models.trackers.contract import Seen, Sizes
from vis_models.trackers.iou_tracker import cues
from vis_models.types import CodedMasks, Rows, Sighting, Tracks, Verdict, VideoInfo, sizes_px

NONE = -1
"""As a track id: the detection has no track."""

Path = list[tuple[int, int]]
"""(frame, detection) of frames that follow each other."""


@dataclass(frozen=True)
class Window(Rows):
    """What B videos wait with."""

    size_px: Int[Tensor, "B 2"]
    births: Int[Tensor, " B"]
    """Tracks found so far: the next track id."""
    first: Int[Tensor, " B"]
    """Index of the first frame that waits."""
    waiting: Int[Tensor, " B"]
    """Frames that wait."""
    boxes_px: Float[Tensor, "B W N 4"]
    scores: Float[Tensor, "B W N"]
    """0 where there is no detection."""
    categories: Int[Tensor, "B W N"]
    track_id: Int[Tensor, "B N"]
    """Of the detections of the first frame that waits, from the window before."""
    score_sum: Float[Tensor, "B N"]
    """Of these tracks, over the frames before."""
    votes: Int[Tensor, "B N C"]
    masks: tuple[tuple[tuple[str, ...], ...], ...]
    """Run-length codes, of each frame that waits as many as it has detections."""


class SeqTracker:
    """A `Tracker`. It has no slots: whatever it finds in a window has room there."""

    reads_features: ClassVar[bool] = False

    def __init__(self, config: SeqTrackerConfig, slot_recycling: bool = False) -> None:
        self.config = config

    def start(self, videos: Sequence[VideoInfo], sizes: Sizes) -> Window:
        B, W, N = len(videos), self.config.window_frames, sizes.slots
        whole = torch.zeros(B, W, N, dtype=torch.long)
        return Window(
            size_px=sizes_px(videos),
            births=whole[:, 0, 0].clone(),
            first=whole[:, 0, 0].clone(),
            waiting=whole[:, 0, 0].clone(),
            boxes_px=torch.zeros(B, W, N, 4),
            scores=torch.zeros(B, W, N),
            categories=whole,
            track_id=whole[:, 0] + NONE,
            score_sum=torch.zeros(B, N),
            votes=torch.zeros(B, N, sizes.classes, dtype=torch.long),
            masks=((),) * B,
        )

    def step(self, seen: Seen, state: Window) -> tuple[Tracks, Window]:
        codes = tuple(code.decode("ascii") for code in seen.masks(range(len(seen)), False).rles())
        state = _own(state, (*state.masks[0], codes))
        frame, found = int(state.waiting[0]), slice(len(seen))
        state.boxes_px[0, frame, found] = seen.boxes_px
        state.scores[0, frame] = 0
        state.scores[0, frame, found] = seen.scores
        state.categories[0, frame, found] = seen.categories
        state.waiting[0] += 1
        if state.waiting[0] < self.config.window_frames:
            return Tracks([], []), state
        return self._tell(state, last=False)

    def finish(self, state: Window) -> Tracks:
        return self._tell(state, last=True)[0] if state.waiting[0] else Tracks([], [])

    def _tell(self, state: Window, last: bool) -> tuple[Tracks, Window]:
        """What a window holds, and the state with its last frame as the first of the next window.

        Args:
            last: no other window follows, and the last frame is told as well.
        """
        length = int(state.waiting[0])
        ids, verdicts, after = np.full(state.scores.shape[1:], NONE), list[Verdict](), _turned(state)
        for path in self._paths(state):
            frame, n = path[0]
            if frame == 0 and state.track_id[0, n] != NONE:
                track, score, votes = int(state.track_id[0, n]), state.score_sum[0, n], state.votes[0, n].clone()
            else:
                track, score, votes = int(after.births[0]), torch.tensor(0.0), torch.zeros_like(state.votes[0, 0])
                after.births[0] += 1
            goes_on = path[-1][0] == length - 1 and not last
            for frame, n in path:
                ids[frame, n] = track
            for frame, n in path[: len(path) - goes_on]:
                score = score + state.scores[0, frame, n]
                votes[state.categories[0, frame, n]] += 1
            n = path[-1][1]
            if goes_on:
                after.track_id[0, n], after.score_sum[0, n], after.votes[0, n] = track, score, votes
            else:
                verdicts.append(Verdict(track, int(votes.numpy().argmax()), float(score / votes.sum())))
        told = length if last else length - 1
        return Tracks([self._sighting(state, frame, ids[frame]) for frame in range(told)], verdicts), after

    def _paths(self, state: Window) -> list[Path]:
        """The best path, the best of what is left, and so on; and tracks of the window before that end at once."""
        scores, boxes_px, categories = (
            column[0, : int(state.waiting[0])] for column in (state.scores, state.boxes_px, state.categories)
        )
        start = self.config.score_weight * scores.double().log()  # -inf where there is no detection
        step = start.new_full((len(scores) - 1, *scores.shape[1:] * 2), -torch.inf)
        for frame in range(1, len(scores)):
            overlap = box_ops.iou(boxes_px[frame], boxes_px[frame - 1])
            same = categories[frame][:, None] == categories[frame - 1]
            value = cues(self.config, scores[frame], overlap, same).double()
            step[frame - 1] = torch.where(overlap >= self.config.match_iou, value, -torch.inf).T
        step = step.masked_fill((start[1:] == -torch.inf)[:, None], -torch.inf)
        before = state.votes[0].sum(-1).tolist()

        def enough(path: Path) -> bool:
            frame, n = path[0]
            return len(path) + (before[n] if frame == 0 else 0) >= self.config.least_frames

        paths = paths_of(start.numpy(), step.numpy(), enough)
        known = [n for n, track in enumerate(state.track_id[0].tolist()) if track != NONE]
        return paths + [[(0, n)] for n in known if not any(path[0] == (0, n) for path in paths)]

    @staticmethod
    def _sighting(state: Window, frame: int, ids: Int[np.ndarray, " N"]) -> Sighting:
        shown = [int(n) for n in np.flatnonzero(ids != NONE)]
        height, width = state.size_px[0].tolist()
        codes = [state.masks[0][frame][n].encode() for n in shown]
        scores = state.scores[0, frame, shown].tolist()
        masks = CodedMasks.of_codes(codes, (height, width))
        return Sighting(int(state.first[0]) + frame, ids[shown].tolist(), scores, masks)


def paths_of(
    start: Float[np.ndarray, "T N"], step: Float[np.ndarray, "S N N"], enough: Callable[[Path], bool]
) -> list[Path]:
    """The best path, the best that shares no detection with it, and so on, until one is not enough.

    Args:
        start: what a path is worth that begins with a detection; -inf: none can.
        step: what it gains by going on from a detection to one of the next frame; S = T - 1.
    """
    start, step, paths = start.copy(), step.copy(), list[Path]()
    while path := best_path(start, step):
        if not enough(path):
            break
        paths.append(path)
        for frame, n in path:
            start[frame, n] = -np.inf
            if frame:
                step[frame - 1, :, n] = -np.inf
    return paths


def best_path(start: Float[np.ndarray, "T N"], step: Float[np.ndarray, "S N N"]) -> Path:
    """The path with the largest sum, by dynamic programming; empty where no detection is left."""
    best, before = start.copy(), np.full(start.shape, NONE)
    for frame in range(1, len(start)):
        through = best[frame - 1][:, None] + step[frame - 1]
        value = through.max(0)
        goes_on = (value >= start[frame]) & (value > -np.inf)
        best[frame] = np.where(goes_on, value, start[frame])
        before[frame] = np.where(goes_on, through.argmax(0), NONE)
    if not best.size or best.max() == -np.inf:
        return []
    frame, n = divmod(int(best.argmax()), best.shape[1])
    path = [(frame, n)]
    while (n := int(before[frame, n])) != NONE:
        frame -= 1
        path.append((frame, n))
    return path[::-1]


def _own(state: Window, masks: tuple[tuple[str, ...], ...]) -> Window:
    """A copy that may be written into, of one video, with other masks."""
    return replace(state.own(), masks=(masks,))


def _turned(state: Window) -> Window:
    """The state of which the last frame that waits is the only one, and has no tracks yet."""
    after, last = _own(state, state.masks[0][-1:]), int(state.waiting[0]) - 1
    for column in (after.boxes_px, after.scores, after.categories):
        column[0, 0] = column[0, last].clone()
    after.first[0] += last
    after.waiting[0] = 1
    after.track_id[0], after.score_sum[0], after.votes[0] = NONE, 0.0, 0
    return after
