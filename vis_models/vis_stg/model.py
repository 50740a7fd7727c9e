"""VisSTG: instances of two frames in one graph, whose nodes are detected and segmented, and whose edges track.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021.

Axes: F frames, B videos side by side.
"""

import torch
from torch import Tensor, nn

from vis_models.layers.backbones import freeze
from vis_models.layers.normalise import TakesFrames, whole_px
from vis_models.mask_rcnn import layouts
from vis_models.truths import sizes_of
from vis_models.types import Clips, Frames, Tracks, VideoInfo
from vis_models.vis_stg import objective, tracker
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.network import VisStgNetwork
from vis_models.vis_stg.state import VisStgEncoded, VisStgState


class VisStg(TakesFrames):
    """A `VideoModel`, trained end to end."""

    published = layouts.PUBLISHED
    """The layouts that it knows, in words."""
    config: VisStgConfig

    def __init__(self, config: VisStgConfig) -> None:
        super().__init__(config)
        self.network = VisStgNetwork(config)

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        """The layout of a checkpoint, and its backbone under the names of this network; None: of another kind."""
        found = layouts.renamed(state)
        if found is None:
            return None
        return found[0], {key: tensor for key, tensor in found[1].items() if key.startswith("backbone.")}

    # ---- the contract ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, frames: Frames) -> VisStgEncoded:
        sizes = whole_px(frames.pixels)
        return VisStgEncoded(self.network.features(self.normalised(frames.pixels, sizes)), sizes.clone())

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> VisStgState:
        cells = self.network.grid(self.frame_size(videos[0])).cells if videos else 0
        return VisStgState.empty(self.config, videos, cells, self.mean)

    @torch.no_grad()
    def step(self, encoded: VisStgEncoded, state: VisStgState) -> tuple[list[Tracks], VisStgState]:
        return tracker.step(self.config, self.network, encoded, state)

    @torch.no_grad()
    def finish(self, state: VisStgState) -> list[Tracks]:
        return [tracker.finish(state, row) for row in range(len(state))]

    # ---- training --------------------------------------------------------------------------------------------

    def part(self, name: str) -> nn.Module:
        """`whole`: all of it but the first stages of the backbone, on target and reference frame."""
        self.train().requires_grad_(True)
        freeze(self.network.backbone, self.config.frozen_stages)
        return self

    def frame_detector(self, name: str) -> None:
        """Nothing: what it finds depends on the frame before."""
        return None

    def fusible(self) -> tuple[nn.Module, ...]:
        return (self.network.backbone, self.network.pyramid) if self.config.frame_px else ()

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """Of a target and a reference frame: centres, boxes, masks, and who is who.

        Raises:
            ValueError: clips that are no pairs.
        """
        images = self.normalised(clips.frames.flatten(0, 1), sizes_of(clips))
        return objective.loss(self.network, clips, images)
