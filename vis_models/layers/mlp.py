"""Linear layers with ReLU between them."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """`widths`: of the input, of each layer between, of the output. Names are DETR's."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))  # type: ignore[assignment]

    def forward(self, x: Float[Tensor, "*S _"]) -> Float[Tensor, "*S _"]:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)
