"""What can be chosen about RGNN; without torch, as recipes are made of it.

Source: as `model.py`.
"""

from math import exp
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vis_models.config import ModelConfig
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.yolact.config import YolactConfig, YolactDetectorConfig


class RgnnConfig(ModelConfig):
    """RGNN; defaults are the paper's settings."""

    detector: YolactConfig = YolactConfig()
    detections: PositiveInt = 16
    """N: detections of a frame that enter the graph."""
    tracks: PositiveInt = 24
    """M: tracks that a video can hold."""
    embedding: PositiveInt = 128
    """D: channels of every node and edge."""
    bottleneck: PositiveInt = 32
    """Inner width of gates and residual blocks."""
    bottleneck_layers: Literal[2, 3] = 3
    """Linears of a residual block of the graph: 3 in the paper (Table 3), 2 as released."""
    gnn: Literal["full", "limited"] = "full"
    """limited: an edge sees its own similarity alone and a track only its best detection (Table 1)."""
    gnn_blocks: PositiveInt = 2
    gnn_residual: bool = True
    """A residual stage after each block."""
    node_update: Literal["gated", "mlp"] = "gated"
    """mlp: no gates on messages, a second layer in each function of the graph (Table 4)."""
    association: Literal["gnn", "masktrack"] = "gnn"
    """masktrack: the rule of MaskTrack R-CNN decides which track a detection continues (Table 1)."""
    gating: Literal["lstm", "simple", "none"] = "lstm"
    """What stands between the graph and a track's memory: eq. (2), one gate without a cell, nothing (Table 1)."""
    scoring: Literal["learned", "majority", "detector_mean"] = "learned"
    """Where class and score of a track come from: its embedding, or its detections' votes or mean (Table 1)."""
    appearance: Literal["gaussian", "constant_variance", "lstm", "embedding", "none"] = "gaussian"
    """What a track remembers of its look: eq. (4), the same with a fixed variance, what two LSTMs say, whatever its
    embedding keeps, nothing (Table 1)."""
    mask_pooling: Literal["softmax", "sigmoid"] = "softmax"
    """How detections share the features under them: they compete for each pixel, or each takes what its mask covers
    (an alternative in the authors' code)."""
    appearance_channels: PositiveInt = 512
    """A: channels of an appearance, half of them from C4, half from C5."""
    initial_variance_logit: float = -7.0
    """softplus of it is the variance of a new track's appearance; published weights bring their own, by channel."""
    variance_cross_term: Literal["paper", "released", "exact"] = "paper"
    """Weight of the squared surprise in the variance update: k(1-v)/(k+v), kv/(k+v) or v(1-k)."""
    birth_appearance: Literal["paper", "released"] = "paper"
    """paper: a new track takes the detection's appearance; released: it is updated towards it from zero."""
    inactive_box: Literal["zero", "last"] = "zero"
    """The box with which a track without detection is compared: none, or where it was last."""
    duplicate_target: Literal["class", "background"] = "class"
    """What the score of a second track on one object is trained to: the object's class, or background."""
    min_score: float = Field(0.03, ge=0, le=1)
    """Detections below never enter the graph."""
    nms_iou: float = Field(0.7, ge=0, le=1)
    init_train_logit: float = -1.0
    """Logit above which a detection starts a track; the paper's 0.31 and 0.13 are softplus of these."""
    init_test_logit: float = -2.0
    keep_active_logit: float = -1.0
    """Logit from which a track takes its best detection."""
    slot_recycling: bool = False
    """A birth without a free slot takes that of the least likely track out of sight. For long videos."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of backbone channels dropped before the appearance in stage 2."""
    frame_weights: tuple[PositiveFloat, ...] = tuple(round(0.285 * 0.8**k, 6) for k in range(10, 0, -1))
    """Weight of each frame of a clip in the score loss; a shorter clip takes the last ones."""
    match_weight: PositiveFloat = 4.0
    loss_frames: PositiveInt | None = None
    """Frames of a clip, drawn anew each time, that the segmentation loss looks at; None: all, as in the paper."""
    loss_stride: PositiveInt = 1
    """The segmentation loss looks at every so-manyth row and column of the input; 1 as in the paper."""

    @classmethod
    def released(cls, depth: Literal[50, 101] = 50) -> "RgnnConfig":
        """The authors' released code where it leaves the paper: what their published weights run with unchanged."""
        return cls(
            detector=YolactConfig(backbone=ResNetConfig(depth=depth), clip_to_last_pixel=True),
            bottleneck_layers=2,
            variance_cross_term="released",
            birth_appearance="released",
            min_score=exp(-3.5),
            init_train_logit=-2.0,
            keep_active_logit=-2.0,
            dropout=0.0,
        )

    parts: ClassVar[tuple[str, ...]] = ("detector", "whole")
    network_fields: ClassVar[tuple[str, ...]] = (
        "embedding", "bottleneck", "bottleneck_layers", "gnn", "gnn_blocks", "gnn_residual", "node_update",
        "association", "gating", "scoring", "appearance", "mask_pooling", "appearance_channels", "variance_cross_term",
        "birth_appearance", "inactive_box",
    )  # fmt: skip
    """Which graph network this is; thresholds and what only the loss reads are none."""
    trained_anew: ClassVar[tuple[str, ...]] = ("detector.",)

    @property
    def as_detector(self) -> YolactDetectorConfig:
        """The detector that a tracker of rules can take: it finds what enters the graph."""
        own = {"detections": self.detections, "min_score": self.min_score, "nms_iou": self.nms_iou}
        return YolactDetectorConfig.model_validate(self.detector.model_dump() | own)

    def require_trainable(self) -> None:
        if self.tracks < self.detections:
            raise ValueError(
                f"config.tracks is {self.tracks}, config.detections {self.detections}: in training every detection of "
                "a frame may start a track, expected at least as many slots"
            )

    @property
    def encoding(self) -> dict[str, Any]:
        """Every field that decides what `Rgnn.encode_clips` returns, besides the weights."""
        names = {"detector", "detections", "min_score", "nms_iou", "mask_pooling", "loss_stride"}
        return self.model_dump(mode="json", include=names)

    @property
    def has_gaussian(self) -> bool:
        """Whether tracks have a Gaussian over appearances with which detections are compared."""
        return self.appearance in ("gaussian", "constant_variance", "lstm")

    @model_validator(mode="after")
    def _fits_together(self) -> "RgnnConfig":
        if not self.has_gaussian and (self.association == "masktrack" or self.gnn == "limited"):
            raise ValueError(
                f"appearance={self.appearance!r} leaves nothing to compare, which association='masktrack' and "
                "gnn='limited' live on: change one switch at a time"
            )
        if self.association == "masktrack" and self.gnn == "limited":
            raise ValueError("association='masktrack' and gnn='limited' both replace the graph's decisions: choose one")
        return self
