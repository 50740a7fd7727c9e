import pytest

from jobs.training.descent import learning_rate
from jobs.training.recipes.base import ExtraData
from jobs.training.recipes.catalogue import RECIPES, build, in_one_table, published_ap, rows_of, with_row
from vis_models.config import BadConfig
from vis_models.data.holdout import HoldOut
from vis_models.data.sampling import Pair, PseudoPair, Single
from vis_models.layers.backbone_config import ResNetConfig, SwinConfig

pytestmark = pytest.mark.unit


def test_every_recipe_is_listed_under_its_own_name_with_its_command():
    for name, recipe in RECIPES.items():
        assert recipe().recipe == name
        assert f"vis train --recipe {name}" in (recipe.__doc__ or "")


PAPER = ["rgnn_r50_ytvis2019", "rgnn_r101_ytvis2019"]


@pytest.mark.parametrize("recipe", PAPER)
def test_the_first_stage_of_the_paper_has_its_numbers(recipe: str):
    stage = build(recipe).stages[0]
    assert (stage.part, stage.iterations, stage.batch_size, stage.clip_length) == ("detector", 111_960, 8, 1)
    assert (stage.optimizer, stage.weight_decay, stage.warm_up, stage.clip_gradient) == ("adam", 1e-4, 0, None)
    rates = {0: 5e-5, 60 * 933 - 1: 5e-5, 60 * 933: 1e-5, 90 * 933 - 1: 1e-5, 90 * 933: 2e-6, 111_959: 2e-6}
    assert {at: learning_rate(stage, at) for at in rates} == pytest.approx(rates)
    assert stage.mixture_epoch == 7468 // 8 * 8
    assert stage.checkpoint_every == 933


@pytest.mark.parametrize("recipe", PAPER)
def test_the_second_stage_of_the_paper_has_its_numbers(recipe: str):
    job = build(recipe)
    stage = job.stages[1]
    assert (stage.part, stage.iterations, stage.batch_size, stage.clip_length) == ("whole", 94_950, 4, 10)
    assert (stage.optimizer, stage.weight_decay, stage.warm_up, stage.clip_gradient) == ("adam", 1e-4, 0, None)
    assert {learning_rate(stage, at) for at in (0, 633, 50_000, 94_949)} == {2e-4}
    assert (stage.mixture_epoch, stage.cached_copies) == (None, 0)
    assert job.config.frame_weights == pytest.approx([0.285 * 0.8 ** (11 - frame) for frame in range(1, 11)], abs=1e-6)
    assert job.config.frame_weights[0] == pytest.approx(0.031, abs=1e-3)
    assert job.config.frame_weights[-1] == pytest.approx(0.228, abs=1e-3)
    assert sum(job.config.frame_weights) == pytest.approx(1.018, abs=1e-3)


@pytest.mark.parametrize(("recipe", "depth"), zip(PAPER, (50, 101), strict=True))
def test_the_model_of_the_paper_has_its_sizes(recipe: str, depth: int):
    job = build(recipe)
    assert job.config.detector.image_size == (480, 864)
    assert job.config.detector.backbone.depth == depth
    assert (job.config.tracks, job.config.detections, job.config.embedding, job.config.appearance_channels) == (
        24,
        16,
        128,
        512,
    )
    assert (job.config.detector.dropout, job.config.dropout) == (0.1, 0.1)
    assert job.hold_out == HoldOut(rule="rgnn")
    for stage in job.stages:
        assert (stage.augmentation.fit, stage.augmentation.scale) == ((720, 1280), (0.475, 1.0))
        assert (stage.augmentation.horizontal_flip, stage.augmentation.vertical_flip) == (0.5, 0.0)


def test_the_paper_is_one_model_on_two_backbones():
    small, large = (build(recipe).model_dump(exclude={"recipe"}) for recipe in PAPER)
    large["config"]["detector"]["backbone"]["depth"] = 50
    assert small == large


@pytest.mark.parametrize(
    ("recipe", "depth", "classes", "frames"),
    [
        ("masktrack_r50_ytvis2019", 50, 40, 61_341),
        ("masktrack_r101_ytvis2019", 101, 40, 61_341),
        ("masktrack_r50_ytvis2021", 50, 40, 90_160),
        ("masktrack_r50_ovis", 50, 25, 42_149),
    ],
)
def test_masktrack_rcnn_is_trained_as_its_authors_did(recipe: str, depth: int, classes: int, frames: int):
    job = build(recipe)
    (stage,) = job.stages
    assert (job.model, stage.part, stage.batch_size, stage.batch_norm) == ("masktrack_rcnn", "whole", 8, "frozen")
    assert (stage.optimizer, stage.weight_decay, stage.clip_gradient) == ("sgd", 1e-4, 35.0)
    assert stage.iterations == 12 * (frames // 8)
    epoch = frames // 8
    rates = {0: 5e-3 * (1 / 3 + 2 / 3 / 500), 499: 5e-3, 8 * epoch - 1: 5e-3, 8 * epoch: 5e-4, 11 * epoch: 5e-5}
    assert {at: learning_rate(stage, at) for at in rates} == pytest.approx(rates)
    assert stage.sampling == Pair(window=None, reference_shows=True)
    assert (stage.augmentation.shorter_px, stage.augmentation.longer_most_px) == ((360,), 640)
    detector = job.config.detector
    assert (detector.backbone.depth, job.config.classes, detector.frozen_stages) == (depth, classes, 1)
    assert (detector.region_samples, detector.proposals, detector.box_samples, detector.positive_share) == (
        64, 200, 128, 0.25,
    )  # fmt: skip
    assert (detector.positive_iou, detector.detections, job.config.keep_frames) == (0.7, 10, None)


@pytest.mark.parametrize(
    ("recipe", "depth", "classes", "frames", "published"),
    [
        ("maskprop_r50_ytvis2019", 50, 40, 61_341, 40.0),
        ("maskprop_r101_ytvis2019", 101, 40, 61_341, 42.5),
        ("maskprop_r50_ytvis2021", 50, 40, 90_160, None),
        ("maskprop_r50_ovis", 50, 25, 42_149, None),
    ],
)
def test_maskprop_is_trained_as_its_paper_says(
    recipe: str, depth: int, classes: int, frames: int, published: float | None
):
    job = build(recipe)
    pairs, refinement = job.stages
    epoch = frames // 16
    assert (pairs.part, pairs.iterations, refinement.part) == ("whole", 20 * epoch, "refinement")
    rates = {500: 2e-3, 16 * epoch - 1: 2e-3, 16 * epoch: 2e-4, 19 * epoch: 2e-5}  # 8e-3 for 64 pairs
    assert {at: learning_rate(pairs, at) for at in rates} == pytest.approx(rates)
    assert pairs.sampling == Pair(window=25, itself=True)
    assert (min(pairs.augmentation.shorter_px), max(pairs.augmentation.shorter_px)) == (400, 800)
    config, detector = job.config, job.config.detector
    assert (detector.backbone.depth, config.classes, published_ap(recipe)) == (depth, classes, published)
    assert (detector.proposals, detector.min_score, config.clip_length) == (1000, 0.1, 13)
    assert (config.offset_channels, config.dilations, config.refinement.side_px, config.refinement.channels) == (
        128, (3, 6, 12), 384, 128,
    )  # fmt: skip


def test_a_stage_of_a_part_that_the_model_is_built_without_is_refused():
    with pytest.raises(BadConfig, match=r"stage refinement trains the part 'refinement', expected .*: detector, whole"):
        build("maskprop_r18_world_tiny", {"config.refinement": None})
    kept = [stage.model_dump() for stage in build("maskprop_r18_world_tiny").stages[:1]]
    assert build("maskprop_r18_world_tiny", {"config.refinement": None, "stages": kept}).config.refinement is None


@pytest.mark.parametrize(
    ("recipe", "backbone", "classes", "shorter_px"),
    [
        ("idol_r50_ytvis2019", ResNetConfig(), 40, 360),
        ("idol_r101_ytvis2019", ResNetConfig(depth=101), 40, 360),
        ("idol_swinl_ytvis2019", SwinConfig(), 40, 360),
        ("idol_r50_ytvis2021", ResNetConfig(), 40, 360),
        ("idol_r50_ovis", ResNetConfig(), 25, 720),
    ],
)
def test_idol_is_trained_as_its_paper_says(recipe: str, backbone: object, classes: int, shorter_px: int):
    job = build(recipe)
    (stage,) = job.stages
    assert (job.model, stage.part, stage.batch_size, stage.iterations) == ("idol", "whole", 16, 12_000)
    assert (stage.optimizer, stage.weight_decay, stage.clip_gradient) == ("adamw", 1e-4, 0.01)
    rates = {0: 1e-4, 7_999: 1e-4, 8_000: 1e-5, 11_999: 1e-5}
    assert {at: learning_rate(stage, at) for at in rates} == pytest.approx(rates)
    assert (stage.groups[0].begins, stage.groups[0].rate, stage.batch_norm) == (("network.backbone.",), 0.1, "frozen")
    assert stage.sampling == Pair(window=10)
    drawn, large = stage.augmentation, recipe.endswith("ovis")
    assert (drawn.shorter_px[0], drawn.shorter_px[-1], len(drawn.shorter_px)) == (
        (480, 800) if large else (320, 640)
    ) + (11,)
    assert (drawn.longer_most_px, drawn.crop_px, drawn.crop) == (1333 if large else 768, (384, 600), 0.5)
    config = job.config
    assert (config.backbone, config.classes, config.shorter_px) == (backbone, classes, shorter_px)
    assert (config.queries, config.encoder_layers, config.decoder_layers, config.temporal_weight) == (
        300,
        6,
        6,
        "paper",
    )
    assert (config.embed_weight, config.cosine_weight) == (1.0, 0.0)


def test_idol_learns_images_then_two_crops_of_each_before_videos():
    images, pairs = build("idol_r50_coco").stages[0], build("idol_r50_coco_pairs").stages[0]
    assert (images.part, images.sampling, pairs.part, pairs.sampling) == ("detector", Single(), "whole", PseudoPair())
    rates = {0: 2e-4, 22_199: 2e-4, 22_200: 2e-5, 44_400: 2e-6}
    assert {at: learning_rate(pairs, at) for at in rates} == pytest.approx(rates)


def test_rows_of_idol_that_are_rules_share_weights_and_the_others_are_trained_whole():
    hard = "idol_r18_world_hard"
    assert in_one_table(hard) == ("proposed", "ot_embedding")
    assert not with_row(hard, "ot_embedding").config.temporal
    said = f"trained whole: vis train --recipe {hard} --set config.embed_loss=id, and given as --other"
    with pytest.raises(BadConfig, match=said):
        with_row(hard, "id_embedding")
    for name, row in rows_of(hard).items():
        job = build(hard, {f"config.{field}": value for field, value in row.changes.items()})
        assert (name == "proposed") == (job.config == build(hard).config)


def test_the_published_ap_of_idol_is_named_with_the_weights_that_it_is_of():
    said = {
        name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items() if name.startswith("idol_r50_")
    }
    assert published_ap("idol_r50_ytvis2019") == 46.4
    assert "46.4 from COCO's masks, 49.5 (dagger) from pseudo pairs" in said["idol_r50_ytvis2019"]
    assert all("dagger" in line for name, line in said.items() if published_ap(name))


def test_visstg_is_trained_as_its_paper_says():
    job = build("visstg_r50_ytvis2019")
    (stage,) = job.stages
    assert (job.model, stage.batch_size, stage.iterations, stage.sampling) == (
        "vis_stg", 16, 24 * 3833, Pair(window=4, reference_shows=True)
    )  # fmt: skip
    assert (stage.optimizer, stage.batch_norm, stage.clip_gradient) == ("sgd", "frozen", 35.0)
    rates = {500: 1e-2, 16 * 3833 - 1: 1e-2, 16 * 3833: 1e-3, 22 * 3833: 1e-4}
    assert {at: learning_rate(stage, at) for at in rates} == pytest.approx(rates)
    assert (job.config.gnn_iterations, job.config.messages, job.config.keep_frames) == (3, "sum", 7)
    assert published_ap("visstg_r50_ytvis2019") == rows_of("visstg_r50_ytvis2019")["proposed"].published_ap == 36.5


def test_every_row_of_visstg_is_trained_whole_and_is_another_model_than_the_others():
    hard, known = "visstg_r18_world_hard", set()
    assert in_one_table(hard) == ("proposed",)
    for name, row in rows_of(hard).items():
        job = build(hard, {f"config.{field}": value for field, value in row.changes.items()})
        known.add(job.config.model_dump_json())
        if name != "proposed":
            with pytest.raises(BadConfig, match=f"is trained whole: vis train --recipe {hard} --set config"):
                with_row(hard, name)
    assert len(known) == len(rows_of(hard)) == 11


def test_extra_data_is_given_from_outside():
    extra = [{"labels": "images.json", "chance": 0.75, "names": {"Man": "person"}}]
    job = build("rgnn_r50_ytvis2019", {"extra": extra})
    assert job.extra == (ExtraData(labels="images.json", chance=0.75, names={"Man": "person"}),)


def test_extra_data_that_no_stage_would_see_is_refused():
    extra = [{"labels": "images.json", "chance": 0.75}]
    with pytest.raises(BadConfig, match="no stage mixes the extra data in"):
        build("rgnn_r18_world_tiny", {"extra": extra})
    with pytest.raises(BadConfig, match="leave none for the main one"):
        build("rgnn_r50_ytvis2019", {"extra": extra * 2})
    with pytest.raises(BadConfig, match="cached copies are of the main set alone"):
        build("rgnn_r50_ytvis2019", {"stages.0.cached_copies": 1})


def test_a_field_is_changed_by_its_dotted_path():
    job = build("rgnn_r18_world_tiny", {"stages.0.iterations": 7, "config.tracks": 12})
    assert job.stages[0].iterations == 7
    assert job.config.tracks == 12


def test_an_unknown_recipe_is_refused_with_the_known_ones_or_the_nearest():
    with pytest.raises(BadConfig, match=r"unknown recipe 'yolo', expected one of: rgnn_r18_world_demo"):
        build("yolo")
    with pytest.raises(BadConfig, match=r"'rgnn_r18_world_esay', did you mean rgnn_r18_world_easy; `vis models"):
        build("rgnn_r18_world_esay")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": []}, "stages: Tuple should have at least 1 item"),
        ({"stages.1.name": "detector"}, "the stages are named detector, detector: expected another name for each"),
        ({"stages.1.name": "../up"}, "stages.1.name: expected letters, digits"),
        ({"recipe": "x y/z"}, "recipe: expected letters, digits, .* got 'x y/z'"),
        ({"stages.0.learning_rate": "inf"}, "stages.0.learning_rate: expected a number that is finite, got inf"),
        ({"config.detector.class_weight": float("inf")}, "config.detector.class_weight: expected a number that is fin"),
        ({"stages.0.drops": [0.5, 2]}, "stages.0.drops.1: Input should be less than 1, got 2"),
        ({"stages.0.drops": [0.5, 0.5]}, r"stages.0.drops: expected shares that rise, got \[0.5, 0.5\]"),
        ({"config.tracks": 7}, "config.tracks is 7, config.detections 8: in training every detection"),
        ({"extra": [{"labels": "a", "chance": 0.5}]}, "no stage mixes the extra data in"),
    ],
)
def test_a_run_that_cannot_work_is_refused_in_one_short_sentence(changes: dict, says: str):
    with pytest.raises(BadConfig, match=f"^recipe rgnn_r18_world_tiny: {says}") as refused:
        build("rgnn_r18_world_tiny", changes)
    assert len(str(refused.value)) < 220


def test_a_mistyped_field_is_met_with_the_right_name():
    with pytest.raises(BadConfig, match="'iteration' is no field, did you mean iterations"):
        build("rgnn_r18_world_tiny", {"stages.0.iteration": 1})
    with pytest.raises(BadConfig, match="unknown row 'simpel' of the paper's tables, did you mean simple"):
        with_row("rgnn_r18_world_hard", "simpel")


@pytest.mark.parametrize("path", ["stages.0.iteration", "stages.9.iterations", "confg.tracks", "config.tracks.x"])
def test_an_unknown_config_key_is_refused(path: str):
    with pytest.raises(BadConfig, match=f"unknown config key '{path}'"):
        build("rgnn_r18_world_tiny", {path: 1})


def test_a_value_out_of_range_is_refused_with_the_range():
    with pytest.raises(BadConfig, match=r"stages.0.gate_ap50: Input should be less than or equal to 1, got 50"):
        build("rgnn_r18_world_tiny", {"stages.0.gate_ap50": 50})
