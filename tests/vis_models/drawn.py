"""Small models and clips for tests of models."""

import torch

from vis_models import boxes
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.rgnn.config import RgnnConfig
from vis_models.types import Clips, Objects
from vis_models.yolact.config import YolactConfig

HEIGHT, WIDTH = 64, 96


def small_config(**changes) -> RgnnConfig:
    detector = YolactConfig(
        num_classes=3,
        image_size=(HEIGHT, WIDTH),
        backbone=ResNetConfig(depth=18, width=16, blocks=(1, 1, 1, 1), stem_pool=False),
        channels=32,
        prototypes=8,
        prototype_channels=16,
        prior_scales=((12.0,), (24.0,), (48.0,)),
        prior_ratios=(1.0,),
        prior_aspect=WIDTH / HEIGHT,
        prior_denominator=(WIDTH * HEIGHT) ** 0.5,
    )
    base = {
        "detector": detector,
        "detections": 6,
        "tracks": 5,
        "embedding": 32,
        "bottleneck": 8,
        "appearance_channels": 32,
    }
    return RgnnConfig.model_validate(base | {"dropout": 0.0} | changes)


def moving_squares(clips: int = 2, length: int = 4, objects: int = 2) -> Clips:
    """Bright squares of one colour each that move one pixel a frame over a dark ground."""
    frames = torch.full((clips, length, 3, HEIGHT, WIDTH), 30, dtype=torch.uint8)
    masks = torch.zeros(clips, length, objects, HEIGHT, WIDTH, dtype=torch.bool)
    for clip in range(clips):
        for t in range(length):
            for a in range(objects):
                x, y, side = 8 + 44 * a + t, 10 + 20 * a + 5 * clip, 16 + 4 * a
                masks[clip, t, a, y : y + side, x : x + side] = True
                frames[clip, t, a % 3, y : y + side, x : x + side] = 230
    visible = masks.any(-1).any(-1)
    labels = (torch.arange(objects) % 3).expand(clips, -1).clone()
    return Clips(
        frames, Objects(masks, boxes.of_masks(masks), visible, labels, torch.zeros(clips, objects, dtype=torch.bool))
    )
