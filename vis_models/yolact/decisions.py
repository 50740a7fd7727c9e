"""From what YOLACT says of every prior to instances: box coding, suppression, masks.

Source and axes: as `model.py`.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import boxes as box_ops

NmsRule = Literal["fast", "greedy"]


CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # of the SSD box coding


def suppress(
    boxes: Float[Tensor, "P 4"],
    scores: Float[Tensor, "S P"],
    nms_iou: float,
    rule: NmsRule = "fast",
    cross_class: bool = False,
    min_score: float = 0.0,
    pool: int = 200,
    top: int = 100,
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The best boxes of an image that no better one covers, best first.

    Args:
        scores: of each foreground class.
        nms_iou: a box falls when a better one overlaps it by more.
        rule: fast lets fallen boxes suppress, greedy does not.
        cross_class: each box competes once, with its best class, against all boxes; otherwise in every class
            against the boxes of that class.
        pool: how many of the best boxes (of a class) enter the suppression.

    Returns:
        class, index of the box, and score of each survivor.
    """
    best, category = scores.max(0, keepdim=True)
    rows = best if cross_class else scores
    score, order = rows.topk(min(pool, rows.shape[1]), dim=1)
    survives = {"fast": box_ops.fast_nms, "greedy": box_ops.greedy_nms}[rule]
    row, rank = (survives(boxes[order], nms_iou) & (score > min_score)).nonzero(as_tuple=True)
    first = score[row, rank].argsort(descending=True)[:top]
    row, rank = row[first], rank[first]
    prior = order[row, rank]
    return category[0, prior] if cross_class else row, prior, score[row, rank]


def assemble(
    coefficients: Float[Tensor, "N K"], prototypes: Float[Tensor, "K h w"], boxes: Float[Tensor, "N 4"]
) -> Float[Tensor, "N h w"]:
    """Mask probabilities: the sum of the prototypes by each detection's coefficients, cut at its box."""
    logits = torch.einsum("nk,khw->nhw", coefficients, prototypes)
    return logits.sigmoid() * crop(boxes[None], (logits.shape[-2], logits.shape[-1]))[0]


def crop(boxes: Float[Tensor, "F N 4"], size: tuple[int, int]) -> Bool[Tensor, "F N h w"]:
    """Which pixels of a (height, width) map lie in each box (fractions of the image), with one pixel to spare."""
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    x0, y0, x1, y1 = (boxes * scale).unbind(-1)
    xs = torch.arange(width, device=boxes.device)
    ys = torch.arange(height, device=boxes.device)
    across = (xs >= (x0 - 1).clamp(min=0)[..., None]) & (xs < (x1 + 1).clamp(max=width)[..., None])
    down = (ys >= (y0 - 1).clamp(min=0)[..., None]) & (ys < (y1 + 1).clamp(max=height)[..., None])
    return down[..., :, None] & across[..., None, :]


def decode_boxes(encoded: Float[Tensor, "*S 4"], priors: Float[Tensor, "*S2 4"]) -> Float[Tensor, "*S 4"]:
    """SSD box coding to (cx, cy, w, h) as fractions of the image."""
    centre = priors[..., :2] + CENTRE_VARIANCE * encoded[..., :2] * priors[..., 2:]
    return torch.cat([centre, priors[..., 2:] * (SIZE_VARIANCE * encoded[..., 2:]).exp()], -1)


def encode_boxes(boxes: Float[Tensor, "*S 4"], priors: Float[Tensor, "*S2 4"]) -> Float[Tensor, "*S 4"]:
    """Corners as fractions of the image to SSD box coding; the inverse of `decode_boxes`."""
    target = box_ops.centre_size(boxes)
    centre = (target[..., :2] - priors[..., :2]) / (CENTRE_VARIANCE * priors[..., 2:])
    size = (target[..., 2:].clamp(min=1e-6) / priors[..., 2:]).log() / SIZE_VARIANCE  # never log 0
    return torch.cat([centre, size], -1)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of the second axis by an index of the first two: values (F, P, ...), index (F, N) -> (F, N, ...)."""
    tail = values.shape[2:]
    return values.gather(1, index.view(*index.shape, *(1 for _ in tail)).expand(*index.shape, *tail))
