"""What can be chosen about Mask R-CNN; without torch, as recipes are made of it. Source: as `model.py`."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vis_models.config import FinderConfig, FramesConfig
from vis_models.layers.backbone_config import ResNetConfig


class MaskRcnnConfig(FramesConfig, FinderConfig):
    """Mask R-CNN; defaults are the detector of MaskTrack R-CNN as its paper describes it, on ResNet-50."""

    backbone: ResNetConfig = ResNetConfig()
    finest: Literal[2, 3] = 2
    """The pyramid begins with this map of the backbone."""
    channels: PositiveInt = 256
    """Of the pyramid and of the heads' convolutions."""
    extra_levels: NonNegativeInt = 1
    """Of the pyramid, for anchors alone."""
    norms: bool = False
    """Batch norms in the pyramid and the heads (torchvision's v2)."""
    norm_eps: float = Field(1e-5, ge=0)
    """Of the backbone's batch norms; torchvision's v1 runs with 0."""
    region_convs: PositiveInt = 1
    anchor_px: tuple[PositiveFloat, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side of the square anchor of each level."""
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    round_anchors: bool = True
    """To whole pixels; mmtracking does not."""
    proposals_per_level: PositiveInt = 200
    proposals: PositiveInt = 200
    """Of all levels."""
    proposal_nms_iou: float = Field(0.7, ge=0, le=1)
    alignment: Literal["legacy", "aligned", "plus_one"] = "aligned"
    """Where a box begins and ends on a map (`layers/roi_align.py`)."""
    samples: PositiveInt | None = 2
    """Of a cell of RoIAlign along a side; None: as many as it has pixels."""
    plus_one: bool = False
    """A box holds its last pixel: in anchors, box coding and suppression."""
    unit_px: PositiveFloat = 56.0
    """Boxes of up to twice this side are taken from the finest level, up to twice as much from the next."""
    box_head: Literal["linear", "convolutional"] = "linear"
    box_width: PositiveInt = 1024
    mask_convs: PositiveInt = 4
    pasting: Literal["exact", "whole_pixels"] = "exact"
    """How a mask is put into its box (`layers/paste_masks.py`)."""
    min_score: float = Field(0.05, ge=0, le=1)
    nms_iou: float = Field(0.5, ge=0, le=1)
    """A detection that overlaps a better one of its class by more is dropped."""
    detections: PositiveInt = 10
    """Most of a frame."""
    frozen_stages: NonNegativeInt = Field(1, le=4)
    """Stages of the backbone after its stem that are not trained; the stem is trained with none frozen."""
    region_positive_iou: float = Field(0.7, ge=0, le=1)
    region_negative_iou: float = Field(0.3, ge=0, le=1)
    region_samples: PositiveInt = 64
    """Anchors of an image that are trained."""
    region_positive_share: float = Field(0.5, ge=0, le=1)
    positive_iou: float = Field(0.5, ge=0, le=1)
    """With an object, from which a proposal is trained as that object."""
    box_samples: PositiveInt = 128
    """Proposals of an image that are trained."""
    positive_share: float = Field(0.25, ge=0, le=1)
    region_beta: PositiveFloat = 1 / 9
    """Where smooth L1 turns from square to linear."""
    box_beta: PositiveFloat = 1 / 9
    class_weight: PositiveFloat = 1.0
    """Of the classes' loss."""

    unseen: ClassVar[tuple[str, ...]] = (
        "frozen_stages", "region_positive_iou", "region_negative_iou", "region_samples", "region_positive_share",
        "positive_iou", "box_samples", "positive_share", "region_beta", "box_beta", "class_weight",
    )  # fmt: skip

    @classmethod
    def torchvision(cls, version: Literal[1, 2]) -> "MaskRcnnConfig":
        """`maskrcnn_resnet50_fpn` and `_v2`, of COCO's 91 numbers with 11 gaps: what the published weights run with."""
        common = {"num_classes": 90, "shorter_px": 800, "longer_most_px": 1333, "alignment": "legacy",
                  "proposals_per_level": 1000, "proposals": 1000, "detections": 100}  # fmt: skip
        common |= {"region_samples": 256, "box_samples": 512, "pasting": "whole_pixels"}
        if version == 1:
            return cls.model_validate(common | {"norm_eps": 0.0})
        return cls.model_validate(common | {"norms": True, "region_convs": 2, "box_head": "convolutional"})

    @classmethod
    def detectron2(cls) -> "MaskRcnnConfig":
        """`mask_rcnn_R_50_FPN_3x` and its relatives in detectron2's model zoo, whose ResNets stand on weights of Caffe:
        colours are centred, not scaled, and the first convolution of a block has the stride."""
        return cls(
            num_classes=80, shorter_px=800, longer_most_px=1333, std_rgb=(1.0, 1.0, 1.0),
            backbone=ResNetConfig(stride_first=True), round_anchors=False, samples=None, proposals_per_level=1000,
            proposals=1000, detections=100, region_samples=256, box_samples=512,
        )  # fmt: skip

    @model_validator(mode="after")
    def _anchors_of_each_level(self) -> "MaskRcnnConfig":
        levels = 6 - self.finest + self.extra_levels
        if len(self.anchor_px) != levels:
            raise ValueError(
                f"anchor_px has {len(self.anchor_px)} sides, the pyramid {levels} levels (from C{self.finest}, and "
                f"{self.extra_levels} extra): expected one for each"
            )
        return self


class MaskRcnnDetectorConfig(MaskRcnnConfig):
    """Mask R-CNN as what a tracker looks through."""

    name: Literal["mask_rcnn"] = "mask_rcnn"

    unseen: ClassVar[tuple[str, ...]] = (*MaskRcnnConfig.unseen, "name")
