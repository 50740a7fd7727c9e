"""Which object of the frames before a detection is.

Source: Wang et al., "End-to-end video instance segmentation via spatial-temporal graph neural networks", ICCV 2021,
section 3.5, and the two other strategies of its Table 2.

Axes: N detections, M tracks, D channels of an embedding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.matching import NEW, similarity


def assign(scores: Float[Tensor, "N M"], least: float) -> Int[Tensor, " N"]:
    """The track of each detection, or `NEW`. Of the detections that a track is connected to by more than `least` it
    keeps the best, and of the tracks that keep one detection the best has it; the others have none in this frame."""
    if not scores.numel():
        return torch.full((len(scores),), NEW, dtype=torch.long, device=scores.device)
    best, detection = scores.max(0)
    keeps = torch.arange(len(scores), device=scores.device)[:, None] == detection
    offered = torch.where(keeps & (best > least), best, -torch.inf)
    given, track = offered.max(1)
    return torch.where(given > -torch.inf, track, NEW)


def by_embedding(now: Float[Tensor, "N D"], before: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """What is compared as in MaskTrack R-CNN: the chance of each track, among all of them and "a new object", where it
    is the likeliest; else 0."""
    chance = similarity(now, before).softmax(1)
    likeliest = chance == chance.amax(1, keepdim=True)
    return torch.where(likeliest, chance, 0.0)[:, 1:]


def among(scores: Float[Tensor, "N M"], same_class: Bool[Tensor, "N M"]) -> Float[Tensor, "N M"]:
    """Without pairs of different classes, "since no instance can change its class"."""
    return torch.where(same_class, scores, 0.0)
