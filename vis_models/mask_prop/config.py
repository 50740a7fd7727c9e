"""What can be chosen about MaskProp; without torch, as recipes are made of it. Source: as `model.py`."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vis_models.config import Config, ModelConfig
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.mask_rcnn.config import MaskRcnnConfig, MaskRcnnDetectorConfig


class RefinementConfig(Config):
    """Finer masks of single frames, section 4.4."""

    side_px: PositiveInt = 384
    """Of the square around a box that is looked at again."""
    margin: float = Field(0.25, ge=0)
    """By which the square exceeds the longer side of the box, as a share of it. Ours: the paper is silent."""
    channels: PositiveInt = 128
    blocks: PositiveInt = 3
    lessons: PositiveInt = 32
    """Detections of a batch that it learns from, at most: each is a picture of its own. Ours: the paper is silent."""
    match_iou: float = Field(0.5, ge=0, le=1)
    """Of its box with an object's, from which a detection learns that object's mask. Ours: the paper is silent."""


class MaskPropConfig(ModelConfig):
    """MaskProp; defaults are the paper's settings, over Mask R-CNN on ResNet-50 (AP 40.0 in its Table 4)."""

    detector: MaskRcnnConfig = MaskRcnnConfig(proposals_per_level=1000, proposals=1000, min_score=0.1, detections=20)
    reach: PositiveInt = 6
    """T: a clip is a frame with so many before it and after it. An answer comes so many frames late."""
    level: NonNegativeInt = 1
    """Of the detector's pyramid, from the finest: the map on which masks are carried."""
    offset_channels: PositiveInt = 128
    """Of the residual block that looks for motion."""
    dilations: tuple[PositiveInt, ...] = Field((3, 6, 12), min_length=1)
    """Of the deformable convolutions, one beside the other."""
    overlay: Literal["linear", "rectified"] = "linear"
    """How the features that a mask brings meet those of the frame that they are brought to. `linear`: they are added,
    as the text has it; but nothing that follows bends, so what is added is the same for every object, and the softmax
    does not see it. `rectified`: a ReLU after the sum, so that those that agree reinforce each other. Ours."""
    carried: PositiveInt | None = None
    """Channels of the features that a mask brings; None: as many as the pyramid has (paper: 256)."""
    nobody: bool = False
    """One more takes part in the softmax over the objects, whose logit is learned. Without it a lone object has every
    pixel that the attention leaves. Ours."""
    attention: bool = True
    """Shares of the softmax are multiplied by a map that says where any object is. False: `nobody` alone says that."""
    duplicate_iou: float = Field(0.7, ge=0, le=1)
    """A detection whose mask overlaps that of a better one by more, of whatever class, is dropped: two of one object
    would halve each other's share in the softmax. Ours: the paper is silent."""
    link_iou: float = Field(0.5, ge=0, le=1)
    """Above this q* of section 4.3 an object of a clip goes on with a track. Ours: the paper says "a threshold"."""
    true_masks: float = Field(0.5, ge=0, le=1)
    """In training, the share of clips whose true masks are carried, not those of the mask head. Ours: as before."""
    propagation_weight: PositiveFloat = 1.0
    """Of its loss."""
    learn_reference: bool = False
    """The second frame of a pair learns as the first does, and its masks are carried to the first: twice the lessons
    for the same cost of the backbone. Ours."""
    refinement: RefinementConfig | None = RefinementConfig()
    """None: masks are those of the mask head."""

    parts: ClassVar[tuple[str, ...]] = ("detector", "whole", "refinement")
    encoded_by: ClassVar[tuple[str, ...]] = ("refinement", "duplicate_iou")
    network_fields: ClassVar[tuple[str, ...]] = ("level", "dilations", "overlay", "carried", "nobody", "attention")
    trained_anew: ClassVar[tuple[str, ...]] = ("attention",)

    @classmethod
    def paper(cls, depth: Literal[50, 101] = 50) -> "MaskPropConfig":
        """As described, on a plain residual network."""
        detector = cls.model_fields["detector"].default
        return cls(detector=detector.model_copy(update={"backbone": ResNetConfig(depth=depth)}))

    @property
    def trained_parts(self) -> tuple[str, ...]:
        return self.parts if self.refinement else self.parts[:-1]

    @property
    def clip_length(self) -> int:
        return 2 * self.reach + 1

    @property
    def as_detector(self) -> MaskRcnnDetectorConfig:
        """The detector that another tracker can take."""
        return MaskRcnnDetectorConfig.model_validate(self.detector.model_dump())

    @model_validator(mode="after")
    def _somebody_says_where_nothing_is(self) -> "MaskPropConfig":
        if not self.attention and not self.nobody:
            raise ValueError(
                "without attention a lone object would have every pixel: set nobody to true, or keep attention"
            )
        return self

    @model_validator(mode="after")
    def _carries_on_a_map_that_is_there(self) -> "MaskPropConfig":
        levels = 6 - self.detector.finest
        if self.level >= levels:
            raise ValueError(
                f"level {self.level} of the pyramid is not there: it has {levels} maps of the backbone, counted from "
                "0, and what is beyond them is for anchors alone"
            )
        return self
