"""The recipes of RGNN: Johander et al., "Video instance segmentation with recurrent graph neural networks", 2021.

Two stages: YOLACT on single frames, then the tracker on clips, the detector frozen.
"""

from collections.abc import Callable
from typing import Any, Literal

from jobs.training.recipes.base import Stage, TrainJob, WorldData
from jobs.training.recipes.changes import changed
from jobs.training.recipes.worlds import BACKBONE, CLASSES, FLIPS, HARD, SIZE_PX, drawn
from vis_models.data.augmentation import Augmentation
from vis_models.data.holdout import HoldOut
from vis_models.data.world import WorldConfig
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.rows import ROWS
from vis_models.rows import Row
from vis_models.yolact.config import YolactConfig

MEASURED = {"min_score": 0.03, "nms_iou": 0.7, "keep_active_logit": -2.0}
"""As it was when the rows of the paper's tables were trained."""


def rgnn_r18_world_demo() -> TrainJob:
    """Eight minutes on two cores, for `make demo`: a ResNet-18 layout at half width and one block a stage.

    vis train --recipe rgnn_r18_world_demo
    """
    return _world_easy("rgnn_r18_world_demo", detector_iterations=3600, tracker_iterations=330, train_videos=600)


def rgnn_r18_world_tiny() -> TrainJob:
    """The same road in seconds, for tests and CI: it runs every step and learns next to nothing.

    vis train --recipe rgnn_r18_world_tiny
    """
    job = _world_easy("rgnn_r18_world_tiny", detector_iterations=20, tracker_iterations=4, train_videos=8)
    world = WorldData(world=WorldConfig(frames=12), train_videos=8, val_videos=4)
    detector, tracker = job.stages
    detector = detector.model_copy(update={"gate_ap50": 0.0, "gate_frames": 16, "batch_size": 4})
    tracker = tracker.model_copy(update={"batch_size": 4})
    return job.model_copy(update={"stages": (detector, tracker), "world": world})


def rgnn_r18_world_easy() -> TrainJob:
    """The easy world in earnest, meant for 40 minutes on two cores: all blocks of a ResNet-18, at half width.

    vis train --recipe rgnn_r18_world_easy
    """
    job = _world_easy("rgnn_r18_world_easy", detector_iterations=13000, tracker_iterations=1200, train_videos=1500)
    deeper = {"config.detector.backbone.blocks": None, "config.detector.channels": 64}
    return changed(job, deeper | {"stages.0.average": 0.998})


def rgnn_r18_world_hard() -> TrainJob:
    """Crowds, look-alikes and occlusion under a noisy detector: where the rows of the paper's tables are compared.

    vis train --recipe rgnn_r18_world_hard

    A quarter of an hour for the detector on two cores, ten minutes for the tracker. `vis ablate` runs the rows.
    """
    job = _world_easy("rgnn_r18_world_hard", detector_iterations=10_000, tracker_iterations=500, train_videos=1000)
    detector, tracker = job.stages
    return job.model_copy(
        update={
            "world": HARD,
            "config": job.config.model_copy(update={"detections": 12, "tracks": 16} | MEASURED),
            "stages": (
                detector.model_copy(update={"weight_decay": 1e-4}),  # as `MEASURED`
                tracker.model_copy(update={"batch_size": 8, "learning_rate": 6e-3}),
            ),
        }
    )


def rgnn_r50_world_hard() -> TrainJob:
    """The hard world on one GPU, at 288x480: ResNet-50 and the paper's RGNN.

    vis train --recipe rgnn_r50_world_hard

    `--init` takes torchvision's ResNet-50; without it the backbone starts from random weights.
    """
    height, width = 288, 480
    detector = YolactConfig(
        num_classes=6,
        image_size=(height, width),
        prior_scales=((24.0,), (36.0,), (54.0,), (80.0,), (120.0,)),
        prior_aspect=width / height,
        prior_denominator=(width * height) ** 0.5,
        dropout=0.1,
    )
    world = WorldConfig(level="hard", height=height, width=width)
    return TrainJob(
        recipe="rgnn_r50_world_hard",
        config=RgnnConfig(detector=detector),
        world=WorldData(world=world, train_videos=2000, val_videos=200),
        stages=(
            Stage(
                name="detector",
                part="detector",
                gate_ap50=0.5,
                gate_frames=300,
                iterations=12_000,
                batch_size=16,
                optimizer="adamw",
                learning_rate=5e-4,
                cosine=True,
                warm_up=600,
                clip_gradient=10.0,
                average=0.998,
                augmentation=FLIPS,
            ),
            Stage(
                name="tracker",
                part="whole",
                iterations=6_000,
                batch_size=4,
                clip_length=10,
                learning_rate=2e-4,
                augmentation=FLIPS,
                cached_copies=2,
                validate_every=1000,
            ),
        ),
    )


def rgnn_r50_ytvis2019() -> TrainJob:
    """The paper's RGNN on ResNet-50: YouTube-VIS 2019, AP 35.3 published on its validation server.

    vis train --recipe rgnn_r50_ytvis2019 --data /data/youtube-vis-2019 --init yolact_resnet50_54_800000.pth

    The paper's first stage takes three of four samples from OpenImages at first. As it is published, that is
    --set 'extra=[{"labels": "/data/openimages", "chance": 0.75}]'; without it the stage has the videos alone.

    Cost: 206 910 iterations on one GPU; `make bench-gpu` says how long they take on yours. The paper used one V100.
    """
    return _rgnn_ytvis2019("rgnn_r50_ytvis2019", depth=50)


def rgnn_r101_ytvis2019() -> TrainJob:
    """The same on ResNet-101: AP 37.7 published on the validation server.

    vis train --recipe rgnn_r101_ytvis2019 --data /data/youtube-vis-2019 --init yolact_base_54_800000.pth

    OpenImages and cost as in `rgnn_r50_ytvis2019`.
    """
    return _rgnn_ytvis2019("rgnn_r101_ytvis2019", depth=101)


def _world_easy(name: str, detector_iterations: int, tracker_iterations: int, train_videos: int) -> TrainJob:
    """The easy world at 96x160 with a detector that two cores can train."""
    height, width = SIZE_PX
    detector = YolactConfig(
        num_classes=CLASSES,
        image_size=SIZE_PX,
        backbone=BACKBONE,
        channels=48,
        prototypes=24,
        prototype_channels=32,
        prior_scales=((8.0, 12.0), (18.0, 27.0), (40.0, 56.0)),
        prior_ratios=(1.0,),
        prior_aspect=width / height,
        prior_denominator=(width * height) ** 0.5,
        class_weight=2.5,
        semantic_weight=10.0,
        masks_per_image=16,
        soft_masks=True,
    )
    config = RgnnConfig(
        detector=detector,
        detections=8,
        tracks=10,
        embedding=64,
        bottleneck=16,
        appearance_channels=256,
        inactive_box="last",
        min_score=0.1,
        nms_iou=0.4,
        init_test_logit=-1.0,
        loss_frames=3,
        loss_stride=2,
        dropout=0.0,
    )
    return TrainJob(
        recipe=name,
        config=config,
        world=drawn("easy", train_videos, val_videos=150),
        stages=(
            Stage(
                name="detector",
                part="detector",
                gate_ap50=0.5,
                gate_frames=300,
                iterations=detector_iterations,
                batch_size=8,
                optimizer="adamw",
                learning_rate=4e-3,
                cosine=True,
                warm_up=detector_iterations // 20,
                weight_decay=0.05,
                clip_gradient=10.0,
                augmentation=FLIPS,
            ),
            Stage(
                name="tracker",
                part="whole",
                iterations=tracker_iterations,
                batch_size=16,
                clip_length=10,
                optimizer="adamw",
                learning_rate=8e-3,
                cosine=True,
                warm_up=tracker_iterations // 20,
                clip_gradient=10.0,
                augmentation=FLIPS,
                precision="fp32",
                cached_copies=1,
            ),
        ),
    )


def _rgnn_ytvis2019(name: str, depth: Literal[50, 101]) -> TrainJob:
    """Sections 4 and C of the paper; where they are silent, its released code.

    Differs from section C.2: the crop is 480x864, to which boxes and priors of the released code are tied, not 480x720.
    """
    augmentation = Augmentation(fit=(720, 1280), scale=(0.475, 1.0))
    return TrainJob(
        recipe=name,
        config=RgnnConfig(detector=YolactConfig(backbone=ResNetConfig(depth=depth), dropout=0.1), dropout=0.1),
        hold_out=HoldOut(rule="rgnn"),
        stages=(
            Stage(
                name="detector",
                part="detector",
                gate_ap50=0.3,
                iterations=120 * 933,
                batch_size=8,
                mixture_epoch=933 * 8,  # of 7468, four times the videos, the last 4 do not fill a batch
                learning_rate=5e-5,
                drops=(60 / 120, 90 / 120),
                augmentation=augmentation,
                checkpoint_every=933,
            ),
            Stage(
                name="tracker",
                part="whole",
                iterations=150 * 633,
                batch_size=4,
                clip_length=10,
                learning_rate=2e-4,
                augmentation=augmentation,
                checkpoint_every=633,
            ),
        ),
    )


RECIPES: tuple[Callable[[], TrainJob], ...] = (
    rgnn_r18_world_demo,
    rgnn_r18_world_tiny,
    rgnn_r18_world_easy,
    rgnn_r18_world_hard,
    rgnn_r50_world_hard,
    rgnn_r50_ytvis2019,
    rgnn_r101_ytvis2019,
)

ROWS_OF = (rgnn_r18_world_hard, rgnn_r50_world_hard, rgnn_r50_ytvis2019)
"""Recipes that also exist with each row of the paper's tables: `rgnn_r18_world_hard.limited`."""


def _row(base: Callable[[], TrainJob], name: str, row: Row) -> Callable[[], TrainJob]:
    full_name = f"{base.__name__}.{name}"

    def recipe() -> TrainJob:
        changes: dict[str, Any] = {f"config.{path}": value for path, value in row.changes.items()}
        return changed(base(), changes | {"recipe": full_name})

    recipe.__name__ = full_name
    recipe.__doc__ = (
        f"Table {row.table}, {row.title}: {row.changes}.\n\nvis train --recipe {full_name} --detector MODEL"
    )
    return recipe


ROW_RECIPES: tuple[Callable[[], TrainJob], ...] = tuple(
    _row(base, name, row)
    for base in ROWS_OF
    for name, row in ROWS.items()
    if row.changes and name != "resnet101"  # another detector: a recipe of its own
)
