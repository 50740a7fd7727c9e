"""Which object of the past each one is: what models have in common who decide it otherwise.

Source of `similarity` and `columns`: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, Eq. (2); papers after it
compare their own way with this one.

Axes: N objects, M tracks or objects of another frame, D channels of an embedding, K masks or boxes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEW = -1
"""In the place of a track: a detection begins one."""


def similarity(features: Float[Tensor, "N D"], memory: Float[Tensor, "M D"]) -> Float[Tensor, "N _"]:
    """Logits of Eq. (2): column 0 is "a new object", worth 0; then the dot product with each track's feature."""
    return torch.cat([features.new_zeros(len(features), 1), features @ memory.T], 1)


def columns(slots: Int[Tensor, " N"], others: Int[Tensor, " M"]) -> Int[Tensor, " N"]:
    """The true column of each object of a frame, by what the objects of a clip are called in two of its frames: that of
    the same object in the other frame, 0 where it is not there."""
    if not len(others):
        return torch.zeros_like(slots)
    same = slots[:, None] == others
    return torch.where(same.any(1), same.int().argmax(1) + 1, 0)


def unlike_better(alike: Bool[Tensor, "*S K K"]) -> Bool[Tensor, "*S K"]:
    """Which of K are like none before them that is kept; the best come first. On the host, one after the other."""
    above = alike.triu(diagonal=1).cpu()
    kept = torch.ones(above.shape[:-1], dtype=torch.bool)
    for better in range(above.shape[-1]):
        kept &= ~(above[..., better, :] & kept[..., better, None])
    return kept.to(alike.device)
