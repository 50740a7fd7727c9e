import pytest
import torch

from vis_models.losses import lovasz_softmax

pytestmark = pytest.mark.unit


def test_a_perfect_segmentation_costs_nothing():
    labels = torch.tensor([[[0, 1], [2, 2]]])
    probabilities = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert lovasz_softmax(probabilities, labels).item() == 0


def test_hard_mistakes_cost_one_minus_the_overlap():
    labels = torch.tensor([[[1, 1, 0, 0]]])
    said = torch.tensor([[[1, 0, 0, 0]]])  # class 1 overlaps by 1/2, class 0 by 2/3
    probabilities = torch.nn.functional.one_hot(said, 2).permute(0, 3, 1, 2).float()
    assert lovasz_softmax(probabilities, labels).item() == pytest.approx((1 / 2 + 1 / 3) / 2)
