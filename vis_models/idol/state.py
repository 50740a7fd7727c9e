"""What crosses from a frame to the tracker, and what the tracker remembers. Source and axes: as `model.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vis_models.idol.config import IdolConfig
from vis_models.track_slots import TimedSlots
from vis_models.types import Masks, Rows, Verdict, VideoInfo


@dataclass(frozen=True)
class IdolEncoded(Rows):
    """The detections of F frames in N slots, best first; the slots beyond `count` are empty."""

    boxes_px: Float[Tensor, "F N 4"]
    """(x0, y0, x1, y1) in pixels of the model's input."""
    chances: Float[Tensor, "F N S"]
    """Of every class; any number of them may be likely."""
    embedding: Float[Tensor, "F N D"]
    count: Int[Tensor, " F"]
    frame_px: Int[Tensor, "F 2"]
    """(height, width) of the model's input."""
    masks: tuple[Float[Tensor, "_ _ _"], ...]
    """Logits of the detections of each frame, at the network's mask stride, padding included."""

    def masks_of(self, row: int, which: list[int], size_px: tuple[int, int], stride: int) -> Masks:
        """Of some detections of a frame at the video's own size; they may share pixels. As the released code: to the
        size of the padded input, cut to the picture, and from there the nearest pixel."""
        logits = self.masks[row][which].float()
        if not which:
            return Masks(size_px, [], [])
        height, width = self.frame_px[row].tolist()
        whole = F.interpolate(logits[:, None], scale_factor=stride, mode="bilinear", align_corners=False)
        cut = (whole[..., :height, :width] > 0).float()
        return Masks.of(F.interpolate(cut, size_px, mode="nearest")[:, 0] > 0)


@dataclass(frozen=True)
class IdolState(TimedSlots):
    """The memory bank of B videos: M tracks with their last T embeddings each."""

    boxes_px: Float[Tensor, "B M 4"]
    """Where the track was seen last, in pixels of the model's input."""
    label: Int[Tensor, "B M"]
    """As what it was seen last."""
    bank: Float[Tensor, "B M T D"]
    """Its embeddings, the newest first."""
    bank_scores: Float[Tensor, "B M T"]
    """Of the detections that they are of."""
    seen: Int[Tensor, "B M"]
    """Frames in which it was seen."""
    told: Int[Tensor, "B M"]
    """Those in which it was seen under its present id; 0: what was said of it was taken back."""
    chances: Float[Tensor, "B M S"]
    """Sum over these frames, of every class."""

    @classmethod
    def empty(cls, config: IdolConfig, videos: Sequence[VideoInfo], like: Tensor) -> "IdolState":
        shape = (len(videos), config.tracks)
        whole = torch.zeros(shape, dtype=torch.long, device=like.device)
        return cls(
            **cls.columns(videos, config.tracks, like.device),
            boxes_px=like.new_zeros(*shape, 4),
            label=whole.clone(),
            bank=like.new_zeros(*shape, config.memory, config.channels),
            bank_scores=like.new_zeros(*shape, config.memory),
            seen=whole.clone(),
            told=whole.clone(),
            chances=like.new_zeros(*shape, config.num_classes),
        )

    def begin(self, row: int, slot: int) -> None:
        super().begin(row, slot)
        self.chances[row, slot] = 0

    def verdict(self, row: int, slot: int, least: float) -> Verdict:
        """The class of the largest mean score, and with it every other whose mean is above `least`."""
        mean = self.chances[row, slot] / self.told[row, slot]
        order = mean.argsort(descending=True, stable=True).tolist()
        scores = mean.tolist()
        others = tuple((label, scores[label]) for label in order[1:] if scores[label] > least)
        return Verdict(int(self.track_id[row, slot]), order[0], scores[order[0]], others)
