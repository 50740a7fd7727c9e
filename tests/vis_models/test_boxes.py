import pytest
import torch

from vis_models import boxes

pytestmark = pytest.mark.unit


def test_overlap_of_two_boxes_is_the_shared_part_of_their_union():
    a, b = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 2, 6, 6], [4, 4, 8, 8]])
    assert boxes.iou(a, b)[0].tolist() == pytest.approx([4 / 28, 0])


def test_an_empty_box_overlaps_nothing_not_even_itself():
    empty = torch.zeros(1, 4)
    assert boxes.iou(empty, empty).item() == 0


def test_centre_and_size_come_back_as_corners():
    box = torch.tensor([[1.0, 2, 5, 10]])
    assert boxes.centre_size(box)[0].tolist() == [3, 6, 4, 8]
    assert torch.equal(boxes.corners(boxes.centre_size(box)), box)


def test_only_fast_suppression_lets_a_fallen_box_bring_down_another():
    chain = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # neighbours overlap by 7/13, ends by 1/4
    assert boxes.fast_nms(chain, 0.5).tolist() == [True, False, False]
    assert boxes.greedy_nms(chain, 0.5).tolist() == [True, False, True]


def test_suppression_of_no_boxes_keeps_none():
    assert boxes.fast_nms(torch.zeros(3, 0, 4), 0.5).shape == (3, 0)
