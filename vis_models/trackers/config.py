"""What can be chosen about a detector and a tracker that are put together; without torch, as recipes are made of it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from vis_models.config import Config, ModelConfig
from vis_models.mask_rcnn.config import MaskRcnnDetectorConfig
from vis_models.yolact.config import YolactDetectorConfig

DetectorConfig = Annotated[YolactDetectorConfig | MaskRcnnDetectorConfig, Field(discriminator="name")]


class Tracker(Config):
    """What every tracker is asked."""

    detection_score: float = Field(0.05, ge=0, le=1)
    """Least class probability of a detection; as in the paper's experiments."""
    duplicate_iou: float = Field(0.5, ge=0, le=1)
    """A detection that overlaps a better one by more is dropped."""
    match_iou: float = Field(0.3, ge=0, le=1)
    """Least overlap of two boxes of one object in frames that follow each other."""


class OnlineTracker(Tracker):
    """What trackers are asked that answer at once."""

    tracks: PositiveInt = 100
    """M: tracks that a video can hold; the paper knows no limit, a state of fixed size does."""
    keep_frames: PositiveInt | None = None
    """Frames out of sight after which a track ends; None: never, as in the paper."""


class CueWeights(Config):
    """Eq. (3) of the paper without the appearance: what each cue is worth."""

    score_weight: float = Field(1.0, ge=0)
    """Of the logarithm of the detection's score."""
    iou_weight: float = Field(2.0, ge=0)
    class_weight: float = Field(10.0, ge=0)
    """Of the same class."""


class GreedyConfig(OnlineTracker):
    """The best pairs first."""

    name: Literal["greedy"] = "greedy"
    tracks: PositiveInt = 24
    detection_score: float = Field(0.1, ge=0, le=1)
    class_bonus: float = Field(0.5, ge=0)
    """What the same class is worth in IoU."""


class IouTrackerConfig(OnlineTracker, CueWeights):
    """IoUTracker+."""

    name: Literal["iou"] = "iou"


class FeaturePropagationConfig(OnlineTracker, CueWeights):
    """IoUTracker+ on masks that features carry from frame to frame."""

    name: Literal["propagation"] = "propagation"
    radius: PositiveInt = 6
    """How far a point of a mask may move in a frame, in cells of the feature map."""
    neighbours: PositiveInt = 5
    """Most alike cells of the frame before of which a cell is a mean."""
    temperature: PositiveFloat = 0.07
    """The cosine is divided by it before the softmax over the neighbours."""


class DeepSortConfig(OnlineTracker):
    """DeepSORT."""

    name: Literal["deepsort"] = "deepsort"
    match_iou: float = Field(0.0, ge=0, le=1)
    """Motion is judged by `gate`; this is asked of the predicted box beside."""
    keep_frames: PositiveInt | None = 30
    gate: PositiveFloat = 9.4877
    """Largest squared Mahalanobis distance from the prediction: 95 % of chi-square in four dimensions."""
    least_alike: float = Field(0.6, ge=-1, le=1)
    """Least cosine of the appearances. Those of the detector's own features are alike even for other objects; the
    authors' re-identification network, which we have not, is trained to tell them apart."""
    alike_weight: float = Field(1.0, ge=0)
    """What the cosine is worth beside the IoU."""
    newest: float = Field(0.1, gt=0, le=1)
    """Share of the newest appearance in the running mean."""
    position_std: PositiveFloat = 1 / 20
    """Of position, in heights of the box, in the frame's noise and in the measurement's."""
    velocity_std: PositiveFloat = 1 / 160


class SeqTrackerConfig(Tracker, CueWeights):
    """SeqTracker."""

    name: Literal["seq"] = "seq"
    least_frames: PositiveInt = 8
    """A best track that is shorter ends the search."""
    window_frames: int = Field(256, ge=2)
    """Frames that are searched at once; a longer film is searched in windows that share a frame, in which a track goes
    over with its identity. Memory is that of one window."""


TrackerConfig = Annotated[
    GreedyConfig | IouTrackerConfig | FeaturePropagationConfig | DeepSortConfig | SeqTrackerConfig,
    Field(discriminator="name"),
]
TRACKERS = ("greedy", "iou", "propagation", "deepsort", "seq")


class LinkedConfig(ModelConfig):
    """A detector, and the tracker that links what it finds."""

    detector: DetectorConfig = YolactDetectorConfig()
    tracker: TrackerConfig = IouTrackerConfig()
    slot_recycling: bool = False
    """A birth without a free slot takes that of a track out of sight. For long videos and trackers with slots."""

    parts: ClassVar[tuple[str, ...]] = ("detector",)

    @property
    def as_detector(self) -> DetectorConfig:
        """The detector that another tracker can take."""
        return self.detector
