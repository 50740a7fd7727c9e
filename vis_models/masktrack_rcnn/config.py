"""What can be chosen about MaskTrack R-CNN; without torch, as recipes are made of it. Source: as `model.py`."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from vis_models.config import ModelConfig
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.mask_rcnn.config import MaskRcnnConfig, MaskRcnnDetectorConfig


class MaskTrackConfig(ModelConfig):
    """MaskTrack R-CNN; defaults are the paper's settings."""

    detector: MaskRcnnConfig = MaskRcnnConfig(positive_iou=0.7)
    embedding: PositiveInt = 1024
    """Channels of what is compared."""
    final_relu: bool = False
    """After the last layer of the tracking head, too (mmtracking)."""
    det_cue: bool = True
    """The detection's own score counts."""
    iou_cue: bool = True
    """The overlap with the track's last box counts."""
    category_cue: bool = True
    """That the class is the track's counts."""
    det_weight: float = Field(1.0, ge=0)
    iou_weight: float = Field(2.0, ge=0)
    category_weight: float = Field(10.0, ge=0)
    duplicate_ids: bool = False
    """Both public codes compare detections with a track in turn, and an earlier, weaker one keeps the track that a
    later one gets (a known fault): two of a frame have one identity, and the last of them is shown. False: the best
    alone gets it."""
    tracks: PositiveInt = 64
    """Most tracks that a video can hold at a time."""
    keep_frames: PositiveInt | None = None
    """Frames from the last sighting until a track ends; None: it never ends (mmtracking: 20)."""
    slot_recycling: bool = False
    """A birth without a free slot takes that of the track that is longest out of sight. For long videos."""
    track_weight: PositiveFloat = 1.0
    """Of its loss."""
    track_normaliser: Literal["positives", "known"] = "positives"
    """What the loss of a frame is divided by: its positives, or those whose object is in the reference (mmtracking)."""
    learn_reference: bool = False
    """The detector learns from the reference frame as well, whose objects are known anyway: twice the frames for the
    same cost of the backbone."""

    parts: ClassVar[tuple[str, ...]] = ("detector", "whole", "head")
    network_fields: ClassVar[tuple[str, ...]] = ("embedding", "final_relu")

    @classmethod
    def paper(cls, depth: Literal[50, 101] = 50) -> "MaskTrackConfig":
        """As described; what the paper leaves open is as in the original code."""
        return cls(detector=MaskRcnnConfig(positive_iou=0.7, backbone=ResNetConfig(depth=depth)))

    @classmethod
    def released(
        cls, code: Literal["original", "mmtracking"], backbone: Literal["r50", "r101", "x101"] = "r50"
    ) -> "MaskTrackConfig":
        """What the published weights of each code run with. Their own order of classes is the loader's business."""
        nets = {
            "r50": ResNetConfig(),
            "r101": ResNetConfig(depth=101),
            "x101": ResNetConfig(depth=101, groups=64, group_width=4),
        }
        if code == "original":
            detector = MaskRcnnConfig(backbone=nets[backbone], alignment="plus_one", plus_one=True, box_beta=1.0,
                                      pasting="whole_pixels")  # fmt: skip
            return cls(detector=detector)
        detector = MaskRcnnConfig(
            backbone=nets[backbone], alignment="aligned", samples=None, round_anchors=False, box_beta=1.0,
            min_score=0.01, detections=100,
        )  # fmt: skip
        return cls(detector=detector, final_relu=True, keep_frames=20, track_normaliser="known", tracks=256)

    @property
    def as_detector(self) -> MaskRcnnDetectorConfig:
        """The detector that another tracker can take."""
        return MaskRcnnDetectorConfig.model_validate(self.detector.model_dump())
