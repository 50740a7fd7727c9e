"""Losses that more than one model needs: tensors in, scalar out."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def lovasz_softmax(
    probabilities: Float[Tensor, "F C H W"],
    labels: Int[Tensor, "F H W"],
    classes: Literal["present", "all"] = "present",
    per_image: bool = True,
    ignore: int | None = None,
) -> Float[Tensor, ""]:
    """Lovasz-softmax: a convex surrogate of 1 - IoU, averaged over classes and then over images.

    Source: Berman et al., "The Lovasz-softmax loss", CVPR 2018, Eq. (11) and Alg. 1. Every (image, class) pair
    is one row of a single sort.

    Args:
        classes: the ones that an image has a label of, or all of them.
        per_image: the overlap of each image; otherwise that of all images as if they were one.
        ignore: label, not of a class, of pixels that do not count; where no other is left the loss is zero.
    """
    probabilities, labels = probabilities.flatten(2), labels.flatten(1)
    if not per_image:
        probabilities, labels = probabilities.transpose(0, 1).flatten(1)[None], labels.flatten()[None]
    one_hot = labels[:, None] == torch.arange(probabilities.shape[1], device=labels.device)[:, None]
    rows = one_hot.any(-1) if classes == "present" else torch.ones_like(one_hot[..., 0])
    truth = one_hot[rows].to(probabilities.dtype)  # (pairs, pixels)
    errors = (truth - probabilities[rows]).abs()
    if ignore is not None:
        errors = errors.masked_fill((labels == ignore)[rows.nonzero()[:, 0]], -1.0)  # sorted last, worth nothing
    per_row = rows.sum(1)
    weights = (1 / per_row.to(errors.dtype)).repeat_interleave(per_row)
    return (_lovasz_extension(errors, truth) * weights).sum() / len(labels)


def lovasz_hinge(logits: Float[Tensor, "F H W"], labels: Int[Tensor, "F H W"]) -> Float[Tensor, ""]:
    """The binary form on hinge errors, section 3.2 of the same paper: labels 0 or 1, averaged over images."""
    truth = labels.flatten(1).to(logits.dtype)
    errors = 1 - logits.flatten(1) * (2 * truth - 1)
    return _lovasz_extension(errors, truth).mean()


def _lovasz_extension(errors: Float[Tensor, "S P"], truth: Float[Tensor, "S P"]) -> Float[Tensor, " S"]:
    """Jaccard loss of each row, interpolated between the corners at which every error is 0 or 1 (Alg. 1)."""
    errors, order = errors.sort(dim=1, descending=True)
    return (F.relu(errors) * lovasz_gradient(truth.gather(1, order))).sum(1)


def lovasz_gradient(sorted_truth: Float[Tensor, "*S P"]) -> Float[Tensor, "*S P"]:
    """Gradient of the Lovasz extension of the Jaccard loss, for truths sorted by falling error (Alg. 1)."""
    total = sorted_truth.sum(-1, keepdim=True)
    intersection = total - sorted_truth.cumsum(-1)
    union = total + (1 - sorted_truth).cumsum(-1)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)


def worker_count() -> int:
    """Workers that share the global batch; 1 outside of data-parallel training."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def mean_over_workers(count: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """A count of this worker's batch, averaged over all workers: the same normaliser whatever their number."""
    count = count.float()
    if (workers := worker_count()) > 1:
        torch.distributed.all_reduce(count)
        count = count / workers
    return count


def nothing(*modules: nn.Module) -> Float[Tensor, ""]:
    """Zero, with a gradient of zero for every parameter that is trained, also where a batch has nothing for it: workers
    share their gradients."""
    trained = [each.sum() for module in modules for each in module.parameters() if each.requires_grad]
    return torch.stack(trained).sum() * 0


def track_loss(
    logits: Sequence[Float[Tensor, "_ _"]],
    targets: Sequence[Int[Tensor, " _"]],
    normaliser: Literal["positives", "known"],
    weights: Sequence[Float[Tensor, " _"]] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of which object of another frame the objects of each frame are, the mean over frames.

    Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, Eq. (2); logits and targets are those of
    `matching.similarity` and `matching.columns`.

    Args:
        targets: column of the same object, 0 for one that is not in the other frame.
        normaliser: of a frame: how many weigh anything (`positives`), or how many objects are in the other frame
            (`known`).
        weights: of each object; one where not given.
    """
    total = []
    for number, (logit, target) in enumerate(zip(logits, targets, strict=True)):
        weight = torch.ones_like(logit[:, 0]) if weights is None else weights[number]
        counted = weight > 0 if normaliser == "positives" else target > 0
        each = F.cross_entropy(logit, target, reduction="none") if len(logit) else logit.sum(1)
        total.append((each * weight).sum() / counted.sum().clamp(min=1))
    return torch.stack(total).mean()


def sigmoid_focal(
    logits: Float[Tensor, "*S"], wanted: Float[Tensor, "*S"], alpha: float, gamma: float
) -> Float[Tensor, "*S"]:
    """Focal loss of each yes or no. Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, Eq. (5).

    Args:
        alpha: weight of a yes; that of a no is the rest to one.
        gamma: how little what is right already counts.
    """
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    chance = logits.sigmoid()
    missed = chance + wanted - 2 * chance * wanted
    return (alpha * wanted + (1 - alpha) * (1 - wanted)) * loss * missed**gamma


def dice(
    logits: Float[Tensor, "R h w"], wanted: Float[Tensor, "R h w"], form: Literal["detr", "condinst", "soft_iou"]
) -> Float[Tensor, " R"]:
    """One minus a soft overlap of each mask p with its truth g.

    Source: Milletari et al., "V-Net", 3DV 2016, section 3, in three forms: `detr`, (2 pg + 1) / (p + g + 1);
    `condinst`, 2 pg / (p^2 + g^2), which is V-Net's own; `soft_iou`, pg / (p + g - pg), the overlap proper.
    """
    chance, wanted = logits.sigmoid().flatten(1), wanted.flatten(1)
    both = (chance * wanted).sum(1)
    if form == "detr":
        return 1 - (2 * both + 1) / (chance.sum(1) + wanted.sum(1) + 1)
    if form == "condinst":
        return 1 - 2 * both / ((chance**2).sum(1) + (wanted**2).sum(1) + 1e-5)
    return 1 - both / (chance.sum(1) + wanted.sum(1) - both).clamp(min=1e-6)
