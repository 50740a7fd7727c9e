import numpy as np
import pytest

from vis_models.metrics.scenes import ANY, compare_frames, scenes
from vis_models.metrics.youtube_vis import GroundTruth, results_by_video

from .test_average_precision import random_world

pytestmark = pytest.mark.unit


def test_a_part_of_a_scene_is_what_comparing_that_part_alone_would_give():
    compared = 0
    for seed in range(20):
        truth, results = random_world(seed)
        opened, rng = GroundTruth(truth), np.random.default_rng(seed)
        grouped = results_by_video(opened, results)
        for video in opened.video_ids():
            predictions, truths = opened.predictions(grouped.get(video, [])), opened.truths(video)
            for scene in scenes(predictions, truths, [*opened.categories]).values():
                objects = [n for n in range(len(scene.truths)) if rng.random() < 0.6]
                tracks = [n for n in range(len(scene.predictions)) if rng.random() < 0.6]
                alone = compare_frames([scene.truths[n] for n in objects], [scene.predictions[n] for n in tracks])
                for part, expected in zip(scene.between(objects, tracks), alone, strict=bool(alone)):
                    assert part.objects.tolist() == expected.objects.tolist()
                    assert part.tracks.tolist() == expected.tracks.tolist()
                    np.testing.assert_array_equal(part.iou, expected.iou)
                    compared += part.iou.size
    assert compared > 100


def test_scenes_hold_every_object_and_track_of_the_categories_that_count_once():
    truth, results = random_world(0)
    opened = GroundTruth(truth)
    grouped = results_by_video(opened, results)
    predictions, truths = opened.predictions(grouped[1]), opened.truths(1)
    first = min(opened.categories)
    for class_agnostic in (False, True):
        shown = scenes(predictions, truths, [first], class_agnostic)
        assert set(shown) == ({ANY} if class_agnostic else {first})
        (scene,) = shown.values()
        assert [*scene.predictions] == [p for p in predictions if p.category == first]
        assert [*scene.truths] == [g for g in truths if g.category == first]
