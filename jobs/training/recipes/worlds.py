"""What recipes in drawn worlds have in common: the worlds, a small backbone, and the descent over pairs of frames."""

from typing import Literal

from jobs.training.recipes.base import Stage, TrainJob, WorldData
from vis_models.config import ModelConfig
from vis_models.data.augmentation import Augmentation
from vis_models.data.sampling import Sampling
from vis_models.data.world import WorldConfig
from vis_models.layers.backbone_config import ResNetConfig

SIZE_PX = (96, 160)
CLASSES = 6
BACKBONE = ResNetConfig(depth=18, width=32, blocks=(1, 1, 1, 1), stem_pool=False)
"""A ResNet-18 layout at half width and one block a stage."""
FLIPS = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, swap_colours=True)


def drawn(level: Literal["easy", "hard"], train_videos: int, val_videos: int) -> WorldData:
    """A world of small frames."""
    height, width = SIZE_PX
    world = WorldConfig(level=level, height=height, width=width)
    return WorldData(world=world, train_videos=train_videos, val_videos=val_videos)


TINY, EASY, HARD = drawn("easy", 8, 4), drawn("easy", 1000, 150), drawn("hard", 1000, 200)


def from_pairs(
    name: str,
    model: str,
    config: ModelConfig,
    world: WorldData,
    *,
    iterations: int,
    sampling: Sampling,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    clip_gradient: float,
) -> TrainJob:
    """A model in one stage, end to end, scored five times on the way."""
    pairs = Stage(
        name="pairs",
        iterations=iterations,
        batch_size=batch_size,
        sampling=sampling,
        optimizer="adamw",
        learning_rate=learning_rate,
        cosine=True,
        warm_up=iterations // 20,
        weight_decay=weight_decay,
        clip_gradient=clip_gradient,
        augmentation=FLIPS,
        validate_every=iterations // 5 or iterations,
        validation_videos=min(50, world.val_videos),
        checkpoint_every=500,
    )
    return TrainJob(recipe=name, model=model, config=config, world=world, stages=(pairs,))
