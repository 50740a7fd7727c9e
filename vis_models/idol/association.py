"""Which object of the past a detection is: by embeddings alone, each compared with what a memory bank holds.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, 3.3, Eq. (5) to (7).
Where the released code differs, `temporal_weight` chooses: it weighs an embedding by the score of its detection and how
new it is, and how long tracks have existed decides between those that are all alike enough.

Axes: N detections, M tracks, T remembered embeddings of a track, newest first, D channels.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import matching
from vis_models.idol.config import IdolConfig
from vis_models.layers.box_nms import nms_in_groups
from vis_models.matching import NEW

BACKDROP, LEFT_OVER = -2, -3
"""In the place of a track: a detection begins none and overlaps no better one; or it does."""
BACKDROP_IOU = 0.3
"""With a better one, from which it does."""


def detections(config: IdolConfig, chances: Float[Tensor, "Q S"], boxes_px: Float[Tensor, "Q 4"]) -> Int[Tensor, " N"]:
    """Queries that are detections, best first: likely enough, and of a class no duplicate of a better one. Where none
    is likely enough the best one is."""
    scores, labels = chances.max(1)
    likely = (scores > config.min_score).nonzero().squeeze(1)
    if not len(likely):
        return scores.argmax()[None]
    kept = nms_in_groups(boxes_px[likely], scores[likely], labels[likely], config.nms_iou, plus_one=False)
    return likely[kept[: config.detections]]


def unlike_better(config: IdolConfig, masks: Bool[Tensor, "N h w"]) -> Bool[Tensor, " N"]:
    """Whether no better detection, of any class, has nearly the same mask; masks come best first."""
    return matching.unlike_better(mask_iou(masks, masks) > config.mask_nms_iou)


def mask_iou(a: Bool[Tensor, "N h w"], b: Bool[Tensor, "M h w"]) -> Float[Tensor, "N M"]:
    """Of each pair; 1 where both are empty."""
    first, second = a.flatten(1).float(), b.flatten(1).float()
    with torch.autocast(a.device.type, enabled=False):
        shared = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1) - shared
    return (shared + 1e-6) / (union + 1e-6)


def remembered(
    config: IdolConfig, embeddings: Float[Tensor, "M T D"], scores: Float[Tensor, "M T"], held: Int[Tensor, " M"]
) -> Float[Tensor, "M D"]:
    """What a track looks like: the weighted mean of its last embeddings, Eq. (5).

    Args:
        scores: of the detections that these embeddings are of.
        held: how many embeddings there are of each track, one at least; those beyond mean nothing.
    """
    if not config.temporal:
        return embeddings[:, 0]
    age = torch.arange(embeddings.shape[1], device=embeddings.device)
    if config.temporal_weight == "paper":
        weights = (config.tau + config.memory / (age + 1)).expand(scores.shape)
    else:
        weights = scores + (held[:, None] - age) / held[:, None]
    weights = weights * (age < held[:, None])
    return (weights[..., None] * embeddings).sum(1) / weights.sum(1, keepdim=True)


def similarity(
    config: IdolConfig, found: Float[Tensor, "N D"], known: Float[Tensor, "M D"], seen: Int[Tensor, " M"]
) -> Float[Tensor, "N M"]:
    """Eq. (6): the mean of two shares, one among all tracks and one among all detections. In single precision, and in
    logarithms up to the end, as the products of embeddings that nobody normalised overflow an exponential.

    Args:
        seen: sightings of each track so far, sigma.
    """
    with torch.autocast(found.device.type, enabled=False):
        alike = found.float() @ known.float().T
    among_tracks = alike
    if config.temporal and config.temporal_weight == "paper":
        among_tracks = torch.logaddexp(alike, seen.float().log())
    return (among_tracks.log_softmax(1).exp() + alike.log_softmax(0).exp()) / 2


def assign(config: IdolConfig, similar: Float[Tensor, "N M"], seen: Int[Tensor, " M"]) -> Int[Tensor, " N"]:
    """The track of each detection, Eq. (7), or `NEW`: in turn, each takes the best that no earlier one took."""
    taken = torch.full((len(similar),), NEW, dtype=torch.long)
    open_, existed = similar.cpu().clone(), seen.cpu().float()
    weighted = config.temporal and config.temporal_weight == "released"
    for detection in range(len(taken) if open_.shape[1] else 0):
        row = open_[detection]
        enough = row > config.match_score
        if not enough.any():
            continue
        worth = torch.where(enough, row * existed, -1.0) if weighted else row
        best = int(worth.argmax())
        taken[detection] = best
        open_[:, best] = 0
    return taken


def begin(
    config: IdolConfig, taken: Int[Tensor, " N"], scores: Float[Tensor, " N"], masks: Bool[Tensor, "N h w"]
) -> Int[Tensor, " N"]:
    """The same with `NEW` for those alone that are likely enough. What else is left over is what is behind, or a piece
    of a better one: the released code remembers what is behind and then compares nothing with it."""
    taken = taken.clone()
    left = (taken == NEW) & (scores.cpu() <= config.new_score)
    piece = (mask_iou(masks, masks).tril(diagonal=-1) >= BACKDROP_IOU).any(1).cpu()
    taken[left & ~piece] = BACKDROP
    taken[left & piece] = LEFT_OVER
    return taken
