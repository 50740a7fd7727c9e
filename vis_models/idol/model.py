"""IDOL: instances found by deformable DETR, and linked by embeddings learned by contrast.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, sections 3.1 to 3.3.

Axes: B videos side by side, F frames, L decoder layers, Q queries, N detection slots, M tracks, T embeddings of
each, S classes, D channels of an embedding.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.idol import association, layouts, tracker
from vis_models.idol.config import IdolConfig
from vis_models.idol.network import IdolNetwork
from vis_models.idol.objective import Objective
from vis_models.idol.state import IdolEncoded, IdolState
from vis_models.layers.backbones import freeze
from vis_models.layers.normalise import TakesFrames, whole_px
from vis_models.track_slots import one_by_one
from vis_models.truths import sizes_of
from vis_models.types import Clips, Found, Frames, Tracks, VideoInfo


class Idol(TakesFrames):
    """A `VideoModel`, trained end to end."""

    published = layouts.PUBLISHED
    """The layouts that it knows, in words."""
    config: IdolConfig

    def __init__(self, config: IdolConfig) -> None:
        super().__init__(config)
        self.network = IdolNetwork(config)
        self.objective = Objective(config)

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        """As `IdolNetwork.from_published`."""
        return self.network.from_published(state)

    # ---- the contract ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, frames: Frames) -> IdolEncoded:
        """The detections of each frame: likely queries without duplicates, by box and by mask."""
        sizes = whole_px(frames.pixels)
        output = self.network(self.normalised(frames.pixels, sizes), sizes)
        chances = output.logits[-1].float().sigmoid()
        corners = box_ops.corners(output.boxes[-1].float()) * sizes.flip(1).repeat(1, 2)[:, None]
        embeddings = self.network.embed(output.queries[-1]).float()
        columns, masks = [], []
        for frame in range(len(sizes)):
            kept = association.detections(self.config, chances[frame], corners[frame])
            logits = self.network.masks(output, -1, torch.full_like(kept, frame), kept).float()
            own = association.unlike_better(self.config, logits > 0)
            masks.append(logits[own])
            columns.append([values[frame, kept[own]] for values in (corners, chances, embeddings)])
        boxes, likely, embedded = (self._in_slots(column) for column in zip(*columns, strict=True))
        count = torch.tensor([len(own) for own in masks], device=sizes.device)
        return IdolEncoded(boxes, likely, embedded, count, sizes.clone(), tuple(masks))

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> IdolState:
        return IdolState.empty(self.config, videos, self.mean)

    @torch.no_grad()
    def step(self, encoded: IdolEncoded, state: IdolState) -> tuple[list[Tracks], IdolState]:
        return one_by_one(partial(tracker.step, self.config), encoded, state)

    @torch.no_grad()
    def finish(self, state: IdolState) -> list[Tracks]:
        return [tracker.finish(self.config, state[[row]]) for row in range(len(state))]

    @torch.no_grad()
    def find(self, frame: UInt8[np.ndarray, "H W 3"]) -> Found:
        """The instances of a frame, at its own size."""
        size = (frame.shape[0], frame.shape[1])
        encoded = self.encode(self.resized(frame))
        which = list(range(int(encoded.count[0])))
        scores, labels = encoded.chances[0, which].max(1)
        return Found(
            labels.tolist(), scores.tolist(), encoded.masks_of(0, which, size, self.config.mask_stride).whole()
        )

    def _in_slots(self, found: Sequence[Float[Tensor, "_ K"]]) -> Float[Tensor, "F N K"]:
        slots = self.config.detections
        return torch.stack([F.pad(own, [0, 0, 0, slots - len(own)]) for own in found])

    # ---- training --------------------------------------------------------------------------------------------

    def part(self, name: str) -> nn.Module:
        """`detector`: on single frames, without what embeddings are made by. `whole`: all of it, on key and reference.
        The first stages of the backbone stay as they are."""
        self.train().requires_grad_(True)
        freeze(self.network.backbone, self.config.frozen_stages)
        if name == "detector":
            for module in (self.network.reid_embed_head, self.objective):
                module.requires_grad_(False)
        return self

    def frame_detector(self, name: str) -> "Idol | None":
        return self if name == "detector" else None

    def fusible(self) -> tuple[nn.Module, ...]:
        return (self.network.backbone,) if self.config.frame_px else ()

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """Of single frames: class, box and mask. Of a key and a reference frame: also of embeddings.

        Raises:
            ValueError: clips that are neither.
        """
        sizes = sizes_of(clips)
        images = self.normalised(clips.frames.flatten(0, 1), sizes)
        return self.objective(self.network, self.network(images, sizes), clips, sizes)
