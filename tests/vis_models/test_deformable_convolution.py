"""Deformable convolution against a loop over every tap, and against the convolution that it is without offsets."""

from itertools import product
from math import floor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_models.layers.deformable_convolution import DeformableConvolution, deformable_convolution, sample

pytestmark = pytest.mark.unit


def bilinear(picture: Tensor, y: float, x: float) -> float:
    """Of one channel; what lies outside is zero."""
    total = 0.0
    for row, column in product((floor(y), floor(y) + 1), (floor(x), floor(x) + 1)):
        if 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * picture[row, column].item()
    return total


def loop(
    x: Tensor, offsets: Tensor, weight: Tensor, strength: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    batch, channels = x.shape[:2]
    outputs, inner, kh, kw = weight.shape
    groups = offsets.shape[1] // (2 * kh * kw)
    answer = torch.zeros(batch, outputs, *offsets.shape[2:], dtype=x.dtype)
    for b, d, i, j in product(*(range(n) for n in answer.shape)):
        first = d // (outputs // (channels // inner)) * inner  # channel of the group that this output reads
        for c, p, q in product(range(inner), range(kh), range(kw)):
            tap = (first + c) // (channels // groups) * kh * kw + p * kw + q
            dy, dx = offsets[b, 2 * tap : 2 * tap + 2, i, j].tolist()
            y, at = i * stride - padding + p * dilation + dy, j * stride - padding + q * dilation + dx
            read = bilinear(x[b, first + c], y, at) * strength[b, tap, i, j]
            answer[b, d, i, j] += weight[d, c, p, q] * read
    return answer


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "offset_groups"),
    [
        ((3, 3), 1, 1, 1, 1, 1),
        ((3, 3), 1, 3, 3, 1, 1),
        ((3, 3), 2, 1, 1, 2, 1),
        ((1, 2), 1, 0, 2, 1, 4),
        ((2, 3), 2, 2, 1, 2, 2),
    ],
)
def test_every_output_is_the_weighted_sum_that_a_loop_over_the_taps_gives(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int, groups: int, offset_groups: int
):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 6).double(), torch.randn(4, 4 // groups, *kernel).double()
    height, width = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    taps = offset_groups * kernel[0] * kernel[1]
    offsets, strength = (
        2 * torch.randn(2, 2 * taps, height, width).double(),
        torch.rand(2, taps, height, width).double(),
    )
    found = deformable_convolution(x, offsets, weight, None, strength, stride, padding, dilation)
    torch.testing.assert_close(found, loop(x, offsets, weight, strength, stride, padding, dilation))


def test_without_offsets_it_is_a_convolution():
    torch.manual_seed(0)
    layer = DeformableConvolution(4, 6, padding=3, dilation=3)
    x = torch.randn(2, 4, 8, 9)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=3, dilation=3)
    torch.testing.assert_close(layer(x, torch.zeros(2, 18, 8, 9)), plain)


def test_a_whole_offset_reads_the_neighbour_and_beyond_the_edge_there_is_nothing():
    picture = torch.arange(12.0).view(1, 1, 3, 4)
    right = deformable_convolution(
        picture, torch.tensor([0.0, 1]).view(1, 2, 1, 1).expand(1, 2, 3, 4), torch.ones(1, 1, 1, 1)
    )
    torch.testing.assert_close(right[0, 0], torch.tensor([[1.0, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]))
    # Half a pixel below the corner, half of it is outside
    assert sample(picture, torch.tensor([2.5, 3.0]).view(1, 1, 2, 1, 1)).item() == pytest.approx(5.5)


def test_offsets_of_another_size_are_refused_with_the_size_that_fits():
    x, weight = torch.zeros(1, 4, 8, 8), torch.zeros(4, 4, 3, 3)
    with pytest.raises(ValueError, match=r"offsets have shape \(1, 18, 8, 8\), expected \(batch, groups \* 18, 4, 4\)"):
        deformable_convolution(x, torch.zeros(1, 18, 8, 8), weight, stride=2, padding=1)
