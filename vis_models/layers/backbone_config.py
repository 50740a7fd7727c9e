"""What can be chosen about a backbone; without torch, as recipes are made of it."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

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


class SwinConfig(Config):
    """Size of a Swin transformer; defaults are Swin-L as IDOL uses it, pre-trained at 384."""

    name: Literal["swin"] = "swin"
    width: PositiveInt = 192
    """Channels of the first stage, doubled by each later one: 96 in Swin-T and -S, 128 in -B."""
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 18, 2)
    heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (6, 12, 24, 48)
    """Of each stage; they divide its channels."""
    window: PositiveInt = 12
    """Side in cells within which cells look at each other: 7 pre-trained at 224."""
    drop_path: float = Field(0.3, ge=0, lt=1)
    """Chance in training that the last block is left out; that of earlier ones rises to it from 0."""

    @property
    def stride(self) -> int:
        """Of C3, the first map that comes out."""
        return 8

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> "SwinConfig":
        for stage, heads in enumerate(self.heads):
            if (channels := self.width * 2**stage) % heads:
                raise ValueError(
                    f"stage {stage} has {channels} channels and {heads} heads: choose heads that divide them"
                )
        return self


def _kind(given: Any) -> str:
    name = given.get("name") if isinstance(given, dict) else getattr(given, "name", None)
    return "swin" if name == "swin" else "resnet"


BackboneConfig = Annotated[
    Annotated[ResNetConfig, Tag("resnet")] | Annotated[SwinConfig, Tag("swin")], Discriminator(_kind)
]
"""A residual network says no name, as it had none when it was the only one."""
