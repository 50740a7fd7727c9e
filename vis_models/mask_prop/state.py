"""What crosses from a frame to the tracker, and what waits there until a clip is complete. Source: as `model.py`.

Axes: F frames, B videos, N detection slots, S classes, C channels of features, W = 2T + 1 frames of a clip, J = T + 1
frames that wait, M tracks, r pixels along a side of a mask, P bytes of a mask's cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vis_models.layers.paste_masks import Pasting, paste
from vis_models.mask_prop.config import MaskPropConfig
from vis_models.track_slots import FREE, WeighedSlots
from vis_models.types import Masks, Rows, VideoInfo


@dataclass(frozen=True)
class MaskPropEncoded(Rows):
    """The detections of F frames in N slots, best first; the slots beyond `count` are empty."""

    count: Int[Tensor, " F"]
    scores: Float[Tensor, "F N"]
    class_scores: Float[Tensor, "F N S"]
    """Probability of every class."""
    masks: Float[Tensor, "F N r r"]
    """0 to 1, each within its place."""
    places_px: Float[Tensor, "F N 4"]
    """(x0, y0, x1, y1) in pixels of the model's input: the box, or the square in which its mask was refined."""
    cover: Float[Tensor, "F N h w"]
    """The same masks on the map of features: the share of each cell."""
    features: Float[Tensor, "F C h w"]
    frame_px: Int[Tensor, "F 2"]
    """(height, width) of the model's input."""

    def masks_of(self, row: int, size_px: tuple[int, int], pasting: Pasting) -> Masks:
        """Of all detections of a frame at the video's own size; they may share pixels."""
        found = int(self.count[row])
        scale = self.places_px.new_tensor(size_px) / self.frame_px[row]
        places = self.places_px[row, :found] * scale.flip(0).repeat(2)
        return paste(self.masks[row, :found].float(), places, size_px, pasting)


@dataclass(frozen=True)
class MaskPropState(WeighedSlots):
    """The memory of B videos. Frame f lies at place f modulo W, or modulo J, of what is kept by frame. A clip is a
    sighting of its track."""

    features: Float[Tensor, "B W C h w"]
    count: Int[Tensor, "B J"]
    """Detections of the frames that wait, as the next three."""
    scores: Float[Tensor, "B J N"]
    class_scores: Float[Tensor, "B J N S"]
    cover: Float[Tensor, "B J N h w"]
    clips: UInt8[Tensor, "B W N W P"]
    """Of the objects of each clip, by its middle frame: the cells of its mask in each frame, eight in a byte."""
    track: Int[Tensor, "B W N"]
    """Slot of the track of each, `FREE` where there is no object."""
    codes: tuple[tuple[tuple[str, ...], ...], ...]
    """Run-length codes of the masks of each frame that waits, the oldest first."""

    @classmethod
    def empty(
        cls, config: MaskPropConfig, videos: Sequence[VideoInfo], cells: tuple[int, int], like: Tensor
    ) -> "MaskPropState":
        """`cells`: (height, width) of the map of features."""
        count, slots, length, waiting = len(videos), config.detector.detections, config.clip_length, config.reach + 1
        classes, channels = config.classes, config.detector.channels
        whole = torch.zeros(count, dtype=torch.long, device=like.device)
        tracks = length * slots  # as many as there are clips to be on one: there is always a free slot
        return cls(
            **cls.columns(videos, tracks, like.device),
            features=like.new_zeros(count, length, channels, *cells),
            count=whole.new_zeros(count, waiting),
            scores=like.new_zeros(count, waiting, slots),
            class_scores=like.new_zeros(count, waiting, slots, classes),
            cover=like.new_zeros(count, waiting, slots, *cells),
            clips=whole.new_zeros(count, length, slots, length, -(-cells[0] * cells[1] // 8), dtype=torch.uint8),
            track=whole.new_full((count, length, slots), FREE),
            members=whole.new_zeros(count, tracks),
            chances=like.new_zeros(count, tracks, classes),
            codes=((),) * count,
        )


def packed(masks: Float[Tensor, "*S h w"]) -> UInt8[Tensor, "*S P"]:
    """Cells of more than one half, eight in a byte, row after row.

    Differs from Eq. (4): the masks of a clip wait as bits, not as shares.
    """
    cells = (masks > 0.5).flatten(-2)
    cells = torch.nn.functional.pad(cells, [0, -cells.shape[-1] % 8]).unflatten(-1, (-1, 8))
    return (cells * _weights(masks.device)).sum(-1, dtype=torch.uint8)


def unpacked(codes: UInt8[Tensor, "*S P"]) -> Float[Tensor, "*S Q"]:
    """Every cell, 0 or 1; the last ones of Q = 8P may be none of the map's, and are 0."""
    return ((codes[..., None] & _weights(codes.device)) > 0).flatten(-2).float()


def _weights(device: torch.device) -> UInt8[Tensor, " 8"]:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
