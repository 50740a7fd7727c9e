"""Masks by networks that are an object's own: a few maps of features for all objects, and for each of them three small
layers over these, whose weights are told with the object.

Source: Tian, Shen, Chen, "Conditional convolutions for instance segmentation", ECCV 2020, section 3.2. Used by IDOL and
VisSTG.

Axes: R objects of all frames, K = 8 channels of the mask features, P parameters, h, w cells.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

HIDDEN = 8
"""Channels of the mask features, and of both inner layers of an object's network."""
WIDTHS = (HIDDEN + 2, HIDDEN, HIDDEN, 1)
"""Of an object's network, whose input begins with two relative coordinates."""
PARAMETERS = sum(a * b for a, b in pairwise(WIDTHS)) + sum(WIDTHS[1:])
"""169: all weights, then all biases."""
FINER = 2
"""Cells of a mask along a side of a cell of the features."""


def dynamic_masks(
    features: Float[Tensor, "R K h w"],
    parameters: Float[Tensor, "R P"],
    centres_px: Float[Tensor, "R 2"],
    stride: int,
    unit_px: Float[Tensor, " R"] | None = None,
) -> Float[Tensor, "R 2*h 2*w"]:
    """Mask logits, twice as fine as the features.

    Args:
        features: of the frame of each object.
        parameters: of each object's network.
        centres_px: (x, y) of each object.
        stride: pixels along a side of a cell.
        unit_px: what an object's coordinates are told in; None: in pixels, as IDOL does.
    """
    objects, _, height, width = features.shape
    with torch.autocast(features.device.type, enabled=False):  # a pixel in a thousand is lost in half of a number
        away = offsets(centres_px.float(), (height, width), stride)
        away = away if unit_px is None else away / unit_px[:, None, None]
        x = torch.cat([away, features.float().flatten(2)], 1)
        weights, biases = layers_of(parameters.float())
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias[..., None], weight, x)
            x = x.relu() if number < len(weights) - 1 else x
        return aligned_bilinear(x.view(objects, 1, height, width), FINER)[:, 0]


def layers_of(parameters: Float[Tensor, "R P"]) -> tuple[list[Float[Tensor, "R _ _"]], list[Float[Tensor, "R _"]]]:
    """Weights (R, out, in) and biases of an object's three layers."""
    shapes = list(pairwise(WIDTHS))
    parts = parameters.split([a * b for a, b in shapes] + list(WIDTHS[1:]), 1)
    weights = [part.unflatten(1, (out, inside)) for part, (inside, out) in zip(parts, shapes, strict=False)]
    return weights, list(parts[len(shapes) :])


def offsets(centres_px: Float[Tensor, "R 2"], size: tuple[int, int], stride: int) -> Float[Tensor, "R 2 _"]:
    """(x, y) from the middle of every cell to the object, in pixels."""
    rows, columns = (torch.arange(side, device=centres_px.device) * stride + stride // 2 for side in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return centres_px[:, :, None] - torch.stack([x, y]).flatten(1)


def aligned_bilinear(maps: Float[Tensor, "R n h w"], factor: int) -> Float[Tensor, "R n _ _"]:
    """To a stride that is smaller by the factor: the middle of a cell, from which offsets count, stays where it was."""
    height, width = (factor * side for side in maps.shape[-2:])
    larger = F.pad(maps, [0, 1, 0, 1], mode="replicate")
    larger = F.interpolate(larger, size=(height + 1, width + 1), mode="bilinear", align_corners=True)
    return F.pad(larger, [factor // 2, 0, factor // 2, 0], mode="replicate")[..., :height, :width]
