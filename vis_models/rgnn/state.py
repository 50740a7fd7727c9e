"""What one frame hands to the next, and what it decided. Source and axes: as `model.py`."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.types import Rows

FREE, SEEN, KEPT = 0, 1, 2  # a slot is free; its track has a detection in this frame; it lives on without one


@dataclass(frozen=True)
class RgnnEncoded(Rows):
    """What the frozen part says about F frames: detections and what to compute their appearance from."""

    boxes_px: Float[Tensor, "F N 4"]
    class_logits: Float[Tensor, "F N C"]
    mask_logits: Float[Tensor, "F N h w"]
    valid: Bool[Tensor, "F N"]
    pooled_c4: Float[Tensor, "F N+1 _"]
    """A constant 1 and C4, averaged under each detection's mask; the last row is the whole frame."""
    pooled_c5: Float[Tensor, "F N+1 _"]


@dataclass(frozen=True)
class RgnnState(Rows):
    """The memory of B videos: everything that one frame hands to the next."""

    size_px: Int[Tensor, "B 2"]
    """(height, width) of the video itself."""
    frame: Int[Tensor, " B"]
    """Index of the next frame."""
    births: Int[Tensor, " B"]
    """Tracks started so far: the next track id."""
    status: Int[Tensor, "B M"]
    """FREE, SEEN or KEPT."""
    track_id: Int[Tensor, "B M"]
    boxes_px: Float[Tensor, "B M 4"]
    embedding: Float[Tensor, "B M D"]
    """tau, the output of the gate."""
    cell: Float[Tensor, "B M D"]
    mean: Float[Tensor, "B M A"]
    variance: Float[Tensor, "B M A"]
    appearance_memory: Float[Tensor, "B M _"]
    """Of the LSTMs that predict mean and variance; no channels otherwise."""
    class_logits: Float[Tensor, "B M C"]
    votes: Float[Tensor, "B M _"]
    """Summed confidence and votes for each class, where the majority decides; no channels otherwise."""
    empty_embedding: Float[Tensor, "B D"]
    """tau_0, the empty track."""
    empty_cell: Float[Tensor, "B D"]
    empty_mean: Float[Tensor, "B A"]
    empty_variance: Float[Tensor, "B A"]
    empty_appearance_memory: Float[Tensor, "B _"]


@dataclass(frozen=True)
class Decisions:
    """What one frame decided, as training and reporting need it."""

    existing: Bool[Tensor, "B M"]
    """Tracks at the start of the frame."""
    match_logits: Float[Tensor, "B M N"]
    init_logits: Float[Tensor, "B N"]
    detection: Int[Tensor, "B M"]
    """The detection each SEEN track took, its initialiser for a new one; 0 elsewhere."""
    born: Bool[Tensor, "B M"]
    ended: Bool[Tensor, "B M"]
    """Tracks whose slot was taken over."""
    dropped: Int[Tensor, " B"]


@dataclass(frozen=True)
class Births:
    """Which slots get a new track, from which detection, and how many found none."""

    born: Bool[Tensor, "B M"]
    detection: Int[Tensor, "B M"]
    dropped: Int[Tensor, " B"]
