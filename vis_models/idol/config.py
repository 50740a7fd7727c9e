"""What can be chosen about IDOL; without torch, as recipes are made of it. Source: as `idol/__init__.py`."""

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vis_models.config import ModelConfig
from vis_models.layers.backbone_config import BackboneConfig, ResNetConfig, SwinConfig

BACKBONES: dict[str, ResNetConfig | SwinConfig] = {
    "r50": ResNetConfig(),
    "r101": ResNetConfig(depth=101),
    "swin_l": SwinConfig(),
}
"""With which there are published weights."""
NETWORK_FIELDS = (
    "num_classes", "backbone", "queries", "channels", "heads", "points", "levels", "encoder_layers", "decoder_layers",
    "hidden", "norm_groups",
)  # fmt: skip
"""Fields of `IdolConfig` under which alone weights mean what they were trained for."""


class IdolConfig(ModelConfig):
    """IDOL; defaults are the paper's settings, on ResNet-50."""

    num_classes: PositiveInt = 40
    """Foreground classes; there is no background, every class is a yes or no of its own."""
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) in pixels that every frame is resized to, the aspect not kept; None keeps it."""
    shorter_px: PositiveInt = 360
    """Of the frame's sides, where the aspect is kept."""
    longer_most_px: PositiveInt = 640
    """What the longer side may become; the shorter one is smaller then."""
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std_rgb: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    backbone: BackboneConfig = ResNetConfig()
    queries: PositiveInt = 300
    """Most objects of a frame."""
    channels: PositiveInt = 256
    """Of a query, of every level that is attended to, and of an embedding."""
    heads: PositiveInt = 8
    """Of every attention; they divide the channels."""
    points: PositiveInt = 4
    """That a head of a query reads of each level."""
    levels: int = Field(4, ge=3)
    """The backbone's three maps, and each further one half as large as the last."""
    encoder_layers: PositiveInt = 6
    decoder_layers: PositiveInt = 6
    hidden: PositiveInt = 1024
    """Channels between the two linear layers of each feed-forward part."""
    norm_groups: PositiveInt = 32
    """Of the group norms after the projections to `channels`, which they divide."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """In training, after every attention and within every feed-forward part."""
    padding: Literal["own", "joint"] = "own"
    """What a picture in a batch of several sizes is padded to: its own multiples of 32 pixels, so that it is answered
    as it is alone, size by size; or those of the largest, as in the authors' training, whose convolutions and norms
    see the padding."""
    frozen_stages: NonNegativeInt = Field(1, le=4)
    """Stages of the backbone after its stem that are not trained; the stem is trained with none frozen."""

    parts: ClassVar[tuple[str, ...]] = ("whole",)

    @classmethod
    def paper(cls, backbone: Literal["r50", "r101", "swin_l"] = "r50") -> "IdolConfig":
        """As described: frames of 360 pixels."""
        return cls(backbone=BACKBONES[backbone])

    @classmethod
    def released(
        cls, backbone: Literal["r50", "r101", "swin_l"] = "r50", data: Literal["ytvis", "ovis"] = "ytvis"
    ) -> "IdolConfig":
        """What the published weights of the authors' code run with."""
        shorter, classes = {"ytvis": (480, 40), "ovis": (720, 25)}[data]
        return cls(
            backbone=BACKBONES[backbone],
            num_classes=classes,
            shorter_px=shorter,
            longer_most_px=1333,
            padding="joint",
        )

    @property
    def classes(self) -> int:
        return self.num_classes

    def with_classes(self, count: int) -> "IdolConfig":
        return self.model_copy(update={"num_classes": count})

    @property
    def frame_px(self) -> tuple[int, int] | None:
        return self.image_size

    @property
    def switches(self) -> dict[str, Any]:
        """Every field under which alone weights mean what they were trained for."""
        return self.model_dump(mode="json", include=set(NETWORK_FIELDS), exclude={"backbone": {"drop_path"}})

    @property
    def seen(self) -> dict[str, Any]:
        """The same: what decides which objects are found."""
        return self.switches

    @model_validator(mode="after")
    def _channels_can_be_divided(self) -> "IdolConfig":
        for name, parts in (("heads", self.heads), ("norm_groups", self.norm_groups), ("sines of positions", 4)):
            if self.channels % parts:
                raise ValueError(f"channels {self.channels} cannot be divided by {name} {parts}: choose a multiple")
        return self
