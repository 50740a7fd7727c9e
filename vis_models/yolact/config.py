"""What can be chosen about YOLACT; without torch, as recipes are made of it. Source: as `model.py`."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from vis_models.config import FinderConfig
from vis_models.layers.backbone_config import ResNetConfig


class YolactConfig(FinderConfig):
    """YOLACT; defaults are RGNN's variant at 480x864 (its released code), sizes can shrink for CPUs."""

    num_classes: PositiveInt = 40
    """Foreground classes."""
    image_size: tuple[PositiveInt, PositiveInt] = (480, 864)
    """(height, width) in pixels that every frame is resized to; the aspect is not kept."""
    backbone: ResNetConfig = ResNetConfig()
    channels: PositiveInt = 256
    """Channels of the pyramid and the head."""
    prototypes: PositiveInt = 32
    prototype_channels: PositiveInt = 256
    """Channels inside the prototype net."""
    prototype_upsamples: PositiveInt = 1
    """Doublings of P3's resolution in the prototype net: 1 gives a quarter of the image, 2 a half."""
    prior_scales: tuple[tuple[PositiveFloat, ...], ...] = ((24.0,), (48.0,), (96.0,), (192.0,), (384.0,))
    """Scales of the priors of each pyramid level; as many levels as entries."""
    prior_ratios: tuple[PositiveFloat, ...] = (1.0, 0.5, 2.0)
    prior_aspect: PositiveFloat = 1.8
    """Width over height of the image: the ratios are divided by it, so that ratio 1 is a square in pixels."""
    prior_denominator: PositiveFloat = 500.0
    """A scale divided by this is a fraction of the image."""
    square_priors: bool = False
    """Height := width as fractions, a bug of the published YOLACT weights that they depend on."""
    clip_to_last_pixel: bool = False
    """Boxes that enter a tracker end at (width - 1, height - 1) instead of the edge of the image; as RGNN's release."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of backbone channels dropped in training; 0.1 in RGNN, none in YOLACT."""
    negatives_per_positive: PositiveInt = 3
    positive_iou: float = Field(0.5, ge=0, le=1)
    negative_iou: float = Field(0.4, ge=0, le=1)
    crowd_iou: float = Field(0.7, ge=0, le=1)
    masks_per_image: PositiveInt = 100
    """Positives of an image that train the masks, drawn at random."""
    soft_masks: bool = False
    """Train masks towards the share of each cell that the object covers instead of 0 or 1 (the authors' code, whose
    threshold shrinks small objects: at two pixels a cell an outline is half a pixel inside)."""
    class_weight: PositiveFloat = 1.0
    box_weight: PositiveFloat = 1.5
    mask_weight: PositiveFloat = 6.125
    semantic_weight: PositiveFloat = 1.0

    unseen: ClassVar[tuple[str, ...]] = (
        "dropout", "negatives_per_positive", "positive_iou", "negative_iou", "crowd_iou", "masks_per_image",
        "soft_masks", "class_weight", "box_weight", "mask_weight", "semantic_weight",
    )  # fmt: skip

    @classmethod
    def released(cls, depth: Literal[50, 101] = 50) -> "YolactConfig":
        """The authors' models of COCO's 80 classes at 550x550: what their published weights run with unchanged."""
        return cls(
            num_classes=80,
            image_size=(550, 550),
            backbone=ResNetConfig(depth=depth),
            prior_aspect=1.0,
            prior_denominator=550.0,
            square_priors=True,
        )


class YolactDetectorConfig(YolactConfig):
    """YOLACT as what a tracker looks through: the boxes that it hands on, as RGNN takes them."""

    name: Literal["yolact"] = "yolact"
    detections: PositiveInt = 16
    """N: of a frame, at most."""
    min_score: float = Field(0.03, ge=0, le=1)
    """Least probability of the best class."""
    nms_iou: float = Field(0.7, ge=0, le=1)

    unseen: ClassVar[tuple[str, ...]] = (*YolactConfig.unseen, "name", "detections", "min_score", "nms_iou")
