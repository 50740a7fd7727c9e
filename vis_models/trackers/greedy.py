"""Greedy association by overlap and class: the simplest tracker that a learned one must beat.

Each pair of track and detection is worth its box IoU plus a bonus for the same class; the best pairs are taken first.
A track's class is the largest mean class probability, its score that mean times the share of frames in which it was
seen.
"""

import torch

from vis_models import boxes as box_ops
from vis_models.trackers.contract import Seen
from vis_models.trackers.slots import InSlots, Pairs, Slots
from vis_models.types import Verdict


class Greedy(InSlots):
    """A `Tracker`."""

    def pairs(self, seen: Seen, state: Slots, used: list[int]) -> Pairs:
        overlap = box_ops.iou(seen.boxes_px, state.boxes_px[0, used])
        same = seen.categories[:, None] == state.chance_sum[0, used].argmax(-1)
        worth = torch.where(overlap > self.config.match_iou, overlap + self.config.class_bonus * same, -1.0)
        slot_of: dict[int, int] = {}
        while worth.numel() and worth.max() > 0:
            detection, track = divmod(int(worth.argmax()), len(used))
            slot_of[detection] = used[track]
            worth[detection], worth[:, track] = -1.0, -1.0
        return Pairs(slot_of)

    def verdict(self, state: Slots, slot: int) -> Verdict:
        seen = int(state.votes[0, slot].sum())
        score, category = (state.chance_sum[0, slot] / seen).max(0)
        since = int(state.frame[0] - state.first_frame[0, slot])
        return Verdict(int(state.track_id[0, slot]), int(category), float(score) * seen / since)
