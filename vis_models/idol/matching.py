"""Which queries are which object: optimal transport made simple (SimOTA), for the losses and for contrast.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, sections 3.1, 3.2 and A.2,
after Ge et al., "YOLOX", 2021, section 2. Where the paper is silent, its released code. Differs from that code: queries
that several objects claim are counted anew in each round, so that more objects than queries end, too.

Axes: Q queries and A objects of one frame, S classes. Boxes are (cx, cy, width, height) as shares of the picture.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import boxes as box_ops

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss (Lin et al., "Focal loss", ICCV 2017, Eq. 5)."""
BOX_WEIGHT, OUTSIDE, NOWHERE = 3.0, 100.0, 10_000.0
RADIUS = 2.5 / 32
"""How far from its centre, along an axis, the core of an object reaches."""
POSITIVES, CANDIDATES = 10, 100
"""Best overlaps whose sum says how many queries an object gets (m1), and how many are no negatives of it (m2)."""


@dataclass(frozen=True)
class Costs:
    """What it costs to call a query an object."""

    cost: Float[Tensor, "Q A"]
    overlap: Float[Tensor, "Q A"]
    """IoU."""

    def shares(self, most: int) -> Int[Tensor, " A"]:
        """The whole part of the sum of each object's `most` best overlaps, one at least."""
        best = self.overlap.topk(min(most, len(self.overlap)), dim=0).values
        return best.sum(0).int().clamp(min=1)

    def cheapest(self, most: int) -> Bool[Tensor, "Q A"]:
        """So many of each object's cheapest queries as its share says."""
        rank = self.cost.argsort(dim=0, stable=True).argsort(dim=0)
        return rank < self.shares(most)


@torch.no_grad()
def costs(
    probabilities: Float[Tensor, "Q S"],
    boxes: Float[Tensor, "Q 4"],
    true_boxes: Float[Tensor, "A 4"],
    labels: Int[Tensor, " A"],
) -> Costs:
    """Focal cost of the class, overlap of the boxes, and whether the query's centre lies in the object and its core."""
    probabilities, corners = probabilities.float(), box_ops.corners(boxes.float())
    own = probabilities[:, labels]
    yes = ALPHA * (1 - own) ** GAMMA * -(own + 1e-8).log()
    no = (1 - ALPHA) * own**GAMMA * -(1 - own + 1e-8).log()
    wanted = box_ops.corners(true_boxes)
    inside, core = places(boxes, true_boxes)
    cost = yes - no - BOX_WEIGHT * box_ops.generalised_iou(corners, wanted)
    cost = cost + OUTSIDE * ~(inside & core)
    cost = cost + NOWHERE * ~(inside | core).any(1, keepdim=True)
    return Costs(cost, box_ops.iou(corners, wanted))


def assign(given: Costs) -> tuple[Int[Tensor, " Q"], Int[Tensor, " A"]]:
    """The object of each query, and the cheapest query of each object; -1: none.

    An object takes as many of its cheapest queries as its share says, and of several objects the cheapest one keeps a
    query. An object that is left without one then takes its cheapest query that is free, as long as there is one.
    """
    claims, cost = _settled(given.cheapest(POSITIVES), given.cost), given.cost
    for _ in range(cost.shape[1]):
        poor, free = ~claims.any(0), ~claims.any(1)
        if not (poor.any() and free.any()):
            break
        wanted = cost.masked_fill(~free[:, None], torch.inf).argmin(0)
        more = torch.zeros_like(claims)
        more[wanted[poor], poor.nonzero().squeeze(1)] = True
        claims = claims | _settled(more, cost)
    if not cost.numel():
        return cost.new_full((len(cost),), -1, dtype=torch.long), cost.new_full(cost.shape[1:], -1, dtype=torch.long)
    best = cost.masked_fill(~claims, torch.inf).argmin(0)
    return torch.where(claims.any(1), claims.int().argmax(1), -1), torch.where(claims.any(0), best, -1)


def contrasted(given: Costs) -> tuple[Bool[Tensor, "Q A"], Bool[Tensor, "Q A"]]:
    """Positives and negatives of each object among the queries of the reference frame (A.2): the m1 cheapest, and all
    but the m2 cheapest. Two objects may have a query in common here."""
    return given.cheapest(POSITIVES), ~given.cheapest(CANDIDATES)


def by_overlap(given: Costs, positive: float, negative: float) -> tuple[Bool[Tensor, "Q A"], Bool[Tensor, "Q A"]]:
    """The same by overlap alone, as Pang et al., "Quasi-dense similarity learning", CVPR 2021, choose (A.2)."""
    return given.overlap > positive, given.overlap < negative


def _settled(claims: Bool[Tensor, "Q A"], cost: Float[Tensor, "Q A"]) -> Bool[Tensor, "Q A"]:
    """Of the objects that claim one query the cheapest alone."""
    if not claims.numel():
        return claims
    cheapest = cost.argmin(1, keepdim=True)
    alone = torch.zeros_like(claims).scatter(1, cheapest, True)
    return torch.where(claims.sum(1, keepdim=True) > 1, alone, claims)


def places(
    boxes: Float[Tensor, "Q 4"], true_boxes: Float[Tensor, "A 4"]
) -> tuple[Bool[Tensor, "Q A"], Bool[Tensor, "Q A"]]:
    """Whether a query's centre lies within an object's box, and within its core."""
    core = torch.cat([true_boxes[:, :2] - RADIUS, true_boxes[:, :2] + RADIUS], 1)
    return _within(boxes, box_ops.corners(true_boxes)), _within(boxes, core)


def _within(boxes: Float[Tensor, "Q 4"], corners: Float[Tensor, "A 4"]) -> Bool[Tensor, "Q A"]:
    centre = boxes[:, None, :2]
    return ((centre > corners[:, :2]) & (centre < corners[:, 2:])).all(-1)
