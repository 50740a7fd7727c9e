"""The recipes of MaskProp: Bertasius, Torresani, "Classifying, segmenting, and tracking object instances in video with
mask propagation", CVPR 2020.

Two stages: detector and propagation from pairs of frames, then the refinement from what these find.
"""

from collections.abc import Callable
from typing import Literal

from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.recipes.masktrack_rcnn import masktrack_r18_world_easy, masktrack_r18_world_hard
from jobs.training.recipes.worlds import TINY
from vis_models.data.augmentation import Augmentation
from vis_models.data.holdout import HoldOut
from vis_models.data.sampling import Pair
from vis_models.mask_prop.config import MaskPropConfig, RefinementConfig
from vis_models.masktrack_rcnn.config import MaskTrackConfig

SHARE = HoldOut(rule="hash", share=0.1)
"""Where the paper has no rule: a tenth of the videos, whole scenes of them."""
WINDOW = 25
"""Frames between the two of a pair, at most."""


def maskprop_r18_world_tiny() -> TrainJob:
    """The whole road in seconds, for tests and CI: it runs every step and learns next to nothing.

    vis train --recipe maskprop_r18_world_tiny
    """
    job = _world("maskprop_r18_world_tiny", masktrack_r18_world_easy(), iterations=(6, 2))
    return job.model_copy(update={"world": TINY})


def maskprop_r18_world_easy() -> TrainJob:
    """The easy world, about 25 minutes on one idle core: the detector of `masktrack_r18_world_easy`.

    vis train --recipe maskprop_r18_world_easy
    """
    return _world("maskprop_r18_world_easy", masktrack_r18_world_easy(), iterations=(3000, 300))


def maskprop_r18_world_hard() -> TrainJob:
    """Crowds, look-alikes and occlusion: where clips of different lengths and trackers are compared.

    vis train --recipe maskprop_r18_world_hard
    """
    return _world("maskprop_r18_world_hard", masktrack_r18_world_hard(), iterations=(2400, 200))


def maskprop_r50_ytvis2019() -> TrainJob:
    """The paper's model over Mask R-CNN on ResNet-50: YouTube-VIS 2019, AP 40.0 on its validation server.

    vis train --recipe maskprop_r50_ytvis2019 --data /data/youtube-vis-2019 --init maskrcnn_resnet50_fpn_coco.pth

    Cost: 20 epochs of the videos' frames, 76 000 iterations of 16 pairs; the paper had 64 GPUs with a pair each.
    """
    return _videos("maskprop_r50_ytvis2019", 50, frames=61_341, hold_out=HoldOut(rule="rgnn"))


def maskprop_r101_ytvis2019() -> TrainJob:
    """The same on ResNet-101: AP 42.5.

    vis train --recipe maskprop_r101_ytvis2019 --data /data/youtube-vis-2019 --init resnet101.pth
    """
    return _videos("maskprop_r101_ytvis2019", 101, frames=61_341, hold_out=HoldOut(rule="rgnn"))


def maskprop_r50_ytvis2021() -> TrainJob:
    """YouTube-VIS 2021, for which the paper reports nothing.

    vis train --recipe maskprop_r50_ytvis2021 --data /data/youtube-vis-2021 --init maskrcnn_resnet50_fpn_coco.pth
    """
    return _videos("maskprop_r50_ytvis2021", 50, frames=90_160, hold_out=SHARE)


def maskprop_r50_ovis() -> TrainJob:
    """OVIS, of crowds and occlusion, for which the paper reports nothing.

    vis train --recipe maskprop_r50_ovis --data /data/ovis --init maskrcnn_resnet50_fpn_coco.pth
    """
    job = _videos("maskprop_r50_ovis", 50, frames=42_149, hold_out=SHARE)
    return job.model_copy(update={"config": job.config.with_classes(25)})


def _world(name: str, base: TrainJob, iterations: tuple[int, int]) -> TrainJob:
    """The detector, the films and the descent of MaskTrack R-CNN, so that what differs is how masks are linked. Objects
    are small and fast here: their masks are carried on the finest map and over seven frames, and learned from frames
    as near to each other; where something overlaps by a little it is nearly always the same. All that a frame shows
    shares its pixels, so what is unlikely, and what is nearly another's, is left out before."""
    (pairs,), config = base.stages, base.config
    assert isinstance(config, MaskTrackConfig)
    whole, finer = iterations
    often = {"iterations": whole, "warm_up": whole // 20, "validate_every": whole // 3 or whole, "average": 0.998}
    whole_stage = pairs.model_copy(update=often | {"sampling": Pair(window=4, itself=True)})
    finer_stage = pairs.model_copy(
        update={
            "name": "refinement",
            "part": "refinement",
            "iterations": finer,
            "warm_up": finer // 10,
            "validate_every": 0,
        }
    )
    return TrainJob(
        recipe=name,
        model="mask_prop",
        config=MaskPropConfig(
            detector=config.detector.model_copy(update={"min_score": 0.4}),
            reach=3,
            level=0,
            offset_channels=64,
            dilations=(2, 6, 12),
            nobody=True,
            duplicate_iou=0.2,
            link_iou=0.05,
            propagation_weight=2.0,
            learn_reference=True,
            refinement=RefinementConfig(side_px=48, channels=16, lessons=64),
        ),
        world=base.world,
        stages=(whole_stage, finer_stage),
    )


def _videos(name: str, depth: Literal[50, 101], frames: int, hold_out: HoldOut) -> TrainJob:
    """Section 5 of the paper: its rate of 0.008 for 64 pairs, in proportion for 16; 20 epochs, drops after 16 and 19.
    Where it is silent, as MaskTrack R-CNN is trained."""
    epoch = frames // 16
    pairs = Stage(
        name="pairs",
        iterations=20 * epoch,
        batch_size=16,
        sampling=Pair(window=WINDOW, itself=True),
        optimizer="sgd",
        learning_rate=0.008 * 16 / 64,
        drops=(16 / 20, 19 / 20),
        drop_factor=10.0,
        warm_up=500,
        warm_up_from=1 / 3,
        weight_decay=1e-4,
        clip_gradient=35.0,
        batch_norm="frozen",
        augmentation=Augmentation(horizontal_flip=0.5, shorter_px=tuple(range(400, 801, 80)), longer_most_px=1333),
        checkpoint_every=epoch,
    )
    refinement = pairs.model_copy(
        update={
            "name": "refinement",
            "part": "refinement",
            "iterations": epoch,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "drops": (),
        }
    )
    return TrainJob(
        recipe=name,
        model="mask_prop",
        config=MaskPropConfig.paper(depth),
        hold_out=hold_out,
        stages=(pairs, refinement),
    )


RECIPES: tuple[Callable[[], TrainJob], ...] = (
    maskprop_r18_world_tiny,
    maskprop_r18_world_easy,
    maskprop_r18_world_hard,
    maskprop_r50_ytvis2019,
    maskprop_r101_ytvis2019,
    maskprop_r50_ytvis2021,
    maskprop_r50_ovis,
)
