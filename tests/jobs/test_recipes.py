import pytest

from jobs.recipes import RECIPES, build
from vis_models.types import BadConfig

pytestmark = pytest.mark.unit


def test_every_recipe_is_listed_under_its_own_name_with_its_command():
    for name, recipe in RECIPES.items():
        assert recipe().recipe == name
        assert f"vis train --recipe {name}" in (recipe.__doc__ or "")


def test_the_recipe_of_the_paper_has_its_numbers():
    job = build("rgnn_r50_ytvis2019")
    detector, tracker = job.stages
    assert (detector.iterations, detector.batch_size, detector.learning_rate) == (111960, 8, 5e-5)
    assert (tracker.iterations, tracker.batch_size, tracker.clip_length, tracker.learning_rate) == (94950, 4, 10, 2e-4)
    assert job.config.detector.image_size == (480, 864)
    assert (job.config.tracks, job.config.detections, job.config.embedding, job.config.appearance_channels) == (
        24,
        16,
        128,
        512,
    )
    assert sum(job.config.frame_weights) == pytest.approx(1.018, abs=1e-3)


def test_a_field_is_changed_by_its_dotted_path():
    job = build("rgnn_r18_world_tiny", {"stages.0.iterations": 7, "config.tracks": 12})
    assert job.stages[0].iterations == 7
    assert job.config.tracks == 12


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(BadConfig, match=r"unknown recipe 'rgnn', expected one of: rgnn_r18_world_demo"):
        build("rgnn")


@pytest.mark.parametrize("path", ["stages.0.iteration", "stages.9.iterations", "confg.tracks", "config.tracks.x"])
def test_an_unknown_config_key_is_refused(path: str):
    with pytest.raises(BadConfig, match=f"unknown config key '{path}'"):
        build("rgnn_r18_world_tiny", {path: 1})


def test_a_value_out_of_range_is_refused_with_the_range():
    with pytest.raises(BadConfig, match=r"gate_ap50: Input should be less than or equal to 1, got 50"):
        build("rgnn_r18_world_tiny", {"gate_ap50": 50})
