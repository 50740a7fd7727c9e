"""Region proposal network: where in a pyramid something is, whatever it is.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1, on a pyramid (Lin et al., "Feature pyramid networks",
CVPR 2017, section 4.1): one head for all levels. A place that overlaps an object by `positive_iou`, or that is an
object's best, is positive; one below `negative_iou` with all objects is negative; the others do not count.

Axes: F frames, P anchors of all levels, A anchors of a place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.layers import anchors as box_coding
from vis_models.layers.fpn import conv_block
from vis_models.losses import mean_over_workers

WEIGHTS = (1.0, 1.0, 1.0, 1.0)
LEAST_SIDE_PX = 1e-3


@dataclass(frozen=True)
class Regions:
    """What the network says of every anchor of F frames, levels fine to coarse."""

    logits: list[Float[Tensor, "F _"]]
    told: list[Float[Tensor, "F _ 4"]]
    """Boxes as told relative to the anchors."""
    anchors: list[Float[Tensor, "_ 4"]]


class RegionNet(nn.Module):
    """Convolutions, then for every anchor how likely it is an object, and its box."""

    def __init__(self, channels: int, per_place: int, convs: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(conv_block(channels, channels, 3, norm=False) for _ in range(convs)))
        self.cls_logits = nn.Conv2d(channels, per_place, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * per_place, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(
        self, levels: Sequence[Float[Tensor, "F C _ _"]]
    ) -> list[tuple[Float[Tensor, "F A _ _"], Float[Tensor, "F _ _ _"]]]:
        hidden = [self.conv(level) for level in levels]
        return [(self.cls_logits(x).float(), self.bbox_pred(x).float()) for x in hidden]


def regions(
    said: Sequence[tuple[Float[Tensor, "F A _ _"], Float[Tensor, "F _ _ _"]]],
    anchors: Sequence[Float[Tensor, "_ 4"]],
) -> Regions:
    """One row per anchor, in the anchors' order."""
    logits = [logit.permute(0, 2, 3, 1).flatten(1) for logit, _ in said]
    told = [box.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for _, box in said]
    return Regions(logits, told, list(anchors))


@torch.no_grad()
def propose(
    found: Regions,
    sizes_px: Int[Tensor, "F 2"],
    per_level: int,
    most: int,
    nms_iou: float,
    plus_one: bool = False,
) -> list[Float[Tensor, "_ 4"]]:
    """The proposals of each frame, best first: of each level the best, suppressed within the level, then of all.

    Args:
        sizes_px: (height, width) of the picture in each frame; boxes are cut at it.
        per_level: how many of a level enter.
        most: how many of all levels are left.
    """
    edges = cut_at(sizes_px, plus_one)[:, None]
    boxes, scores = [], []
    for logits, told, own in zip(found.logits, found.told, found.anchors, strict=True):
        score, index = logits.detach().topk(min(per_level, logits.shape[1]), 1)
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        box = box_coding.decode(told.detach()[rows, index], own[index], WEIGHTS, plus_one)
        box = box.clamp(min=0).minimum(edges)
        large = ((box[..., 2:] - box[..., :2] + plus_one) >= LEAST_SIDE_PX).all(-1)
        inclusive = box + box.new_tensor([0, 0, plus_one, plus_one])
        alive = large & box_ops.greedy_nms(inclusive * large[..., None], nms_iou)  # a box without area covers nothing
        boxes.append(box)
        scores.append(score.sigmoid().masked_fill(~alive, -1.0))
    score, box = torch.cat(scores, 1), torch.cat(boxes, 1)
    order = score.argsort(dim=1, descending=True, stable=True)[:, :most]
    return [own[index[rank[index] >= 0]] for own, rank, index in zip(box, score, order, strict=True)]


def cut_at(sizes_px: Int[Tensor, "F 2"], plus_one: bool) -> Float[Tensor, "F 4"]:
    """Largest (x0, y0, x1, y1) of a box within each frame."""
    return (sizes_px.flip(1).repeat(1, 2) - int(plus_one)).float()


def assign(
    boxes: Float[Tensor, "P 4"],
    truth: Float[Tensor, "A 4"],
    crowd: Float[Tensor, "K 4"],
    positive_iou: float,
    negative_iou: float,
    best_too: bool,
    plus_one: bool = False,
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """The object of each box, and its state: 1 positive, 0 negative, -1 neither.

    Args:
        crowd: boxes of many objects in one; what lies for more than half in one of them is no negative.
        best_too: whether an object's best box is positive however little it overlaps.
    """
    shift = boxes.new_tensor([0, 0, plus_one, plus_one])
    boxes, truth, crowd = boxes + shift, truth + shift, crowd + shift
    matched = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    state = torch.zeros_like(matched)
    if len(truth) and len(boxes):
        overlap = box_ops.iou(truth, boxes)  # (A, P)
        best, matched = overlap.max(0)
        state = torch.where(best >= positive_iou, 1, torch.where(best < negative_iou, 0, -1))
        if best_too:
            state = state.masked_fill((overlap == overlap.amax(1, keepdim=True)).any(0), 1)
    if len(crowd):
        share = box_ops.intersection(boxes, crowd).amax(1) / box_ops.area(boxes).clamp(min=LEAST_SIDE_PX)
        state = state.masked_fill((state == 0) & (share > 0.5), -1)
    return matched, state


def sample(state: Int[Tensor, "*B P"], count: int, positive_share: float) -> Bool[Tensor, "*B P"]:
    """In each row at most `count` of those that are positive or negative, drawn at random, at most so large a share
    positive."""
    lottery = torch.rand_like(state, dtype=torch.float32)
    chosen = torch.zeros_like(state, dtype=torch.bool)
    room = torch.full_like(state[..., :1], int(count * positive_share))
    left = torch.full_like(room, count)
    for kind in (1, 0):
        drawn, place = lottery.masked_fill(state != kind, 2.0).topk(min(count, state.shape[-1]), largest=False)
        taken = (drawn < 2.0) & (torch.arange(drawn.shape[-1], device=state.device) < room)
        chosen |= torch.zeros_like(chosen).scatter(-1, place, taken)
        room = left - taken.sum(-1, keepdim=True)
    return chosen


def region_losses(
    found: Regions,
    truths: Sequence[Float[Tensor, "_ 4"]],
    crowds: Sequence[Float[Tensor, "_ 4"]],
    positive_iou: float,
    negative_iou: float,
    samples: int,
    positive_share: float,
    beta: float,
    plus_one: bool = False,
) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the sampled anchors, and smooth L1 of the boxes of the positive ones, both over how many were
    sampled in all."""
    anchors = torch.cat(found.anchors)
    logits, told = torch.cat(found.logits, 1), torch.cat(found.told, 1)
    judged = [
        assign(anchors, truth, crowd, positive_iou, negative_iou, True, plus_one)
        for truth, crowd in zip(truths, crowds, strict=True)
    ]
    state = torch.stack([own for _, own in judged])
    first = torch.tensor([0, *(len(truth) for truth in truths[:-1])], device=anchors.device).cumsum(0)
    matched = torch.stack([own for own, _ in judged]) + first[:, None]
    chosen = sample(state, samples, positive_share)
    positive = chosen & (state == 1)
    count = mean_over_workers(chosen.sum()).clamp(min=1)
    objectness = F.binary_cross_entropy_with_logits(logits[chosen], (state[chosen] == 1).float(), reduction="sum")
    wanted = box_coding.encode(
        torch.cat(list(truths))[matched[positive]], anchors.expand_as(told)[positive], WEIGHTS, plus_one
    )
    box = F.smooth_l1_loss(told[positive], wanted, beta=beta, reduction="sum")
    return {"objectness": objectness / count, "region": box / count}
