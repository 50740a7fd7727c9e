"""The recipes of IDOL: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022.

Three steps: instance segmentation of COCO, where embeddings learn nothing; pseudo pairs of COCO, two crops of one image
in the place of two frames, whose results the paper marks with a dagger; then pairs of frames of the videos. Each starts
from the model of the one before (`--init`), from its classes anew where these are others.
"""

from collections.abc import Callable
from typing import Literal

from jobs.training.recipes.base import ParameterGroup, Stage, TrainJob, WorldData
from jobs.training.recipes.changes import changed
from jobs.training.recipes.worlds import CLASSES, EASY, HARD, SIZE_PX, TINY, from_pairs
from vis_models.data.augmentation import Augmentation
from vis_models.data.holdout import HoldOut
from vis_models.data.sampling import Pair, PseudoPair, Sampling, Single
from vis_models.idol.config import IdolConfig
from vis_models.layers.backbone_config import ResNetConfig

Net = Literal["r50", "r101", "swin_l"]
SHARE = HoldOut(rule="hash", share=0.1)
"""Where the paper has no rule: a tenth of the videos, whole scenes of them."""
SHORTER_PX = tuple(range(320, 641, 32))
"""Drawn of COCO and YouTube-VIS, the longer side at most `LONGER_PX`."""
LONGER_PX = 768
LARGE_PX = tuple(range(480, 801, 32))
"""Drawn of OVIS, the longer side at most 1333."""
CUT_PX = (384, 600)
"""Sides of the parts that are cut out, with one half's chance."""


def idol_r18_world_tiny() -> TrainJob:
    """The whole road in seconds, for tests and CI: it runs every step and learns next to nothing.

    vis train --recipe idol_r18_world_tiny
    """
    return _world("idol_r18_world_tiny", TINY, iterations=6)


def idol_r18_world_easy() -> TrainJob:
    """The easy world, 72 minutes on one core: one layer of the encoder and three of the decoder, of 64 channels and 40
    queries, over a ResNet-18 layout at half width and one block a stage.

    vis train --recipe idol_r18_world_easy
    """
    return _world("idol_r18_world_easy", EASY, iterations=24_000)


def idol_r18_world_hard() -> TrainJob:
    """Crowds, look-alikes and occlusion: where embeddings and rules are compared.

    vis train --recipe idol_r18_world_hard
    """
    return _world("idol_r18_world_hard", HARD, iterations=6000)


def idol_r50_coco() -> TrainJob:
    """The first step: instance segmentation of COCO on single images. The paper names no numbers, which are Deformable
    DETR's: 50 epochs of 32 images, a drop after 40.

    vis train --recipe idol_r50_coco --data /data/coco --init r50_deformable_detr.pth --name masks

    The folder has `train.json` and `val.json`, COCO's `instances_*2017.json`, with their images in `train/`, `val/`.
    """
    return _coco("idol_r50_coco", "segmentation", Single(), 184_800, (0.8,), "detector")


def idol_r50_coco_pairs() -> TrainJob:
    """The second step, the dagger: pseudo pairs of COCO, each frame cut and flipped by itself.

    vis train --recipe idol_r50_coco_pairs --data /data/coco --init masks --name pairs

    Cost: 59 200 iterations of 32 pairs, as the authors' code.
    """
    return _coco("idol_r50_coco_pairs", "pairs", PseudoPair(), 59_200, (22_200 / 59_200, 44_400 / 59_200), "whole")


def idol_r50_ytvis2019() -> TrainJob:
    """YouTube-VIS 2019, ResNet-50: AP 46.4 from COCO's masks, 49.5 (dagger) from pseudo pairs, as the released weights.

    vis train --recipe idol_r50_ytvis2019 --data /data/youtube-vis-2019 --init pairs

    Cost: 12 000 iterations of 16 pairs, on eight V100 in the paper (the authors' config says 32).
    """
    return _videos("idol_r50_ytvis2019", "r50", HoldOut(rule="rgnn"))


def idol_r101_ytvis2019() -> TrainJob:
    """YouTube-VIS 2019, ResNet-101: AP 48.2 from COCO's masks, 50.1 (dagger) from pseudo pairs.

    vis train --recipe idol_r101_ytvis2019 --data /data/youtube-vis-2019 --init WEIGHTS
    """
    return _videos("idol_r101_ytvis2019", "r101", HoldOut(rule="rgnn"))


def idol_swinl_ytvis2019() -> TrainJob:
    """YouTube-VIS 2019, Swin-L: AP 61.5 from COCO's masks, 64.3 (dagger) from pseudo pairs.

    vis train --recipe idol_swinl_ytvis2019 --data /data/youtube-vis-2019 --init WEIGHTS
    """
    return _videos("idol_swinl_ytvis2019", "swin_l", HoldOut(rule="rgnn"))


def idol_r50_ytvis2021() -> TrainJob:
    """YouTube-VIS 2021, ResNet-50: AP 43.9 without dagger; 47.7 in the authors' model zoo, from pseudo pairs.

    vis train --recipe idol_r50_ytvis2021 --data /data/youtube-vis-2021 --init WEIGHTS
    """
    return _videos("idol_r50_ytvis2021", "r50", SHARE)


def idol_r50_ovis() -> TrainJob:
    """OVIS, of crowds and occlusion, ResNet-50: AP 30.2 without dagger; 29.5 in the authors' model zoo.

    vis train --recipe idol_r50_ovis --data /data/ovis --init WEIGHTS
    """
    job = _videos("idol_r50_ovis", "r50", SHARE, LARGE_PX, 1333)
    crowded = {"num_classes": 25, "shorter_px": 720, "longer_most_px": 1333, "mask_nms_iou": 0.3, "new_score": 0.3}
    return job.model_copy(update={"config": job.config.model_copy(update=crowded)})


def _world(name: str, world: WorldData, iterations: int) -> TrainJob:
    """Where queries look learns at a tenth of the rate, as in Zhu et al., "Deformable DETR", ICLR 2021, section 5."""
    config = IdolConfig(
        num_classes=CLASSES,
        image_size=SIZE_PX,
        backbone=ResNetConfig(depth=18, width=32, blocks=(1, 1, 1, 1)),
        queries=40,
        channels=64,
        heads=4,
        levels=3,
        encoder_layers=1,
        decoder_layers=3,
        hidden=256,
        norm_groups=8,
        dropout=0.0,
        frozen_stages=0,
        learn_reference=True,
        class_weight=4.0,
        match_score=0.3,
        detections=20,
        tracks=32,
    )
    job = from_pairs(
        name,
        "idol",
        config,
        world,
        iterations=iterations,
        sampling=Pair(window=10),
        batch_size=4,
        learning_rate=3e-3,
        weight_decay=0.05,
        clip_gradient=10.0,
    )
    attentions = (
        *(f"encoder.layers.{layer}.self_attn" for layer in range(config.encoder_layers)),
        *(f"decoder.layers.{layer}.cross_attn" for layer in range(config.decoder_layers)),
    )
    looks = ("reference_points", *(f"{attention}.sampling_offsets" for attention in attentions))
    slow = ParameterGroup(begins=tuple(f"network.transformer.{look}" for look in looks), rate=0.1)
    return changed(job, {"stages.0.groups": (slow,), "stages.0.average": 0.998, "stages.0.precision": "fp32"})


def _stage(
    name: str,
    part: str,
    sampling: Sampling,
    iterations: int,
    batch_size: int,
    learning_rate: float,
    drops: tuple[float, ...],
    augmentation: Augmentation,
) -> Stage:
    """What all three steps have in common: AdamW, a tenth of the learning rate for the backbone, and next to no
    gradient at a time."""
    return Stage(
        name=name,
        part=part,
        iterations=iterations,
        batch_size=batch_size,
        sampling=sampling,
        optimizer="adamw",
        learning_rate=learning_rate,
        drops=drops,
        drop_factor=10.0,
        weight_decay=1e-4,
        groups=(ParameterGroup(begins=("network.backbone.",), rate=0.1),),
        clip_gradient=0.01,
        batch_norm="frozen",
        augmentation=augmentation,
    )


def _coco(name: str, stage: str, sampling: Sampling, iterations: int, drops: tuple[float, ...], part: str) -> TrainJob:
    augmentation = Augmentation(shorter_px=SHORTER_PX, longer_most_px=LONGER_PX, crop_px=CUT_PX)
    config = IdolConfig.paper().model_copy(update={"num_classes": 80, "shorter_px": 640, "longer_most_px": 1333})
    step = _stage(stage, part, sampling, iterations, 32, 2e-4, drops, augmentation)
    return TrainJob(recipe=name, model="idol", config=config, stages=(step,))


def _videos(
    name: str, net: Net, hold_out: HoldOut, shorter_px: tuple[int, ...] = SHORTER_PX, longer_px: int = LONGER_PX
) -> TrainJob:
    """Section 4.2; where it is silent, the authors' code."""
    augmentation = Augmentation(shorter_px=shorter_px, longer_most_px=longer_px, crop_px=CUT_PX)
    step = _stage("pairs", "whole", Pair(window=10), 12_000, 16, 1e-4, (8 / 12,), augmentation)
    return TrainJob(recipe=name, model="idol", config=IdolConfig.paper(net), hold_out=hold_out, stages=(step,))


RECIPES: tuple[Callable[[], TrainJob], ...] = (
    idol_r18_world_tiny,
    idol_r18_world_easy,
    idol_r18_world_hard,
    idol_r50_coco,
    idol_r50_coco_pairs,
    idol_r50_ytvis2019,
    idol_r101_ytvis2019,
    idol_swinl_ytvis2019,
    idol_r50_ytvis2021,
    idol_r50_ovis,
)
