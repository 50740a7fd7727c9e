"""What can be chosen about a backbone; without torch, as recipes are made of it."""

from typing import Literal

from pydantic import PositiveInt

from vis_models.config import Config


class ResNetConfig(Config):
    """Depth and size of a residual network."""

    depth: Literal[18, 34, 50, 101] = 50
    """18 and 34 are made of basic blocks, 50 and 101 of bottlenecks."""
    width: PositiveInt = 64
    """Channels of the stem; 64 as published. Smaller nets for CPUs keep the layout."""
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    """Residual blocks of each stage; None: as published for the depth."""
    stem_pool: bool = True
    """Max-pool after the first convolution; without it every stride is halved, for small objects in small frames."""
    groups: PositiveInt = 1
    """Of the 3x3 convolutions of bottlenecks; 32 or 64 in ResNeXt (Xie et al., CVPR 2017)."""
    group_width: PositiveInt = 64
    """Channels of a group in the first stage, of a net of `width` 64: 4 in ResNeXt-101 32x4d and 64x4d."""
    stride_first: bool = False
    """A bottleneck's first convolution has the stride (He et al., CVPR 2016, and detectron2's own weights), not its
    second as in torchvision's."""

    @property
    def stride(self) -> int:
        """Of C3, the first map that comes out."""
        return 8 if self.stem_pool else 4
