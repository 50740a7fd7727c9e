"""The network of VisSTG: from frames to a pyramid, and from the pyramids of two frames to all that is told of one.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021,
sections 3.2 to 3.5.

Axes: F frames, C channels, P cells of all levels, S classes, K parameters of a filter, R instances of all frames,
L levels, E edges, D channels of an embedding, h, w cells of the finest level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models.layers.backbones import backbone
from vis_models.layers.chunks import in_chunks
from vis_models.layers.dynamic_masks import HIDDEN, PARAMETERS, dynamic_masks
from vis_models.layers.fpn import TopDownPyramid
from vis_models.layers.mlp import Mlp
from vis_models.layers.roi_align import roi_align
from vis_models.vis_stg.centres import BIAS
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.graph import Fused, InstanceGraph, Instances, keep_loud
from vis_models.vis_stg.grid import Grid
from vis_models.vis_stg.propagation import Propagation

MASKS_AT_ONCE = 1024
NODE_CELLS = 7
"""Along a side of what is cut out under a box. Ours: their mean is the node, as edges subtract it from a cell."""


@dataclass(frozen=True)
class Told:
    """What F frames are said to show."""

    heat: Float[Tensor, "F S P"]
    """Logits of a centre of each class."""
    size: Float[Tensor, "F 2 P"]
    """(width, height) in cells."""
    offset: Float[Tensor, "F 2 P"]
    """From the corner of a cell to a centre in it."""
    filters: Float[Tensor, "F K P"]
    """Theta of the paper, before anything is carried."""
    masks: Float[Tensor, "F 8 h w"]
    """What all masks are made of."""

    def __getitem__(self, frames: slice) -> "Told":
        return Told(*(value[frames] for value in vars(self).values()))


class VisStgNetwork(nn.Module):
    """Backbone, pyramid, graph, and the heads on its cells."""

    def __init__(self, config: VisStgConfig) -> None:
        super().__init__()
        self.config = config
        channels, shape = config.channels, (config.head_convs, config.norm_groups)
        self.backbone = backbone(config.backbone)
        self.pyramid = TopDownPyramid(self.backbone.channels, channels, config.levels)
        self.graph = InstanceGraph(config) if config.fusion == "relation" else None
        self.concat = nn.Conv1d(2 * channels, channels, 1) if config.fusion == "concat" else None
        self.heat = Head(channels, config.num_classes, *shape)
        nn.init.normal_(self.heat.layers[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.constant_(self.heat.layers[-1].bias, BIAS)  # type: ignore[arg-type]
        self.size = Head(channels, 2, *shape)
        self.offset = Head(channels, 2, *shape)
        self.controller = Head(channels, PARAMETERS, *shape)
        self.masks_from = nn.Conv2d(channels, HIDDEN, 1)
        self.propagation = Propagation(channels, PARAMETERS) if config.propagation else None
        self.same = Mlp(channels, channels, 1) if config.association == "edge" else None
        if self.same is not None:
            keep_loud(self.same)
        self.embedding = Head(channels, config.embedding, *shape) if config.association == "embedding" else None
        self.way_back = Head(channels, 2, *shape) if config.association == "offset" else None

    def grid(self, frame_px: tuple[int, int]) -> Grid:
        """Of frames of (height, width)."""
        return Grid.of(frame_px, self.config.backbone.stride, self.config.levels)

    def features(self, images: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "F C P"]:
        """F of the paper, of normalised images."""
        grid = self.grid((images.shape[-2], images.shape[-1]))
        return grid.row([level.float() for level in self.pyramid(self.backbone(images))])

    def nodes(
        self, grid: Grid, features: Float[Tensor, "F C P"], boxes_px: Float[Tensor, "R 4"], frame: Int[Tensor, " R"]
    ) -> Float[Tensor, "R L C"]:
        """What boxes of any of the frames look like on every level."""
        levels = len(grid.sizes)
        level = torch.arange(levels, device=frame.device).repeat(len(frame))
        cut = roi_align(
            grid.maps(features), boxes_px.repeat_interleave(levels, 0), frame.repeat_interleave(levels), level,
            [float(stride) for stride in grid.strides], NODE_CELLS, "aligned",
        )  # fmt: skip
        return cut.mean((2, 3)).unflatten(0, (len(frame), levels))

    def fuse(
        self,
        grid: Grid,
        features: Float[Tensor, "F C P"],
        reference: Float[Tensor, "F C P"] | None,
        instances: Instances,
    ) -> tuple[Float[Tensor, "F C P"], Fused | None]:
        """F^ of the paper, and the graph that it came out of, if one is there.

        Args:
            reference: features of the reference frames; of concat alone, and for it a frame without one is its own.
            instances: of the reference frames.
        """
        if self.graph is not None:
            fused = self.graph(grid, features, instances)
            return fused.features, fused
        if self.concat is not None:
            assert reference is not None
            return self.concat(torch.cat([features, reference], 1)).float(), None
        return features, None

    def tell(self, grid: Grid, features: Float[Tensor, "F C P"]) -> Told:
        """Detection and filters (3.3, 3.4)."""
        heat, size, offset, filters = (
            self.along(head, grid, features) for head in (self.heat, self.size, self.offset, self.controller)
        )
        maps = grid.maps(features)
        fine = maps[0]
        for coarse in maps[1:3]:
            fine = fine + F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return Told(heat, size, offset, filters, self.masks_from(fine).float())

    def filters(
        self,
        grid: Grid,
        told: Told,
        frame: Int[Tensor, " R"],
        cell: Int[Tensor, " R"],
        before: Float[Tensor, "F K P"] | None = None,
        change: Float[Tensor, "F C P"] | None = None,
    ) -> Float[Tensor, "R K"]:
        """Theta^ of the paper, of some cells of any of the frames.

        Args:
            before: filters of the reference frames; without them the filters are those that the frames told.
            change: features of the frames less those of the reference frames.
        """
        own = told.filters[frame, :, cell]
        if self.propagation is None or before is None or change is None:
            return own
        return self.propagation(grid, own, before, change, frame, cell)

    def masks(
        self, grid: Grid, told: Told, filters: Float[Tensor, "R K"], frame: Int[Tensor, " R"], cell: Int[Tensor, " R"]
    ) -> Float[Tensor, "R _ _"]:
        """Eq. (4): mask logits of instances, twice as fine as the finest level. Ours: coordinates are told in the size
        of the objects of a level, as in CondInst."""
        level, _ = grid.places(cell.device)
        sides = torch.tensor([*self.config.level_px, 2 * self.config.level_px[-1]], device=cell.device)
        centres = grid.centres_px(cell.device)

        def drawn(filters: Tensor, frame: Tensor, cell: Tensor) -> tuple[Tensor]:
            own = told.masks[frame]
            return (dynamic_masks(own, filters, centres[cell], grid.strides[0], sides[level[cell]]),)

        return in_chunks(drawn, MASKS_AT_ONCE, filters, frame, cell)[0]

    def along(self, head: nn.Module, grid: Grid, features: Float[Tensor, "F C P"]) -> Float[Tensor, "F _ P"]:
        """What a head says of all levels."""
        return grid.row([head(each).float() for each in grid.maps(features)])


class Head(nn.Module):
    """3x3 convolutions with norm and ReLU, and a 1x1 convolution."""

    def __init__(self, channels: int, outputs: int, convs: int, groups: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convs - 1):
            layers += [_conv(channels, channels, 3)]
            layers += [nn.GroupNorm(groups, channels)] if groups else []
            layers += [nn.ReLU(inplace=True)]
        self.layers: Sequence[nn.Module] = nn.Sequential(*layers, _conv(channels, outputs, 1))  # type: ignore[assignment]

    def forward(self, x: Float[Tensor, "F C _ _"]) -> Float[Tensor, "F _ _ _"]:
        for layer in self.layers:
            x = layer(x)
        return x


def _conv(channels: int, outputs: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
