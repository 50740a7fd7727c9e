"""What can be chosen about VisSTG; without torch, as recipes are made of it. Source: as `vis_stg/__init__.py`."""

from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vis_models.config import FramesConfig, ModelConfig
from vis_models.layers.backbone_config import BackboneConfig, ResNetConfig


class VisStgConfig(FramesConfig, ModelConfig):
    """VisSTG; defaults are the paper's settings, and where it is silent ours."""

    num_classes: PositiveInt = 40
    """Foreground classes; there is no background, every class has a heat map of its own."""
    backbone: BackboneConfig = ResNetConfig()
    frozen_stages: NonNegativeInt = Field(1, le=4)
    """Stages of the backbone after its stem that are not trained; the stem is trained with none frozen."""
    channels: PositiveInt = 256
    """D: of the pyramid, of nodes and of edges."""
    level_px: tuple[PositiveFloat, ...] = Field((64.0, 128.0, 256.0, 512.0), min_length=2)
    """Longer side of the largest object of each level of the pyramid but the last, which has all larger ones. The
    first three levels are the backbone's maps. Ours: the paper says "according to their sizes"."""
    head_convs: PositiveInt = 3
    """Convolutions of the head of each branch, the last of them 1x1."""
    norm_groups: NonNegativeInt = 32
    """Of the group norms between them, which divide the channels; 0: there are none. Ours, as in CondInst: without them
    filters grow until masks are lost."""

    # ---- the graph (3.2)
    fusion: Literal["none", "concat", "relation"] = "relation"
    """What the target's features are made of (Table 2): themselves; those of both frames, side by side; the graph."""
    gnn_iterations: PositiveInt = 3
    """L (Table 1)."""
    window: PositiveInt = 9
    """Cells along a side of the square around an instance to which it is connected, on each level; odd."""
    messages: Literal["sum", "mean"] = "sum"
    """What becomes of the messages of a node's edges: Eq. (2), or divided by their number."""
    relative_position: bool = False
    """Edges are also told where the cell lies, seen from the instance's centre. Ours: in the paper they compare what
    both look like, and two that look alike are told apart by nothing."""

    # ---- tracking (3.5) and segmentation (3.4)
    association: Literal["edge", "embedding", "offset"] = "edge"
    """What links detections (Table 2): the graph's edges; an embedding, as in MaskTrack R-CNN; the way back to where
    the object was, as in CenterTrack."""
    embedding: PositiveInt = 128
    """Channels of the embedding, where one links."""
    same_class: bool = True
    """Only what is of one class can be one object. False: class decides nothing, edges learn from pairs of any class, a
    detection that overlaps a better one of any class is dropped, and a track is of the class that is likeliest in all
    its sightings together. Ours."""
    propagation: bool = True
    """The filters of the reference frame are carried to the target (Table 2)."""

    # ---- training (3.6)
    det_weight: float = Field(1.0, ge=0)
    """Lambda 1 of Eq. (6). Ours, as the next two: the paper is silent."""
    mask_weight: float = Field(1.0, ge=0)
    edge_weight: float = Field(1.0, ge=0)
    """Of whatever links."""
    size_weight: float = Field(0.1, ge=0)
    """Lambda "size" of Eq. (3); CenterNet's, as the next."""
    offset_weight: float = Field(1.0, ge=0)
    least_overlap: float = Field(0.7, gt=0, lt=1)
    """IoU that a box with its corners anywhere in the radius of the heat map's Gaussian still has; CenterNet's."""
    centre_cells: PositiveInt = 3
    """Cells along a side of the square around an object's centre that learn its mask and its edges, each of the object
    to which it is nearest. Ours: the paper is silent, and a peak may be beside the centre."""
    mask_shares: bool = True
    """A mask learns how much of each cell its object covers. False: whether the middle pixel is the object's, as in
    CondInst, by which edges lie on borders of cells. Ours: the paper is silent."""
    learn_reference: bool = False
    """Detection learns from the reference frame as well, without the graph, as it is used on a film's first frame."""

    # ---- inference (3.6)
    min_score: float = Field(0.1, ge=0, le=1)
    """Of a detection. Ours, as the next two: the paper is silent."""
    detections: PositiveInt = 100
    """Most of a frame."""
    nms_iou: float = Field(0.6, ge=0, le=1)
    """A detection whose box overlaps that of a better one of its class by more is dropped: levels see one object
    twice."""
    match_score: float = Field(0.5, ge=0, le=1)
    """From which an edge says "the same" (3.5), or the overlap of a box that goes back with that of its track."""
    keep_frames: PositiveInt = 7
    """Frames from the last sighting until a track ends (Delta t, 3.6)."""
    tracks: PositiveInt = 64
    """Most that a video can hold at a time."""
    slot_recycling: bool = False
    """A birth without a free slot takes that of the track that is longest out of sight."""

    parts: ClassVar[tuple[str, ...]] = ("whole",)
    network_fields: ClassVar[tuple[str, ...]] = (
        "num_classes", "backbone", "channels", "level_px", "head_convs", "norm_groups", "fusion", "gnn_iterations",
        "window", "messages", "relative_position", "association", "embedding", "same_class", "propagation",
    )  # fmt: skip
    trained_anew: ClassVar[tuple[str, ...]] = ("fusion", "gnn_iterations", "association", "propagation")

    @property
    def levels(self) -> int:
        return len(self.level_px) + 1

    @property
    def mask_stride(self) -> int:
        """Pixels of the input along a side of a cell of the masks."""
        return self.backbone.stride // 2

    @model_validator(mode="after")
    def _parts_agree(self) -> "VisStgConfig":
        if self.association == "edge" and self.fusion != "relation":
            raise ValueError(
                f"edges link detections (association), but without a graph (fusion {self.fusion!r}) there are none: "
                "set fusion to relation, or association to embedding or offset"
            )
        if self.norm_groups and self.channels % self.norm_groups:
            raise ValueError(
                f"channels {self.channels} cannot be divided by norm_groups {self.norm_groups}: choose a multiple"
            )
        for name, side in (("window", self.window), ("centre_cells", self.centre_cells)):
            if side % 2 == 0:
                raise ValueError(f"{name} {side} has no cell in its middle: choose an odd number")
        if any(one >= next_one for one, next_one in pairwise(self.level_px)):
            raise ValueError(f"level_px: expected sides that rise, got {list(self.level_px)}")
        return self
