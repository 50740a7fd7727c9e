"""What crosses from a frame to the tracker, and what the tracker remembers. Source: as `model.py`.

Axes: F frames, B videos side by side, C channels, P cells of all levels, K parameters of a filter, M tracks, L levels,
D channels of an embedding, S classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models.layers.dynamic_masks import PARAMETERS
from vis_models.track_slots import TimedSlots, WeighedSlots
from vis_models.types import Rows, VideoInfo
from vis_models.vis_stg.config import VisStgConfig


@dataclass(frozen=True)
class VisStgEncoded(Rows):
    """The pyramid of F frames: what is found in them depends on the frames before."""

    features: Float[Tensor, "F C P"]
    frame_px: Int[Tensor, "F 2"]
    """(height, width) of the model's input."""


@dataclass(frozen=True)
class VisStgState(WeighedSlots, TimedSlots):
    """The reference frames of B videos, and their tracks."""

    features: Float[Tensor, "B _ P"]
    """Of the frame before; no channels where nothing reads them."""
    filters: Float[Tensor, "B _ P"]
    """Those that it told; where a track is out of sight, the track's. No channels where none are carried."""
    boxes_px: Float[Tensor, "B M 4"]
    """Where the track was seen last, in pixels of the model's input."""
    cell: Int[Tensor, "B M"]
    """In which its centre was,"""
    filter: Float[Tensor, "B M _"]
    """and the filter that was told there."""
    label: Int[Tensor, "B M"]
    """As what it was seen last."""
    nodes: Float[Tensor, "B M L C"]
    """What it looked like on every level."""
    embedding: Float[Tensor, "B M D"]

    @classmethod
    def empty(cls, config: VisStgConfig, videos: Sequence[VideoInfo], cells: int, like: Tensor) -> "VisStgState":
        shape = (len(videos), config.tracks)
        whole = torch.zeros(shape, dtype=torch.long, device=like.device)
        kept = config.channels if config.propagation or config.fusion == "concat" else 0
        carried = PARAMETERS if config.propagation else 0
        compared = config.embedding if config.association == "embedding" else 0
        return cls(
            **cls.columns(videos, config.tracks, like.device),
            members=whole.clone(),
            chances=like.new_zeros(*shape, config.classes),
            features=like.new_zeros(shape[0], kept, cells),
            filters=like.new_zeros(shape[0], carried, cells),
            boxes_px=like.new_zeros(*shape, 4),
            cell=whole.clone(),
            filter=like.new_zeros(*shape, carried),
            label=whole.clone(),
            nodes=like.new_zeros(*shape, config.levels, config.channels),
            embedding=like.new_zeros(*shape, compared),
        )
