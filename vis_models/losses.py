"""Losses that more than one model needs: tensors in, scalar out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def lovasz_softmax(probabilities: Float[Tensor, "F C H W"], labels: Int[Tensor, "F H W"]) -> Float[Tensor, ""]:
    """Lovasz-softmax: a convex surrogate of 1 - IoU, per image, over the classes present in it.

    Source: Berman et al., "The Lovasz-softmax loss", CVPR 2018, Eq. (11) and Alg. 1, "present" classes,
    mean over images. Every (image, class) pair is one row of a single sort.
    """
    one_hot = labels[:, None] == torch.arange(probabilities.shape[1], device=labels.device)[:, None, None]
    present = one_hot.flatten(2).any(-1)
    truth = one_hot[present].flatten(1).to(probabilities.dtype)  # (pairs, H*W)
    errors = (truth - probabilities[present].flatten(1)).abs()
    errors, order = errors.sort(dim=1, descending=True)
    losses = (errors * lovasz_gradient(truth.gather(1, order))).sum(1)
    per_image = present.sum(1)
    weights = (1 / per_image.to(losses.dtype)).repeat_interleave(per_image)
    return (losses * weights).sum() / len(labels)


def lovasz_gradient(sorted_truth: Float[Tensor, "*S P"]) -> Float[Tensor, "*S P"]:
    """Gradient of the Lovasz extension of the Jaccard loss, for truths sorted by falling error (Alg. 1)."""
    total = sorted_truth.sum(-1, keepdim=True)
    intersection = total - sorted_truth.cumsum(-1)
    union = total + (1 - sorted_truth).cumsum(-1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)


def mean_over_workers(count: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """A count of this worker's batch, averaged over all workers: the same normaliser whatever their number."""
    count = count.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count
