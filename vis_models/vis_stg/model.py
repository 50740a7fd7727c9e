"""VisSTG: instances of two frames in one graph, whose nodes are detected and segmented, and whose edges track.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021.

Axes: F frames, B videos side by side.
"""

import torch
from torch import Tensor, nn

from vis_models.layers.backbones import ResNet
from vis_models.layers.normalise import normalised
from vis_models.layers.resize import keeping_aspect
from vis_models.mask_rcnn import layouts
from vis_models.truths import sizes_of
from vis_models.types import Clips, Frames, Tracks, VideoInfo
from vis_models.vis_stg import objective, tracker
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.network import VisStgNetwork
from vis_models.vis_stg.state import VisStgEncoded, VisStgState


class VisStg(nn.Module):
    """A `VideoModel`, trained end to end."""

    published = layouts.PUBLISHED
    """The layouts that it knows, in words."""
    mean: Tensor
    std: Tensor

    def __init__(self, config: VisStgConfig) -> None:
        super().__init__()
        self.config = config
        self.network = VisStgNetwork(config)
        self.register_buffer("mean", torch.tensor(config.mean_rgb).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std_rgb).view(3, 1, 1), persistent=False)

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        """The layout of a checkpoint, and its backbone under the names of this network; None: of another kind."""
        found = layouts.renamed(state)
        if found is None:
            return None
        return found[0], {key: tensor for key, tensor in found[1].items() if key.startswith("backbone.")}

    # ---- the contract ----------------------------------------------------------------------------------------

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        config = self.config
        return config.image_size or keeping_aspect(
            (video.height, video.width), config.shorter_px, config.longer_most_px
        )

    @torch.no_grad()
    def encode(self, frames: Frames) -> VisStgEncoded:
        height, width = frames.pixels.shape[-2:]
        sizes = torch.tensor([[height, width]], device=frames.pixels.device).expand(len(frames.pixels), 2)
        images = normalised(frames.pixels, sizes, self.mean, self.std)
        return VisStgEncoded(self.network.features(images), sizes.clone())

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
        for module in self._frozen_stages():
            module.requires_grad_(False).eval()
        return self

    def _frozen_stages(self) -> list[nn.Module]:
        """The stem of a residual network and its first stages; of a Swin transformer the norm of a map nobody takes."""
        net, count = self.network.backbone, self.config.frozen_stages
        if not isinstance(net, ResNet):
            return [net.get_submodule("norm0")]
        if not count:
            return []
        return [net.conv1, net.bn1, *[net.layer1, net.layer2, net.layer3, net.layer4][:count]]

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
        images = normalised(clips.frames.flatten(0, 1), sizes_of(clips), self.mean, self.std)
        return objective.loss(self.network, clips, images)
