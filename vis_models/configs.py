"""What can be chosen about models and their training clips: typed, checked, and without torch.

A recipe is made of these, so that one which cannot work is refused in the second in which it is typed. What a field
does stands in the file that bears the model's name.
"""

from dataclasses import dataclass, field
from math import exp
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vis_models.config import Config, ModelConfig


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

    @property
    def stride(self) -> int:
        """Of C3, the first map that comes out."""
        return 8 if self.stem_pool else 4


LOSS_FIELDS = (
    "dropout", "negatives_per_positive", "positive_iou", "negative_iou", "crowd_iou", "masks_per_image", "soft_masks",
    "class_weight", "box_weight", "mask_weight", "semantic_weight",
)  # fmt: skip
"""Fields of `YolactConfig` that only training reads."""


class YolactConfig(Config):
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

    @property
    def seen(self) -> dict[str, Any]:
        """Every field that decides what a trained detector says; the others are read by the loss alone."""
        return self.model_dump(mode="json", exclude=set(LOSS_FIELDS))

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


SWITCHES = (
    "embedding", "bottleneck", "bottleneck_layers", "gnn", "gnn_blocks", "gnn_residual", "node_update", "association",
    "gating", "scoring", "appearance", "mask_pooling", "appearance_channels", "variance_cross_term", "birth_appearance",
    "inactive_box",
)  # fmt: skip
"""Fields of `RgnnConfig` under which alone weights mean what they were trained for."""


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

    @property
    def classes(self) -> int:
        return self.detector.num_classes

    def with_classes(self, count: int) -> "RgnnConfig":
        return self.model_copy(update={"detector": self.detector.model_copy(update={"num_classes": count})})

    @property
    def frame_px(self) -> tuple[int, int]:
        return self.detector.image_size

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
    def switches(self) -> dict[str, Any]:
        """Every field that decides which graph network this is; thresholds and what only the loss reads are none."""
        return self.model_dump(mode="json", include=set(SWITCHES))

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


@dataclass(frozen=True)
class Row:
    """One line of a table of the paper."""

    table: int
    title: str
    """As printed."""
    published_ap: float | None
    """On the validation server of YouTube-VIS 2019, in percent; None where training diverged."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of `RgnnConfig` by dotted path; everything else is the proposed approach."""


ROWS = {
    "proposed": Row(1, "Proposed approach", 35.3),
    "limited": Row(1, "Limited GNN", 28.6, {"gnn": "limited"}),
    "masktrack": Row(1, "Association from [31]", 29.2, {"association": "masktrack"}),
    "no_appearance": Row(1, "No appearance", 34.5, {"appearance": "none"}),
    "constant_variance": Row(1, "Appearance const. variance", 33.0, {"appearance": "constant_variance"}),
    "appearance_lstm": Row(1, "Appearance update with LSTM", 34.0, {"appearance": "lstm"}),
    "appearance_embedding": Row(1, "Appearance baked into embedding", 34.4, {"appearance": "embedding"}),
    "majority": Row(1, "Scoring from [31]", 31.5, {"scoring": "majority"}),
    "detector_mean": Row(1, "Scoring via yolact average", 30.7, {"scoring": "detector_mean"}),
    "no_gating": Row(1, "No LSTM-like gating", None, {"gating": "none"}),
    "simple": Row(1, "Simple gate", 31.5, {"gating": "simple"}),
    "resnet101": Row(1, "ResNet101", 37.7, {"detector.backbone.depth": 101}),
    "mlp_updates": Row(4, "MLP Node Updates", 34.1, {"node_update": "mlp"}),
    "one_block": Row(4, "1 GNN Block", 32.4, {"gnn_blocks": 1}),
    "three_blocks": Row(4, "3 GNN Blocks", 35.2, {"gnn_blocks": 3}),
    "no_residual": Row(4, "No Interleaved Residual Blocks", 33.3, {"gnn_residual": False}),
}
"""Tables 1 and 4, each row by a short name."""


class Augmentation(Config):
    """Random changes of a clip, the same for all its frames."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Isotropic scale, drawn uniformly: at 1 a frame just covers the model's input or, where it is set, fills `fit`."""
    fit: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) in pixels: what a frame of any size is first scaled to fit into, its aspect kept."""
    horizontal_flip: float = Field(0.5, ge=0, le=1)
    """Probability."""
    vertical_flip: float = Field(0.0, ge=0, le=1)
    """Probability; for worlds without up and down."""
    swap_colours: bool = False
    """Permute the colour channels; for worlds where colour means nothing."""
