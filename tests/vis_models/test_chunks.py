"""A part at a time is the same as all at once."""

import pytest
import torch
from torch import Tensor, nn

from vis_models.layers.chunks import in_chunks

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_rows_in_chunks_give_the_values_and_the_gradients_of_all_at_once(most: int):
    net, shared = nn.Linear(3, 2).double(), torch.randn(2, dtype=torch.float64, requires_grad=True)
    rows, index = torch.randn(7, 3, dtype=torch.float64, requires_grad=True), torch.arange(7)

    def work(each: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return net(each).tanh() * shared, each.sum(1) * number

    def gradients(said: tuple[Tensor, ...]) -> list[Tensor]:
        total = sum(each.square().sum() for each in said)
        return [*said, *torch.autograd.grad(total, [rows, shared, *net.parameters()])]

    at_once, in_parts = gradients(work(rows, index)), gradients(in_chunks(work, most, rows, index))
    assert all(torch.allclose(a, b) for a, b in zip(at_once, in_parts, strict=True))


def test_no_more_rows_than_were_asked_for_are_looked_at_together_and_none_are_fine():
    seen: list[int] = []

    def work(each: Tensor) -> tuple[Tensor]:
        seen.append(len(each))
        return (each * 2,)

    with torch.no_grad():
        (said,) = in_chunks(work, 4, torch.arange(10.0))
        (none,) = in_chunks(work, 4, torch.zeros(0))
    assert said.tolist() == [2.0 * number for number in range(10)]
    assert seen == [4, 4, 2, 0]
    assert none.shape == (0,)
