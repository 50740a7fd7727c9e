"""Anchors, and boxes told relative to them.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1 and Eq. (2): an anchor stands at every place of a map and
for every ratio; a box is told by (x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha), each times a weight.
torchvision rounds anchors to pixels and centres them on the corner of a cell; `plus_one` is Detectron's older count,
in which a box holds its last pixel, of the original MaskTrack R-CNN.

Axes: P anchors of a map, A anchors of a place.
"""

from collections.abc import Sequence
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

MOST_GROWTH = log(1000 / 16)
"""Largest logarithm of how much larger than its anchor a box is taken to be."""


def anchors(
    size: tuple[int, int],
    stride: tuple[int, int],
    side_px: float,
    ratios: Sequence[float],
    plus_one: bool = False,
    rounded: bool = True,
) -> Float[Tensor, "P 4"]:
    """Anchors of a map, row by row, those of a place in the order of the ratios.

    Args:
        size: (height, width) of the map.
        stride: pixels of the input from one cell to the next, down and across.
        side_px: of the square with the anchors' area.
        ratios: height over width.
        plus_one: whether a box holds its last pixel.
        rounded: to whole pixels.
    """
    tall = torch.tensor(ratios).sqrt()
    half = torch.stack([1 / tall, tall], 1) * side_px / 2  # (A, 2)
    if plus_one:
        middle = (stride[1] - 1) / 2
        own = torch.cat([middle - half + 0.5, middle + half - 0.5], 1)
    else:
        own = torch.cat([-half, half], 1)
    own = own.round() if rounded else own
    ys, xs = (torch.arange(count) * step for count, step in zip(size, stride, strict=True))
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return (torch.stack([x, y, x, y], -1).view(-1, 1, 4) + own).view(-1, 4)


def encode(
    boxes: Float[Tensor, "*S 4"], anchors: Float[Tensor, "*S 4"], weights: Sequence[float], plus_one: bool = False
) -> Float[Tensor, "*S 4"]:
    """Corners to what is told of them; the inverse of `decode`."""
    (centre, size), (own_centre, own_size) = _centre_size(boxes, plus_one), _centre_size(anchors, plus_one)
    told = torch.cat([(centre - own_centre) / own_size, (size / own_size).log()], -1)
    return told * told.new_tensor(weights)


def decode(
    told: Float[Tensor, "*S 4"], anchors: Float[Tensor, "*S 4"], weights: Sequence[float], plus_one: bool = False
) -> Float[Tensor, "*S 4"]:
    """What is told of boxes to their corners."""
    own_centre, own_size = _centre_size(anchors, plus_one)
    shift, growth = (told / told.new_tensor(weights)).split(2, -1)
    centre = own_centre + shift * own_size
    half = own_size * growth.clamp(max=MOST_GROWTH).exp() / 2 - (0.5 if plus_one else 0.0)
    return torch.cat([centre - half, centre + half], -1)


def _centre_size(boxes: Float[Tensor, "*S 4"], plus_one: bool) -> tuple[Float[Tensor, "*S 2"], Float[Tensor, "*S 2"]]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low + plus_one
