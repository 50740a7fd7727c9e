from dataclasses import replace

import pytest
import torch

from vis_models.trackers.config import FeaturePropagationConfig, IouTrackerConfig
from vis_models.trackers.feature_propagation import FeaturePropagation, propagated, soft_iou
from vis_models.trackers.iou_tracker import IouTracker

from .scenes import Square, places, seen, tracked

pytestmark = pytest.mark.unit


def test_a_mask_goes_where_the_features_under_it_go():
    torch.manual_seed(0)
    before = torch.randn(16, 9, 12)
    now = before.roll((2, -1), dims=(1, 2))
    mask = torch.zeros(1, 9, 12)
    mask[0, 3:6, 4:8] = 1
    carried = propagated(mask, before, now, radius=3, neighbours=5, temperature=0.01)
    inside = (slice(None), slice(2, None), slice(-1))  # what comes in at the borders was nowhere before
    assert (carried > 0.5)[inside].equal(mask.roll((2, -1), dims=(1, 2))[inside] > 0.5)


def test_nothing_goes_further_than_the_radius():
    torch.manual_seed(0)
    before, mask = torch.randn(16, 1, 12), torch.zeros(1, 1, 12)
    mask[0, 0, 2] = 1
    now = before.roll(4, dims=2)
    assert propagated(mask, before, now, 4, 1, 0.01)[..., 6] == 1
    assert propagated(mask, before, now, 3, 1, 0.01)[..., 6] == 0


def test_overlap_is_what_both_cover_of_what_either_covers():
    a, b = torch.tensor([[[1.0, 0.5, 0.0]]]), torch.tensor([[[0.5, 0.5, 1.0]], [[0.0, 0.0, 0.0]]])
    assert soft_iou(a, b).tolist() == [[pytest.approx(1 / 2.5), 0.0]]


def test_a_small_object_that_jumps_clear_of_itself_is_followed_by_its_looks():
    """The square is in the second of four cells of the map, then in the fourth; the ground looks otherwise."""
    first, second = seen(Square(40.0)), seen(Square(120.0))
    ground, cell = torch.tensor([[0.0], [1.0]]).expand(2, 4), torch.tensor([1.0, 0.0])
    frames = []
    for frame, place in ((first, 1), (second, 3)):
        features = ground.clone()
        features[:, place] = cell
        frames.append(replace(frame, cover=torch.eye(4)[place].view(1, 1, 4), features=features.view(2, 1, 4)))
    assert len(places(tracked(IouTracker(IouTrackerConfig()), frames))) == 2
    assert places(tracked(FeaturePropagation(FeaturePropagationConfig()), frames)) == {0: {0: 40, 1: 120}}
