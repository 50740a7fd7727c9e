"""The recipes of MaskTrack R-CNN: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019.

One stage, end to end: a query frame and a reference frame of one video.
"""

from collections.abc import Callable
from typing import Literal

from jobs.training.recipes.base import Stage, TrainJob, WorldData
from jobs.training.recipes.worlds import BACKBONE, CLASSES, EASY, HARD, SIZE_PX, TINY, from_pairs
from vis_models.data.augmentation import Augmentation
from vis_models.data.holdout import HoldOut
from vis_models.data.sampling import Pair
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.masktrack_rcnn.config import MaskTrackConfig

SHARE = HoldOut(rule="hash", share=0.1)
"""Where the paper has no rule: a tenth of the videos, whole scenes of them."""


def masktrack_r18_world_tiny() -> TrainJob:
    """The whole road in seconds, for tests and CI: it runs every step and learns next to nothing.

    vis train --recipe masktrack_r18_world_tiny
    """
    return _world("masktrack_r18_world_tiny", TINY, iterations=6)


def masktrack_r18_world_easy() -> TrainJob:
    """The easy world, meant for 20 minutes on two cores: a ResNet-18 layout at half width and one block a stage.

    vis train --recipe masktrack_r18_world_easy
    """
    return _world("masktrack_r18_world_easy", EASY, iterations=2600)


def masktrack_r18_world_hard() -> TrainJob:
    """Crowds, look-alikes and occlusion: where cues and trackers are compared.

    vis train --recipe masktrack_r18_world_hard
    """
    return _world("masktrack_r18_world_hard", HARD, iterations=2600)


def masktrack_r50_ytvis2019() -> TrainJob:
    """The paper's model on ResNet-50: YouTube-VIS 2019, AP 30.3 published on its validation server.

    vis train --recipe masktrack_r50_ytvis2019 --data /data/youtube-vis-2019 --init maskrcnn_resnet50_fpn_coco.pth

    Cost: 12 epochs of the videos' frames, 92 000 iterations of 8 pairs on one GPU.
    """
    return _videos("masktrack_r50_ytvis2019", 50, frames=61_341, hold_out=HoldOut(rule="rgnn"))


def masktrack_r101_ytvis2019() -> TrainJob:
    """The same on ResNet-101: AP 31.8 as IDOL's paper cites it.

    vis train --recipe masktrack_r101_ytvis2019 --data /data/youtube-vis-2019 --init resnet101.pth
    """
    return _videos("masktrack_r101_ytvis2019", 101, frames=61_341, hold_out=HoldOut(rule="rgnn"))


def masktrack_r50_ytvis2021() -> TrainJob:
    """YouTube-VIS 2021: AP 28.7 in mmtracking's model zoo.

    vis train --recipe masktrack_r50_ytvis2021 --data /data/youtube-vis-2021 --init maskrcnn_resnet50_fpn_coco.pth
    """
    return _videos("masktrack_r50_ytvis2021", 50, frames=90_160, hold_out=SHARE)


def masktrack_r50_ovis() -> TrainJob:
    """OVIS, of crowds and occlusion: AP 10.8 as IDOL's paper cites it.

    vis train --recipe masktrack_r50_ovis --data /data/ovis --init maskrcnn_resnet50_fpn_coco.pth
    """
    job = _videos("masktrack_r50_ovis", 50, frames=42_149, hold_out=SHARE)
    return job.model_copy(update={"config": job.config.with_classes(25)})


def _world(name: str, world: WorldData, iterations: int) -> TrainJob:
    detector = MaskRcnnConfig(
        num_classes=CLASSES,
        image_size=SIZE_PX,
        backbone=BACKBONE,
        finest=3,
        channels=64,
        extra_levels=0,
        anchor_px=(16.0, 32.0, 64.0),
        unit_px=16.0,
        box_width=256,
        mask_convs=2,
        proposals_per_level=60,
        proposals=60,
        detections=12,
        frozen_stages=0,
        positive_iou=0.5,
        region_samples=64,
        box_samples=32,
        positive_share=0.5,
        class_weight=2.5,
    )
    config = MaskTrackConfig(detector=detector, embedding=128, tracks=16, learn_reference=True)
    return from_pairs(
        name,
        "masktrack_rcnn",
        config,
        world,
        iterations=iterations,
        sampling=Pair(reference_shows=True),
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_gradient=10.0,
    )


def _videos(name: str, depth: Literal[50, 101], frames: int, hold_out: HoldOut) -> TrainJob:
    """Section 4 of the paper; where it is silent, or where it says 0.05 of a learning rate for a batch that it does not
    say, the authors' code: 8 pairs, 12 epochs, drops after 8 and 11, stem, first stage and batch norms frozen."""
    return TrainJob(
        recipe=name,
        model="masktrack_rcnn",
        config=MaskTrackConfig.paper(depth),
        hold_out=hold_out,
        stages=(
            Stage(
                name="pairs",
                iterations=12 * (frames // 8),
                batch_size=8,
                sampling=Pair(reference_shows=True),
                optimizer="sgd",
                learning_rate=5e-3,
                drops=(8 / 12, 11 / 12),
                drop_factor=10.0,
                warm_up=500,
                warm_up_from=1 / 3,
                weight_decay=1e-4,
                clip_gradient=35.0,
                batch_norm="frozen",
                augmentation=Augmentation(shorter_px=(360,), longer_most_px=640),
                checkpoint_every=frames // 8,
            ),
        ),
    )


RECIPES: tuple[Callable[[], TrainJob], ...] = (
    masktrack_r18_world_tiny,
    masktrack_r18_world_easy,
    masktrack_r18_world_hard,
    masktrack_r50_ytvis2019,
    masktrack_r101_ytvis2019,
    masktrack_r50_ytvis2021,
    masktrack_r50_ovis,
)
