"""The best boxes of an image that no better one of their group covers: groups are classes, or levels of a pyramid."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models import boxes as box_ops


def nms_in_groups(
    boxes: Float[Tensor, "R 4"], scores: Float[Tensor, " R"], groups: Int[Tensor, " R"], most_iou: float, plus_one: bool
) -> Int[Tensor, " K"]:
    """Indices of the survivors of greedy suppression, best first.

    Args:
        plus_one: whether a box holds its last pixel.
    """
    order = scores.argsort(descending=True, stable=True)
    inclusive = boxes + boxes.new_tensor([0, 0, plus_one, plus_one])
    alive = torch.zeros_like(order, dtype=torch.bool)
    for group in groups.unique().tolist():
        place = (groups[order] == group).nonzero().squeeze(1)
        alive[place] = box_ops.greedy_nms(inclusive[order[place]], most_iou)
    return order[alive]
