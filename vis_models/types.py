"""The nouns that everything passes around, and the contract that every model keeps.

Axes: F frames, B clips or videos side by side, L frames of a clip, A annotated objects of a clip,
T tracks of one video, H and W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from vis_models import masks as mask_ops
from vis_models.config import ModelConfig


@dataclass(frozen=True)
class VideoInfo:
    """A video as the model must know it: its name and its own size in pixels, at which masks come out."""

    video_id: str
    height: int
    width: int


def sizes_px(videos: Sequence[VideoInfo]) -> Int[Tensor, "B 2"]:
    """(height, width) of each."""
    return torch.tensor([(video.height, video.width) for video in videos]).view(-1, 2)


@dataclass(frozen=True)
class Frames:
    """Frames of any videos in any order, at the model's input size. Normalisation is the model's business."""

    pixels: UInt8[Tensor, "F 3 H W"]
    """RGB, 0 to 255."""

    def to(self, device: torch.device | str) -> "Frames":
        return Frames(self.pixels.to(device, non_blocking=True))


RowsLike = TypeVar("RowsLike", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """Base of dataclasses of tensors that share their first axis: encoded frames, states of videos.

    `rows[index]` picks rows, `Rows.join` stacks batches: that is how videos of different lengths
    run side by side, one leaving and another entering between two steps.
    """

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self: RowsLike, rows: Sequence[int] | slice | Tensor) -> RowsLike:
        return type(self)(*(self._pick(getattr(self, field.name), rows) for field in fields(self)))

    @staticmethod
    def _pick(value: Tensor | tuple, rows: Sequence[int] | slice | Tensor) -> Tensor | tuple:
        if isinstance(value, tuple):
            picked = range(len(value))[rows] if isinstance(rows, slice) else (int(row) for row in rows)
            return tuple(value[row] for row in picked)
        return value[rows if isinstance(rows, slice | Tensor) else list(rows)]

    def to(self: RowsLike, device: torch.device | str) -> RowsLike:
        move = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in move))

    def pin_memory(self: RowsLike) -> RowsLike:
        """In host memory that a GPU can copy from while it computes."""
        columns = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(v.pin_memory() if isinstance(v, Tensor) else v for v in columns))

    def own(self: RowsLike) -> RowsLike:
        """A copy that may be written into."""
        columns = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(v.clone() if isinstance(v, Tensor) else v for v in columns))

    @classmethod
    def join(cls: type[RowsLike], parts: Sequence[RowsLike]) -> RowsLike:
        columns = zip(*([getattr(part, field.name) for field in fields(cls)] for part in parts), strict=True)
        return cls(*(sum(c, ()) if isinstance(c[0], tuple) else torch.cat(c) for c in columns))


@dataclass(frozen=True)
class Objects(Rows):
    """The annotated objects of B clips of L frames, padded to A slots. One object keeps its slot for the clip."""

    masks: Bool[Tensor, "B L A H W"]
    boxes_px: Float[Tensor, "B L A 4"]
    """(x0, y0, x1, y1) of the visible mask in pixels of the model's input; zeros where it is not visible."""
    visible: Bool[Tensor, "B L A"]
    labels: Int[Tensor, "B A"]
    """Category index, 0 .. classes-1 in the order of the data set's categories; -1 in padding slots."""
    crowd: Bool[Tensor, "B A"]


@dataclass(frozen=True)
class Clips:
    """B training clips of L frames at the model's input size, and what is in them."""

    frames: UInt8[Tensor, "B L 3 H W"]
    objects: Objects
    sizes_px: Int[Tensor, "B L 2"] | None = None
    """(height, width) of each frame without the padding at its right and bottom; None: the model has one input size."""
    identities: Int[Tensor, "B A"] | None = None
    """Which object of the whole data set each is, counted from 0; -1 in padding slots. None: nobody said."""

    def to(self, device: torch.device | str) -> "Clips":
        sizes = None if self.sizes_px is None else self.sizes_px.to(device, non_blocking=True)
        names = None if self.identities is None else self.identities.to(device, non_blocking=True)
        return Clips(self.frames.to(device, non_blocking=True), self.objects.to(device), sizes, names)

    def pin_memory(self) -> "Clips":
        sizes = None if self.sizes_px is None else self.sizes_px.pin_memory()
        names = None if self.identities is None else self.identities.pin_memory()
        return Clips(self.frames.pin_memory(), self.objects.pin_memory(), sizes, names)


@dataclass(frozen=True)
class Detections(Rows):
    """N detection slots of F frames, best first; slots beyond the last detection are not `valid`."""

    boxes_px: Float[Tensor, "F N 4"]
    """(x0, y0, x1, y1) in pixels of the model's input."""
    class_logits: Float[Tensor, "F N C"]
    """Raw, background at index 0."""
    mask_logits: Float[Tensor, "F N h w"]
    """At the detector's mask resolution, not cropped."""
    valid: Bool[Tensor, "F N"]


@dataclass(frozen=True)
class Masks:
    """T masks of one frame at the video's own size, each by the part of the frame that holds all of its pixels.

    A part may be as large as the frame or empty; parts of different masks may overlap.
    """

    size_px: tuple[int, int]
    """(height, width) of the frame."""
    corners_px: list[tuple[int, int]]
    """(x, y) of the top left pixel of each part."""
    parts: list[Bool[Tensor, "_ _"]]
    """In host memory."""

    @classmethod
    def of(cls, whole: Bool[Tensor, "T H W"]) -> "Masks":
        """From bitmaps of the whole frame."""
        return cls((whole.shape[1], whole.shape[2]), [(0, 0)] * len(whole), list(whole.cpu()))

    def __len__(self) -> int:
        return len(self.parts)

    def whole(self) -> Bool[Tensor, "T H W"]:
        """As bitmaps of the whole frame."""
        bitmaps = torch.zeros(len(self), *self.size_px, dtype=torch.bool)
        for bitmap, (x, y), part in zip(bitmaps, self.corners_px, self.parts, strict=True):
            bitmap[y : y + part.shape[0], x : x + part.shape[1]] = part
        return bitmaps

    def areas_px(self) -> list[int]:
        return [int(part.count_nonzero()) for part in self.parts]

    def rles(self) -> list[bytes]:
        """As run-length codes of the whole frame."""
        return mask_ops.encode_parts([part.numpy() for part in self.parts], self.corners_px, *self.size_px)


@dataclass(frozen=True)
class CodedMasks(Masks):
    """Masks of one frame as run-length codes of the whole frame, in which they waited: for models that answer late."""

    codes: list[bytes]

    @classmethod
    def of_codes(cls, codes: Sequence[bytes], size_px: tuple[int, int]) -> "CodedMasks":
        """Each pixel goes to the first of the masks that have it."""
        free, own = np.ones(size_px, dtype=bool), list[bytes]()
        for code in codes:
            mask = mask_ops.decode(code, *size_px)
            own += mask_ops.encode((mask & free)[None])
            free &= ~mask
        return cls(size_px, [], [], own)

    def __len__(self) -> int:
        return len(self.codes)

    def whole(self) -> Bool[Tensor, "T H W"]:
        bitmaps = [torch.from_numpy(mask_ops.decode(code, *self.size_px)) for code in self.codes]
        return torch.stack(bitmaps) if bitmaps else torch.zeros(0, *self.size_px, dtype=torch.bool)

    def areas_px(self) -> list[int]:
        return mask_ops.measure_px(self.codes)[0].tolist()

    def rles(self) -> list[bytes]:
        return self.codes


@dataclass(frozen=True)
class Sighting:
    """The tracks that are visible in one frame of one video."""

    frame: int
    """Index of the decoded frame, from 0. A model that looks ahead answers about an earlier frame."""
    track_ids: list[int]
    scores: list[float]
    """Confidence of the track in this frame, 0 to 1."""
    masks: Masks
    """One of each track; no pixel belongs to two tracks unless the model allows overlap."""


@dataclass(frozen=True)
class Verdict:
    """A model's last word about a track that has ended."""

    track_id: int
    category: int
    """Category index, 0 .. classes-1."""
    score: float
    """The model's own video score, 0 to 1: what AP uses."""
    others: tuple[tuple[int, float], ...] = ()
    """Further categories that the same object may be, each with its score: hypotheses of their own for AP."""


@dataclass(frozen=True)
class Tracks:
    """What a model has to say about one video since it was last asked."""

    sightings: list[Sighting]
    verdicts: list[Verdict]
    dropped_births: int = 0
    """Detections that should have started a track and found no free slot."""
    withdrawn: tuple[int, ...] = ()
    """Tracks that were none after all: what was said of them is taken back, and no verdict about them comes."""


Encoded = TypeVar("Encoded", bound=Rows)
State = TypeVar("State", bound=Rows)


class VideoModel(Protocol[Encoded, State]):
    """What `jobs/` asks of every model; models are `nn.Module`s and keep no memory between calls."""

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        """(height, width) that the frames of this video must be resized to."""
        ...

    def encode(self, frames: Frames) -> Encoded:
        """The heavy part, one row per frame; no memory: frames of any videos, any order, one batch."""
        ...

    def start(self, videos: list[VideoInfo]) -> State:
        """The state of videos of which no frame was seen, one row per video."""
        ...

    def step(self, encoded: Encoded, state: State) -> tuple[list[Tracks], State]:
        """The next frame of each video: `encoded` and `state` have one row per video, in the same order."""
        ...

    def finish(self, state: State) -> list[Tracks]:
        """What the model still owes these videos, one entry per video: late frames, verdicts of open tracks."""
        ...


class TrainableModel(VideoModel[Encoded, State], Protocol):
    """What training asks of a model beside. A stage of a recipe names a part; the model says what that is."""

    config: ModelConfig

    def part(self, name: str) -> nn.Module:
        """The part of this name, ready to be trained: in training mode, all else frozen and in evaluation mode. Its
        `loss(clips: Clips) -> dict[str, Tensor]` gives one named, weighted scalar per term; their sum is minimised.

        Every parameter that is left to train must get a gradient from every batch, also from one without objects:
        several workers share their gradients.
        """
        ...

    def frame_detector(self, name: str) -> "FrameDetector | None":
        """What finds objects in single frames once the part of this name is trained; None: nothing does."""
        ...

    def fusible(self) -> Sequence[nn.Module]:
        """The parts that see one shape and decide nothing by value, which a compiler can fuse; none is an answer."""
        ...


class CachesEncodings(Protocol[Encoded]):
    """A `TrainableModel` with a half that its last stage does not train, whose answers can be kept in files."""

    encoded: type[Encoded]
    """What `encode_clips` returns."""
    encoder: nn.Module
    """The frozen half: its weights and `config.encoding` decide what is kept."""

    def encode_clips(self, clips: Clips) -> tuple[Encoded, Objects]:
        """B*L encoded frames, and what of the objects the loss looks at."""
        ...

    def encoded_loss(self, encoded: Encoded, objects: Objects) -> dict[str, Tensor]:
        """The loss of the last stage from there."""
        ...


@runtime_checkable
class FrameDetector(Protocol):
    """What finds the objects of single frames."""

    training: bool

    def train(self, mode: bool = True) -> nn.Module: ...

    def eval(self) -> nn.Module: ...

    def find(self, frame: UInt8[np.ndarray, "H W 3"]) -> "Found":
        """The instances of a frame, at its own size."""
        ...


@dataclass(frozen=True)
class Found:
    """The instances that a detector found in one frame."""

    categories: list[int]
    """Category indices, 0 .. classes-1."""
    scores: list[float]
    masks: Bool[Tensor, "N H W"]


@runtime_checkable
class TracksGivenObjects(Protocol):
    """A `VideoModel` whose tracker can be run on objects from elsewhere: what an image oracle needs."""

    def encode_objects(self, frames: Frames, objects: Objects) -> Rows:
        """As `encode`, with these objects in the place of detections: `objects` has one clip of L = 1 per frame,
        and room for one object at least.
        """
        ...
