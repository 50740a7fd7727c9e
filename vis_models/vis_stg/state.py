"""What crosses from a frame to the tracker, and what the tracker remembers. Source: as `model.py`.

Axes: F frames, B videos side by side, C channels, P cells of all levels, K parameters of a filter, M tracks, L levels,
D channels of an embedding, S classes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models.layers.dynamic_masks import PARAMETERS
from vis_models.types import Rows, Verdict
from vis_models.vis_stg.config import VisStgConfig


@dataclass(frozen=True)
class VisStgEncoded(Rows):
    """The pyramid of F frames: what is found in them depends on the frames before."""

    features: Float[Tensor, "F C P"]
    frame_px: Int[Tensor, "F 2"]
    """(height, width) of the model's input."""


@dataclass(frozen=True)
class VisStgState(Rows):
    """The reference frames of B videos, and their tracks."""

    size_px: Int[Tensor, "B 2"]
    """(height, width) of the video itself."""
    frame: Int[Tensor, " B"]
    """Index of the next frame."""
    births: Int[Tensor, " B"]
    """Tracks started so far: the next track id."""
    features: Float[Tensor, "B _ P"]
    """Of the frame before; no channels where nothing reads them."""
    filters: Float[Tensor, "B _ P"]
    """Those that it told; where a track is out of sight, the track's. No channels where none are carried."""
    track_id: Int[Tensor, "B M"]
    """-1: the slot is free."""
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
    votes: Int[Tensor, "B M S"]
    """Sightings as each class."""
    score_sum: Float[Tensor, "B M"]
    """Scores of its sightings."""
    last_frame: Int[Tensor, "B M"]

    @classmethod
    def empty(cls, config: VisStgConfig, sizes_px: Int[Tensor, "B 2"], cells: int, like: Tensor) -> "VisStgState":
        shape = (len(sizes_px), config.tracks)
        whole = torch.zeros(shape, dtype=torch.long, device=like.device)
        kept = config.channels if config.propagation or config.fusion == "concat" else 0
        carried = PARAMETERS if config.propagation else 0
        compared = config.embedding if config.association == "embedding" else 0
        return cls(
            size_px=sizes_px.to(like.device),
            frame=whole[:, 0].clone(),
            births=whole[:, 0].clone(),
            features=like.new_zeros(shape[0], kept, cells),
            filters=like.new_zeros(shape[0], carried, cells),
            track_id=whole - 1,
            boxes_px=like.new_zeros(*shape, 4),
            cell=whole.clone(),
            filter=like.new_zeros(*shape, carried),
            label=whole.clone(),
            nodes=like.new_zeros(*shape, config.levels, config.channels),
            embedding=like.new_zeros(*shape, compared),
            votes=whole[..., None].expand(*shape, config.classes).clone(),
            score_sum=like.new_zeros(*shape),
            last_frame=whole.clone(),
        )

    def live(self, row: int) -> list[int]:
        """Slots with a track, in the order in which these began."""
        ids = self.track_id[row].tolist()
        return sorted((slot for slot, id_ in enumerate(ids) if id_ >= 0), key=ids.__getitem__)

    def verdict(self, row: int, slot: int) -> Verdict:
        """Mean of the scores, and the majority's class, the lowest of equals."""
        votes = self.votes[row, slot].tolist()
        category = max(range(len(votes)), key=votes.__getitem__)
        return Verdict(int(self.track_id[row, slot]), category, float(self.score_sum[row, slot] / sum(votes)))
