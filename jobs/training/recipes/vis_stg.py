"""The recipes of VisSTG: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural
networks", ICCV 2021.

One stage, end to end: a target frame and a reference frame less than 5 away, whose objects are given.
"""

from collections.abc import Callable

from jobs.training.recipes.base import Stage, TrainJob, WorldData
from jobs.training.recipes.changes import changed
from jobs.training.recipes.worlds import BACKBONE, CLASSES, EASY, HARD, SIZE_PX, TINY, from_pairs
from vis_models.data.augmentation import Augmentation
from vis_models.data.holdout import HoldOut
from vis_models.data.sampling import Pair
from vis_models.vis_stg.config import VisStgConfig

NEAR = Pair(window=4, reference_shows=True)
SHORTER_PX = tuple(range(320, 481, 32))
"""Drawn, the longer side at most `LONGER_PX`. The paper says "multi-scale", and no sizes."""
LONGER_PX = 853
FRAMES = 61_341
"""Of the training videos of YouTube-VIS 2019."""


def visstg_r18_world_tiny() -> TrainJob:
    """The whole road in seconds, for tests and CI: it runs every step and learns next to nothing.

    vis train --recipe visstg_r18_world_tiny
    """
    return _world("visstg_r18_world_tiny", TINY, iterations=6)


def visstg_r18_world_easy() -> TrainJob:
    """The easy world, about 40 minutes on one idle core: a ResNet-18 layout at half width and one block a stage, three
    levels of 64 channels.

    vis train --recipe visstg_r18_world_easy
    """
    return _world("visstg_r18_world_easy", EASY, iterations=5000)


def visstg_r18_world_hard() -> TrainJob:
    """Crowds, look-alikes and occlusion: where the rows of the paper's tables are compared.

    vis train --recipe visstg_r18_world_hard
    """
    return _world("visstg_r18_world_hard", HARD, iterations=4000)


def visstg_r50_ytvis2019() -> TrainJob:
    """YouTube-VIS 2019, ResNet-50: AP 36.5 on its validation server, 35.2 at one scale.

    vis train --recipe visstg_r50_ytvis2019 --data /data/youtube-vis-2019 --init maskrcnn_resnet50_fpn_coco.pth

    Cost: 24 epochs of the videos' frames, 92 000 iterations of 16 pairs, on two Titan X in the paper. One scale:
    `--set stages.0.augmentation.shorter_px=[360]`.
    """
    epoch = FRAMES // 16
    return TrainJob(
        recipe="visstg_r50_ytvis2019",
        model="vis_stg",
        config=VisStgConfig(),
        hold_out=HoldOut(rule="rgnn"),
        stages=(
            Stage(
                name="pairs",
                iterations=24 * epoch,
                batch_size=16,
                sampling=NEAR,
                optimizer="sgd",
                learning_rate=1e-2,
                drops=(16 / 24, 22 / 24),
                drop_factor=10.0,
                warm_up=500,
                warm_up_from=1 / 3,
                weight_decay=1e-4,
                clip_gradient=35.0,
                batch_norm="frozen",
                augmentation=Augmentation(shorter_px=SHORTER_PX, longer_most_px=LONGER_PX),
                checkpoint_every=epoch,
            ),
        ),
    )


def _world(name: str, world: WorldData, iterations: int) -> TrainJob:
    config = VisStgConfig(
        num_classes=CLASSES,
        image_size=SIZE_PX,
        backbone=BACKBONE,
        frozen_stages=0,
        channels=64,
        level_px=(24.0, 48.0),
        head_convs=2,
        norm_groups=8,
        messages="mean",
        relative_position=True,
        learn_reference=True,
        min_score=0.3,
        nms_iou=0.4,
        detections=20,
        tracks=32,
    )
    job = from_pairs(
        name,
        "vis_stg",
        config,
        world,
        iterations=iterations,
        sampling=NEAR,
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=1e-4,
        clip_gradient=1.0,
    )
    return changed(job, {"stages.0.average": 0.998})


RECIPES: tuple[Callable[[], TrainJob], ...] = (
    visstg_r18_world_tiny,
    visstg_r18_world_easy,
    visstg_r18_world_hard,
    visstg_r50_ytvis2019,
)
