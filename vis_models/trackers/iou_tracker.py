"""IoUTracker+: cues of a detector alone, against a memory of all tracks.

Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, section 6.1: eq. (3) without log p,

    v = alpha log s + beta IoU + gamma [same class],

a detection takes the track with the largest v among those that it overlaps enough; overlapping none, it starts one. If
several take one track, the one with the largest v keeps it and the others are discarded (section 5.4).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.trackers.config import CueWeights
from vis_models.trackers.contract import Seen
from vis_models.trackers.slots import InSlots, Pairs, Slots


def cues(
    weights: CueWeights,
    scores: Float[Tensor, " K"],
    overlap: Float[Tensor, "K T"],
    same: Bool[Tensor, "K T"],
) -> Float[Tensor, "K T"]:
    """v of each detection and track."""
    return (
        weights.score_weight * scores.clamp(min=1e-12).log()[:, None]
        + weights.iou_weight * overlap
        + weights.class_weight * same
    )


class IouTracker(InSlots):
    """A `Tracker`."""

    def overlap(self, seen: Seen, state: Slots, used: list[int]) -> Float[Tensor, "K T"]:
        """IoU of each detection with each track."""
        return box_ops.iou(seen.boxes_px, state.boxes_px[0, used])

    def pairs(self, seen: Seen, state: Slots, used: list[int]) -> Pairs:
        overlap = self.overlap(seen, state, used)
        if not overlap.numel():
            return Pairs({})
        same = seen.categories[:, None] == state.category[0, used]
        value = torch.where(overlap >= self.config.match_iou, cues(self.config, seen.scores, overlap, same), -torch.inf)
        return one_detection_a_track(value, used)


def one_detection_a_track(value: Float[Tensor, "K T"], slots: list[int]) -> Pairs:
    """The rule of section 5.4; `value` is -inf where a detection cannot continue a track."""
    best, track = value.max(1)
    takers: Int[Tensor, " D"] = (best > -torch.inf).nonzero().flatten()
    slot_of: dict[int, int] = {}
    winner: dict[int, int] = {}
    for detection in takers[best[takers].argsort(descending=True, stable=True)].tolist():
        winner.setdefault(int(track[detection]), detection)
    slot_of = {detection: slots[place] for place, detection in winner.items()}
    return Pairs(slot_of, [detection for detection in takers.tolist() if detection not in slot_of])
