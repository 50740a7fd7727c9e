"""Every model and tracker of the house, small, for tests of what holds for all. A new one is a line of `MODELS`.

Weights are random, with a push where they would find nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny_model import Tiny, TinyConfig
from vis_models.idol.config import IdolConfig
from vis_models.idol.model import Idol
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.mask_prop.config import MaskPropConfig, RefinementConfig
from vis_models.mask_prop.model import MaskProp
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.masktrack_rcnn.model import MaskTrackRcnn
from vis_models.rgnn.model import Rgnn
from vis_models.trackers.config import LinkedConfig
from vis_models.trackers.linked import Linked
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.model import VisStg

from .drawn import HEIGHT, WIDTH, small_config


@dataclass(frozen=True)
class Entrant:
    """A model of three classes for frames of `HEIGHT` x `WIDTH`."""

    name: str
    """In the zoo."""
    make: Callable[[], Any]
    clip_length: int = 3
    trained: bool = True
    """False: it has nothing of its own to train."""
    slots: int | None = None
    """Objects that it can hold at a time; None: it has no such limit."""
    restless: Callable[[], Any] | None = None
    """The same where random weights would continue the objects of one shot in the next: this one continues none."""
    late_frames: int = 0
    """By how many frames its answer may come late."""
    tracker: str = ""
    """Of a model that is put together."""

    @property
    def title(self) -> str:
        return f"{self.name} {self.tracker}".strip()


def rgnn(**changes: Any) -> Rgnn:
    model = Rgnn(small_config(init_train_logit=-3.0, min_score=0.0, nms_iou=1.0, slot_recycling=True, **changes))
    nn.init.constant_(model.match_head.bias, 0.5)
    nn.init.constant_(model.init_head.bias, 1.0)
    return model


def linked(tracker: str, detector: Callable[[], Any] | None = None, **changes: Any) -> Linked:
    rules = {"name": tracker, "detection_score": 0.0, "duplicate_iou": 0.9} | changes
    if tracker != "seq":
        rules["tracks"] = 5
    parts = {"detector": detector().config.as_detector if detector else small_config().as_detector, "tracker": rules}
    model = Linked(LinkedConfig.model_validate(parts | {"slot_recycling": True}))
    if detector:
        model.detector.load_state_dict(detector().detector.state_dict())
    return model


def tiny() -> Tiny:
    return Tiny(TinyConfig(num_classes=3, image_size=(HEIGHT, WIDTH)))


def mask_rcnn() -> MaskRcnnConfig:
    return MaskRcnnConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        finest=3,
        channels=16,
        extra_levels=0,
        anchor_px=(12.0, 24.0, 48.0),
        unit_px=12.0,
        box_width=32,
        mask_convs=1,
        min_score=0.0,
        detections=5,
        proposals_per_level=30,
        proposals=20,
        frozen_stages=2,
        region_samples=10_000,  # all: what is drawn from few differs between one worker and two
        region_positive_share=1.0,
        box_samples=10_000,
        positive_share=1.0,
    )


def masktrack(**changes: Any) -> MaskTrackRcnn:
    config = MaskTrackConfig(detector=mask_rcnn(), embedding=32, tracks=10, slot_recycling=True, **changes)
    return decided(MaskTrackRcnn(config))


def decided(model: Any) -> Any:
    """With scores that lie far apart, so that rounding changes no decision."""
    nn.init.normal_(model.detector.rpn.cls_logits.weight, std=0.1)
    nn.init.normal_(model.detector.box_predictor.cls_score.weight, std=0.1)
    return model


def mask_prop() -> MaskProp:
    config = MaskPropConfig(
        detector=mask_rcnn(),
        reach=2,
        nobody=True,
        offset_channels=16,
        dilations=(1, 2),
        true_masks=1.0,  # what is drawn differs between one worker and two
        learn_reference=True,
        refinement=RefinementConfig(side_px=16, channels=8, match_iou=0.0, lessons=1000),
    )
    model = decided(MaskProp(config))
    nn.init.normal_(model.propagation.offsets.weight, std=0.3)  # at the start nothing moves
    return model


def forgetful() -> MaskTrackRcnn:
    """Whose detections all look alike, so that each is new."""
    model = masktrack(iou_cue=False, category_cue=False)
    for parameter in model.track_head.parameters():
        nn.init.zeros_(parameter)
    return model


def idol(**changes: Any) -> Idol:
    config = IdolConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        queries=8,
        channels=32,
        heads=4,
        points=2,
        encoder_layers=1,
        decoder_layers=2,
        hidden=32,
        norm_groups=8,
        dropout=0.0,  # what it drops differs between one worker and two
        frozen_stages=2,
        min_score=0.0,
        new_score=0.0,
        detections=5,
        tracks=10,
        slot_recycling=True,
        **changes,
    )
    model = Idol(config)
    for name, parameter in model.network.named_parameters():
        if "bbox_embed" in name or "sampling_offsets" in name or "attention_weights" in name:
            nn.init.normal_(parameter, std=0.3)  # at the start boxes and points do not move
    for head in model.network.class_embed:
        nn.init.normal_(head.weight, std=0.3)
    return model


def unlike() -> Idol:
    """Whose detections continue nothing."""
    return idol(match_score=1.0)


def vis_stg(**changes: Any) -> VisStg:
    config = VisStgConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        frozen_stages=2,
        channels=16,
        level_px=(16.0, 32.0),
        head_convs=2,
        norm_groups=8,
        min_score=0.0,
        detections=5,
        tracks=10,
        slot_recycling=True,
        **changes,
    )
    model = VisStg(config)
    for head in (model.network.heat, model.network.size, model.network.controller):
        nn.init.normal_(head.layers[-1].weight, std=0.5)  # far apart, so that rounding changes no decision
    return model


def estranged() -> VisStg:
    """Whose edges say that nothing is the same."""
    return vis_stg(match_score=1.0)


MODELS = (
    Entrant("vis_stg", vis_stg, clip_length=2, slots=10, restless=estranged),
    Entrant("idol", idol, clip_length=2, slots=10, restless=unlike),
    Entrant("mask_prop", mask_prop, clip_length=2, late_frames=2),
    Entrant("masktrack_rcnn", masktrack, clip_length=2, slots=10, restless=forgetful),
    Entrant("rgnn", rgnn, slots=5, restless=lambda: rgnn(keep_active_logit=9.0)),
    Entrant("linked", partial(linked, "greedy"), slots=5, tracker="greedy"),
    Entrant("linked", partial(linked, "iou"), trained=False, slots=5, tracker="iou"),
    Entrant("linked", partial(linked, "iou", masktrack), trained=False, slots=5, tracker="iou on mask_rcnn"),
    Entrant("linked", partial(linked, "propagation", masktrack), trained=False, slots=5, tracker="carried mask_rcnn"),
    Entrant("linked", partial(linked, "propagation"), trained=False, slots=5, tracker="propagation"),
    Entrant("linked", partial(linked, "deepsort", keep_frames=2), trained=False, slots=5, tracker="deepsort"),
    Entrant(
        "linked",
        partial(linked, "seq", least_frames=2, window_frames=6),
        trained=False,
        late_frames=6,
        tracker="seq",
    ),
    Entrant("tiny", tiny, clip_length=2),
)
every_model = pytest.mark.parametrize("entrant", MODELS, ids=lambda entrant: entrant.title)
LEARNS_OTHER_CLASSES = [entrant for entrant in MODELS if entrant.trained and entrant.name != "rgnn"]
"""From the weights of a model of other classes; a graph network is made of classes, and taken whole or not at all."""
TRAINED = [(entrant, part) for entrant in MODELS if entrant.trained for part in entrant.make().config.parts]
every_part = pytest.mark.parametrize(
    ("entrant", "part"), TRAINED, ids=[f"{entrant.title} {part}" for entrant, part in TRAINED]
)


def fresh(entrant: Entrant) -> Any:
    torch.manual_seed(1)
    return entrant.make().eval()
