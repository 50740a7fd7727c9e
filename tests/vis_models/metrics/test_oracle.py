"""Truth comes from arithmetic on small drawings."""

from dataclasses import replace

import numpy as np
import pytest

from vis_models.metrics.average_precision import accumulate
from vis_models.metrics.mask_tracks import Prediction, Truth
from vis_models.metrics.oracle import CLIP_FRAMES, true_identities
from vis_models.metrics.scenes import scenes
from vis_models.metrics.track_matching import match_video
from vis_models.metrics.youtube_vis import GroundTruth

from .test_average_precision import found, random_world, square, world

pytestmark = pytest.mark.unit


def opened(objects: list[list], results: list[dict]) -> tuple[list[Prediction], list[Truth]]:
    truth = GroundTruth(world(objects))
    return truth.predictions(results), truth.truths(1)


def ap(predictions: list[Prediction], truths: list[Truth]) -> float:
    return accumulate([match_video(scenes(predictions, truths, [1]))], [1]).summary()["AP"]


def here(track: Prediction) -> list[bool]:
    return [rle is not None for rle in track.rles]


FOUR, OTHER = square(3, frames=4), square(3, at=5, frames=4)
SWAPPED = [found([*FOUR[:2], *OTHER[2:]], 0.8), found([*OTHER[:2], *FOUR[2:]], 0.6)]


def test_two_tracks_that_swap_their_objects_are_swapped_back():
    predictions, truths = opened([FOUR, OTHER], SWAPPED)
    assert ap(predictions, truths) == 0
    relinked = true_identities(predictions, truths)
    assert ap(relinked, truths) == pytest.approx(1)
    assert [(track.track_id, track.score) for track in relinked] == [(1, pytest.approx(0.7)), (2, pytest.approx(0.7))]


def test_inside_a_clip_the_predicted_identities_stay():
    predictions, truths = opened([FOUR, OTHER], SWAPPED)
    assert ap(true_identities(predictions, truths, clip_frames=2), truths) == pytest.approx(1)
    # In one clip of four frames each track covers each object with IoU 18 / 54, less than half.
    assert true_identities(predictions, truths, clip_frames=4) == []
    assert CLIP_FRAMES > 4


def test_a_mask_belongs_to_the_object_that_it_covers_best_and_the_best_mask_wins():
    whole, part = square(4), square(3)  # IoU of the part: 9 / 16
    predictions, truths = opened([whole], [found(part, 0.9), found(whole, 0.1), found(square(2, at=5), 0.9)])
    (only,) = true_identities(predictions, truths)
    assert (only.areas_px.tolist(), only.score) == ([16], 0.1)


def test_one_mask_over_two_objects_belongs_to_one_of_them():
    both = square(4)
    predictions, truths = opened([square(3), both], [found(both, 0.9)])  # IoU 9 / 16 and 1
    (only,) = true_identities(predictions, truths)
    assert only.track_id == truths[1].truth_id


def test_crowds_are_no_objects_to_an_oracle():
    predictions, truths = opened([square(4)], [found(square(4), 0.9)])
    crowd = [replace(truth, crowd=True) for truth in truths]
    assert len(true_identities(predictions, truths)) == 1
    assert true_identities(predictions, crowd) == []


def test_a_mask_that_covers_less_than_half_of_any_object_is_dropped():
    predictions, truths = opened([square(4)], [found(square(2), 0.9)])
    assert true_identities(predictions, truths) == []
    assert true_identities([], truths) == []


def test_the_class_is_the_one_with_the_most_score_and_the_score_is_its_mean_over_all_masks():
    frames = square(4, frames=3)
    results = [found([*frames[:2], None], 0.4, category=1), found([None, None, frames[2]], 0.6, category=2)]
    predictions, truths = opened([frames], results)
    (only,) = true_identities(predictions, truths)
    assert (only.category, only.score) == (1, pytest.approx(0.8 / 3))
    assert here(only) == [True] * 3


@pytest.mark.parametrize("seed", range(4))
def test_perfect_tracks_stay_perfect(seed):
    content, _ = random_world(seed)
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"] and any(a["areas"])]
    truth = GroundTruth(content)
    for video in truth.video_ids():
        own = truth.annotations[video]
        predictions = truth.predictions([found(a["segmentations"], 0.5, a["category_id"], video) for a in own])
        truths = truth.truths(video)
        changed = true_identities(predictions, truths)
        pairs = zip(changed, truths, strict=True)
        assert all(np.array_equal(track.areas_px, object_.areas_px) for track, object_ in pairs)
        assert {track.category for track in changed} == {object_.category for object_ in truths}
