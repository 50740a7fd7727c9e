"""What can be chosen about IDOL; without torch, as recipes are made of it. Source: as `idol/__init__.py`."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from vis_models.config import FramesConfig, ModelConfig
from vis_models.layers.backbone_config import BackboneConfig, ResNetConfig, SwinConfig

BACKBONES: dict[str, ResNetConfig | SwinConfig] = {
    "r50": ResNetConfig(),
    "r101": ResNetConfig(depth=101),
    "swin_l": SwinConfig(),
}
"""With which there are published weights."""


class IdolConfig(FramesConfig, ModelConfig):
    """IDOL; defaults are the paper's settings, on ResNet-50."""

    num_classes: PositiveInt = 40
    """Foreground classes; there is no background, every class is a yes or no of its own."""
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

    # ---- training (3.1, 3.2)
    class_weight: float = Field(2.0, ge=0)
    """Of the focal loss of classes, as the next four of the released code's."""
    l1_weight: float = Field(5.0, ge=0)
    giou_weight: float = Field(2.0, ge=0)
    mask_weight: float = Field(2.0, ge=0)
    dice_weight: float = Field(5.0, ge=0)
    embed_weight: float = Field(1.0, ge=0)
    """Of what embeddings learn: lambda 2 of Eq. (2), 2 in the released code."""
    cosine_weight: float = Field(0.0, ge=0)
    """Of the auxiliary loss of the released code (3 there), of which the paper says nothing."""
    embed_loss: Literal["contrastive", "id"] = "contrastive"
    """What embeddings learn: to differ between objects of two frames, Eq. (4), or which of all objects of the training
    set theirs is (Table 6, "ID head")."""
    identities: PositiveInt = 4096
    """Classes of that head; where the training set has more objects, some share one."""
    select: Literal["ot", "iou"] = "ot"
    """What chooses positive and negative embeddings: the least cost (A.2), or overlap alone."""
    positive_iou: float = Field(0.7, ge=0, le=1)
    """Of embeddings chosen by overlap, as `negative_iou`."""
    negative_iou: float = Field(0.3, ge=0, le=1)
    learn_reference: bool = False
    """The reference frame is learned from as the key frame is, which costs little more."""

    # ---- inference (3.3)
    min_score: float = Field(0.1, ge=0, le=1)
    """Of a detection; where no query has it the best one is taken."""
    nms_iou: float = Field(0.9, ge=0, le=1)
    """A detection whose box overlaps that of a better one of its class by more is dropped,"""
    mask_nms_iou: float = Field(0.5, ge=0, le=1)
    """or whose mask overlaps that of a better one of any class by more."""
    detections: PositiveInt = 100
    """Most of a frame."""
    match: Literal["embedding", "multicue"] = "embedding"
    """By embeddings alone, Eq. (6), or with class, box and score as in MaskTrack R-CNN (Table 6)."""
    match_score: float = Field(0.5, ge=0, le=1)
    """A detection continues a track to which it is more alike, Eq. (7)."""
    temporal: bool = True
    """A track is compared by its last `memory` embeddings and by how long it has been seen; else by its last one."""
    temporal_weight: Literal["released", "paper"] = "released"
    """How these are weighed: as the code does, or as Eq. (5) and (6) say."""
    memory: PositiveInt = 3
    """T of Eq. (5)."""
    tau: float = Field(0.5, ge=0)
    """Of Eq. (5)."""
    new_score: float = Field(0.2, ge=0, le=1)
    """From which a detection that continues nothing begins a track."""
    keep_frames: PositiveInt = 10
    """Frames from the last sighting until a track ends."""
    least_sightings: NonNegativeInt = 3
    """A track that has fewer, and is missing from the last two frames, was none: from frame `settled_frames` on."""
    settled_frames: PositiveInt = 9
    class_score: float = Field(0.05, ge=0, le=1)
    """A track is told as every class whose mean score is higher."""
    tracks: PositiveInt = 64
    """Most that a video can hold at a time."""
    slot_recycling: bool = False
    """A birth without a free slot takes that of the track that is longest out of sight."""

    parts: ClassVar[tuple[str, ...]] = ("detector", "whole")
    network_fields: ClassVar[tuple[str, ...]] = (
        "num_classes", "backbone", "queries", "channels", "heads", "points", "levels", "encoder_layers",
        "decoder_layers", "hidden", "norm_groups",
    )  # fmt: skip
    trained_anew: ClassVar[tuple[str, ...]] = ("embed_loss", "select")

    @classmethod
    def paper(cls, backbone: Literal["r50", "r101", "swin_l"] = "r50") -> "IdolConfig":
        """As described: frames of 360 pixels, Eq. (2), (5) and (6)."""
        return cls(backbone=BACKBONES[backbone], temporal_weight="paper")

    @classmethod
    def released(
        cls, backbone: Literal["r50", "r101", "swin_l"] = "r50", data: Literal["ytvis", "ovis"] = "ytvis"
    ) -> "IdolConfig":
        """What the published weights of the authors' code run with."""
        shorter, classes = {"ytvis": (480, 40), "ovis": (720, 25)}[data]
        crowded = {"mask_nms_iou": 0.3, "new_score": 0.3} if data == "ovis" else {}
        return cls(
            backbone=BACKBONES[backbone], num_classes=classes, shorter_px=shorter, longer_most_px=1333,
            padding="joint", embed_weight=2.0, cosine_weight=3.0, **crowded,
        )  # fmt: skip

    @property
    def mask_stride(self) -> int:
        """Pixels of the input along a side of a cell of the network's masks."""
        return self.backbone.stride // 2

    @model_validator(mode="after")
    def _channels_can_be_divided(self) -> "IdolConfig":
        for name, parts in (("heads", self.heads), ("norm_groups", self.norm_groups), ("sines of positions", 4)):
            if self.channels % parts:
                raise ValueError(f"channels {self.channels} cannot be divided by {name} {parts}: choose a multiple")
        return self
