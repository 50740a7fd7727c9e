"""What trackers share that answer at once: tracks in slots, their births and ends, and the last word about each.

Axes: B videos, M slots, C classes without background, K detections of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models.track_slots import FREE, VotedSlots
from vis_models.trackers.config import OnlineTracker
from vis_models.trackers.contract import Seen, Sizes
from vis_models.types import Sighting, Tracks, Verdict, VideoInfo


@dataclass(frozen=True)
class Slots(VotedSlots):
    """The memory of B videos; votes and scores are those of the most probable class of each sighting."""

    boxes_px: Float[Tensor, "B M 4"]
    """As last seen."""
    chance_sum: Float[Tensor, "B M C"]
    """Class probabilities, summed over sightings."""
    category: Int[Tensor, "B M"]
    """Most probable class of the last sighting."""
    first_frame: Int[Tensor, "B M"]

    def used(self) -> list[int]:
        """Slots with a track, of a state of one video."""
        return (self.track_id[0] != FREE).nonzero().flatten().tolist()


class Pairs(NamedTuple):
    """What a tracker decides about the detections of a frame."""

    slot_of: dict[int, int]
    """Detection -> slot of the track that it continues."""
    discarded: Sequence[int] = ()
    """Detections that neither continue a track nor start one."""


class Taken(NamedTuple):
    """The detections that have a track after a frame, in their order."""

    detections: list[int]
    slots: list[int]
    """Of their tracks."""
    born: list[int]
    """Slots whose tracks are new."""


class InSlots:
    """A `Tracker`; which detection continues which track is what the trackers differ in."""

    reads_features: ClassVar[bool] = False
    State: ClassVar[type[Slots]] = Slots

    def __init__(self, config: Any, slot_recycling: bool = False) -> None:
        self.config = config
        self._slots: OnlineTracker = config
        self._recycles = slot_recycling

    # ---- what a tracker says of itself -------------------------------------------------------------------------------

    def memory(self, shape: tuple[int, int], sizes: Sizes) -> dict[str, Tensor]:
        """What its state holds beside that of all; `shape` is (B, M)."""
        return {}

    def pairs(self, seen: Seen, state: Any, used: list[int]) -> Pairs:
        """Which detection continues which of the tracks in the slots `used`. What it learns on the way about a track
        it may write into the state, which is its own."""
        raise NotImplementedError

    def remember(self, seen: Seen, state: Any, taken: Taken) -> None:
        """Write into the state what else is known of tracks after a frame."""

    def verdict(self, state: Any, slot: int) -> Verdict:
        """The last word about a track."""
        return state.verdict(0, slot)

    # ---- the contract ------------------------------------------------------------------------------------------------

    def start(self, videos: Sequence[VideoInfo], sizes: Sizes) -> Slots:
        shape = (len(videos), self._slots.tracks)
        return self.State(
            **self.State.columns(videos, self._slots.tracks, "cpu"),
            votes=torch.zeros(*shape, sizes.classes, dtype=torch.long),
            score_sum=torch.zeros(shape),
            boxes_px=torch.zeros(*shape, 4),
            chance_sum=torch.zeros(*shape, sizes.classes),
            category=torch.zeros(shape, dtype=torch.long),
            first_frame=torch.zeros(shape, dtype=torch.long),
            **self.memory(shape, sizes),
        )

    def step(self, seen: Seen, state: Slots) -> tuple[Tracks, Slots]:
        state = state.own()
        frame, verdicts = int(state.frame[0]), self._forget(state)
        pairs = self.pairs(seen, state, state.used())
        wanted = [n for n in range(len(seen)) if n not in pairs.slot_of and n not in pairs.discarded]
        used = state.used()
        free = state.free(0) + self._recyclable(state, {*pairs.slot_of.values()})
        born = dict(zip(wanted, free, strict=False))
        verdicts += [self.verdict(state, slot) for slot in born.values() if slot in used]
        slot_of = pairs.slot_of | born
        taken = Taken(sorted(slot_of), [slot_of[n] for n in sorted(slot_of)], list(born.values()))
        self._enter(seen, state, taken)
        self.remember(seen, state, taken)
        ids, scores = state.track_id[0, taken.slots].tolist(), seen.scores[taken.detections].tolist()
        sighting = Sighting(frame, ids, scores, seen.masks(taken.detections, True))
        state.frame[0] += 1
        return Tracks([sighting], verdicts, len(wanted) - len(born)), state

    def finish(self, state: Slots) -> Tracks:
        return Tracks([], [self.verdict(state, slot) for slot in state.used()])

    def _forget(self, state: Slots) -> list[Verdict]:
        """End the tracks that were out of sight for too long."""
        keep = self._slots.keep_frames
        ended = [] if keep is None else sorted(state.out_of_sight(0, keep + 1))
        verdicts = [self.verdict(state, slot) for slot in ended]
        state.track_id[0, ended] = FREE
        return verdicts

    def _recyclable(self, state: Slots, matched: set[int]) -> list[int]:
        """Slots of tracks that are out of sight for the second frame at least, lowest score first."""
        if not self._recycles:
            return []
        return sorted(state.lost(0, matched), key=lambda slot: (self.verdict(state, slot).score, slot))

    @staticmethod
    def _enter(seen: Seen, state: Slots, taken: Taken) -> None:
        detections, slots, born = taken
        for slot in born:
            state.begin(0, slot)
        state.chance_sum[0, born] = 0
        state.first_frame[0, born] = state.frame[0]
        state.boxes_px[0, slots] = seen.boxes_px[detections]
        state.chance_sum[0, slots] += seen.chance[detections]
        state.category[0, slots] = seen.categories[detections]
        state.see(0, slots, seen.categories[detections], seen.scores[detections])
