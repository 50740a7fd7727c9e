"""What a detector gives, and what a tracker answers.

Axes: F frames, N detection slots of a frame, K detections that are tracked, C classes without background, A channels
and h, w cells of a feature map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.types import Frames, Masks, Objects, Rows, Tracks, VideoInfo


@dataclass(frozen=True)
class Candidates(Rows):
    """The detections of F frames."""

    boxes_px: Float[Tensor, "F N 4"]
    """In pixels of the detector's input."""
    chance: Float[Tensor, "F N C"]
    """Probability of each class, without background."""
    mask_logits: Float[Tensor, "F N _ _"]
    """As the detector's own `masks` reads them."""
    valid: Bool[Tensor, "F N"]
    cover: Float[Tensor, "F N h w"]
    """Share of each cell of the feature map that a mask covers; no cells where nobody asked for features."""
    features: Float[Tensor, "F A h w"]


class Sizes(NamedTuple):
    """What a state must have room for."""

    slots: int
    """N"""
    classes: int
    """C"""
    features: tuple[int, int, int]
    """(A, h, w)"""


class Detector(Protocol):
    """A network whose objects can be linked: an `nn.Module` under the name `detector` among the weights of a folder."""

    def sizes(self, video: VideoInfo, features: bool) -> Sizes: ...

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        """(height, width) that the frames of this video must be resized to."""
        ...

    def encode(self, frames: Frames, features: bool) -> Candidates: ...

    def encode_objects(self, frames: Frames, objects: Objects, features: bool) -> Candidates:
        """The same, with these objects in the place of what it finds (`TracksGivenObjects`)."""
        ...

    def masks(self, found: Candidates, which: Sequence[int], size_px: tuple[int, int], exclusive: bool) -> Masks:
        """Those of some slots of one frame, at the video's size; exclusive: a pixel goes to the strongest."""
        ...

    def fusible(self) -> tuple[nn.Module, ...]: ...


@dataclass(frozen=True)
class Seen:
    """The detections of one frame of one video that may be tracked, best first; on the host."""

    boxes_px: Float[Tensor, "K 4"]
    chance: Float[Tensor, "K C"]
    cover: Float[Tensor, "K h w"]
    features: Float[Tensor, "A h w"]
    masks: Callable[[Sequence[int], bool], Masks]
    """Of some of the K at the video's size; the second argument: exclusive."""

    def __len__(self) -> int:
        return len(self.boxes_px)

    @property
    def scores(self) -> Float[Tensor, " K"]:
        return self.chance.amax(-1)

    @property
    def categories(self) -> Int[Tensor, " K"]:
        return self.chance.argmax(-1)


def trackable(
    boxes_px: Float[Tensor, "N 4"],
    chance: Float[Tensor, "N C"],
    valid: Bool[Tensor, " N"],
    least_score: float,
    duplicate_iou: float,
) -> Int[Tensor, " K"]:
    """The slots of detections above a score that no better one covers, best first."""
    score = torch.where(valid, chance.amax(-1), -1.0)
    order = score.argsort(descending=True, stable=True)
    order = order[score[order] > least_score]
    return order[box_ops.greedy_nms(boxes_px[order], duplicate_iou)]


State = TypeVar("State", bound=Rows)


class Tracker(Protocol[State]):
    """Links what is seen; it has no weights, and no memory but its state, which stays on the host."""

    reads_features: ClassVar[bool]

    def start(self, videos: Sequence[VideoInfo], sizes: Sizes) -> State: ...

    def step(self, seen: Seen, state: State) -> tuple[Tracks, State]:
        """The next frame of one video; `state` has its one row."""
        ...

    def finish(self, state: State) -> Tracks: ...
