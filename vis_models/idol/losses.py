"""The training objective of IDOL: what is asked of matched queries, and of embeddings of two frames.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, Eq. (2) to (4). Unlike
Eq. (2): sums are divided by the number of matched queries, and weights of the single terms are the released code's.

Axes: F frames, Q queries, S classes, R matched queries of all frames, P positive and N negative embeddings,
D channels of an embedding.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.idol.matching import ALPHA, GAMMA
from vis_models.losses import dice, sigmoid_focal

SPARED = 10
"""Negatives that the auxiliary loss draws for each positive."""


def class_loss(
    logits: Float[Tensor, "F Q S"], labels: Int[Tensor, "F Q"], count: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Focal loss of every class of every query; `labels`: -1 where a query is nothing."""
    wanted = F.one_hot(labels + 1, logits.shape[-1] + 1)[..., 1:].to(logits.dtype)
    return sigmoid_focal(logits, wanted, ALPHA, GAMMA).sum() / count


def box_losses(
    boxes: Float[Tensor, "R 4"], wanted: Float[Tensor, "R 4"], count: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """L1 and generalised IoU of matched boxes (cx, cy, width, height), as shares of the picture."""
    corners, true = box_ops.corners(boxes), box_ops.corners(wanted)
    apart = 1 - box_ops.generalised_iou(corners[:, None], true[:, None])
    return (boxes - wanted).abs().sum() / count, apart.sum() / count


def mask_losses(
    logits: Float[Tensor, "R h w"], wanted: Float[Tensor, "R h w"], count: Float[Tensor, ""]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Focal loss, the mean over pixels, and dice."""
    focal = sigmoid_focal(logits, wanted, ALPHA, GAMMA).flatten(1).mean(1)
    return focal.sum() / count, dice(logits, wanted, "detr").sum() / count


def contrast(
    key: Float[Tensor, " D"], positives: Float[Tensor, "P D"], negatives: Float[Tensor, "N D"]
) -> Float[Tensor, ""]:
    """Eq. (4) of one object. The sum over pairs of exp(v k- - v k+) is a product of two sums: its logarithm is taken of
    each, which does not overflow. Without a positive or a negative there is no pair, and the loss is log 1."""
    if not (len(positives) and len(negatives)):
        return (key.sum() + positives.sum() + negatives.sum()) * 0
    liked, disliked = (positives * key).sum(1), (negatives * key).sum(1)  # no product of matrices: half precision
    return F.softplus(disliked.logsumexp(0) + (-liked).logsumexp(0))


def cosine_loss(
    key: Float[Tensor, " D"], positives: Float[Tensor, "P D"], negatives: Float[Tensor, "N D"]
) -> Float[Tensor, ""]:
    """The released code's auxiliary loss: the cosine with a positive shall be 1, with a negative 0. Of many negatives
    as many as `SPARED` for each positive are drawn."""
    most = SPARED * max(len(positives), 1)
    if len(negatives) > most:
        negatives = negatives[torch.randperm(len(negatives), device=negatives.device)[:most]]
    others = torch.cat([positives, negatives])
    if not len(others):
        return key.sum() * 0
    wanted = torch.cat([positives.new_ones(len(positives)), negatives.new_zeros(len(negatives))])
    return F.mse_loss((F.normalize(others, dim=-1) * F.normalize(key, dim=-1)).sum(1), wanted)
