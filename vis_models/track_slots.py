"""Tracks in slots: what the memories of trackers have in common.

A video has M slots. A slot is free, or it has a track, which keeps it until it ends. What else a tracker knows of its
tracks are columns of its own. All is written in place, into a copy that belongs to the step (`Rows.own`).

Axes: B videos, M slots, S classes, T tracks.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vis_models.types import Encoded, Rows, State, Tracks, Verdict, VideoInfo, sizes_px

FREE = -1
"""In the place of a track id: the slot has no track."""


@dataclass(frozen=True)
class TrackSlots(Rows):
    """The memory of B videos."""

    size_px: Int[Tensor, "B 2"]
    """(height, width) of the video itself."""
    frame: Int[Tensor, " B"]
    """Index of the next frame."""
    births: Int[Tensor, " B"]
    """Tracks started so far: the next track id."""
    track_id: Int[Tensor, "B M"]
    """`FREE`: the slot is free."""

    @classmethod
    def columns(cls, videos: Sequence[VideoInfo], tracks: int, device: torch.device | str) -> dict[str, Tensor]:
        """Those above, of videos of which no frame was seen."""
        nothing = torch.zeros(len(videos), dtype=torch.long, device=device)
        track_id = nothing.new_full((len(videos), tracks), FREE)
        return {
            "size_px": sizes_px(videos).to(device),
            "frame": nothing,
            "births": nothing.clone(),
            "track_id": track_id,
        }

    def size_of(self, row: int) -> tuple[int, int]:
        """(height, width) of a video."""
        return int(self.size_px[row, 0]), int(self.size_px[row, 1])

    def live(self, row: int) -> list[int]:
        """Slots with a track, in the order in which these got their ids."""
        ids = self.track_id[row].tolist()
        return sorted((slot for slot, id_ in enumerate(ids) if id_ != FREE), key=ids.__getitem__)

    def free(self, row: int) -> list[int]:
        """Slots without a track."""
        return [slot for slot, id_ in enumerate(self.track_id[row].tolist()) if id_ == FREE]

    def begin(self, row: int, slot: int) -> None:
        """Give a slot to a new track, of which nothing is known."""
        self.track_id[row, slot] = self.births[row]
        self.births[row] += 1


@dataclass(frozen=True)
class TimedSlots(TrackSlots):
    """It also knows when it saw each track last."""

    last_frame: Int[Tensor, "B M"]

    @classmethod
    def columns(cls, videos: Sequence[VideoInfo], tracks: int, device: torch.device | str) -> dict[str, Tensor]:
        before = super().columns(videos, tracks, device)
        return before | {"last_frame": torch.zeros_like(before["track_id"])}

    def out_of_sight(self, row: int, frames: int) -> list[int]:
        """Slots of tracks that were seen last more than so many frames ago."""
        frame, last = int(self.frame[row]), self.last_frame[row].tolist()
        return [slot for slot in self.live(row) if frame - last[slot] > frames]

    def lost(self, row: int, taken: Collection[int]) -> list[int]:
        """Slots of tracks that are out of sight for the second frame at least, those in `taken` apart."""
        return [slot for slot in self.out_of_sight(row, 1) if slot not in taken]

    def for_births(self, row: int, taken: Collection[int], recycles: bool) -> list[int]:
        """Slots that new tracks may have: the free ones; then, where slots are recycled, those of tracks that are
        longest out of sight, but for those in `taken`."""
        lost = self.lost(row, taken) if recycles else []
        return self.free(row) + sorted(lost, key=self.last_frame[row].tolist().__getitem__)


@dataclass(frozen=True)
class VotedSlots(TimedSlots):
    """Each sighting of a track is a vote for its class."""

    votes: Int[Tensor, "B M S"]
    """Sightings as each class."""
    score_sum: Float[Tensor, "B M"]
    """Scores of its sightings."""

    def begin(self, row: int, slot: int) -> None:
        super().begin(row, slot)
        self.votes[row, slot], self.score_sum[row, slot] = 0, 0.0

    def see(self, row: int, slots: list[int], labels: Int[Tensor, " T"], scores: Float[Tensor, " T"]) -> None:
        """Tracks are seen in the next frame."""
        self.votes[row, slots, labels] += 1
        self.score_sum[row, slots] += scores
        self.last_frame[row, slots] = self.frame[row]

    def verdict(self, row: int, slot: int) -> Verdict:
        """Mean of the scores, and the majority's class, the lowest of equals."""
        votes = self.votes[row, slot]
        counts = votes.tolist()
        category = max(range(len(counts)), key=counts.__getitem__)
        return Verdict(int(self.track_id[row, slot]), category, float(self.score_sum[row, slot] / votes.sum()))


@dataclass(frozen=True)
class WeighedSlots(TrackSlots):
    """Each sighting of a track says how likely every class is."""

    members: Int[Tensor, "B M"]
    """Sightings of the track."""
    chances: Float[Tensor, "B M S"]
    """Their probability of every class, summed."""

    def begin(self, row: int, slot: int) -> None:
        super().begin(row, slot)
        self.members[row, slot], self.chances[row, slot] = 0, 0.0

    def weigh(self, row: int, slots: list[int], chances: Float[Tensor, "T S"]) -> None:
        """Tracks are seen once more."""
        self.members[row, slots] += 1
        self.chances[row, slots] += chances

    def verdict(self, row: int, slot: int) -> Verdict:
        """The class of the largest mean probability, the lowest of equals."""
        mean = self.chances[row, slot] / self.members[row, slot]
        category = int(mean.argmax())
        return Verdict(int(self.track_id[row, slot]), category, float(mean[category]))


def one_by_one(
    step: Callable[[Encoded, State], tuple[Tracks, State]], encoded: Encoded, state: State
) -> tuple[list[Tracks], State]:
    """The next frame of each video, by a step that takes one row of both."""
    said, rows = zip(*(step(encoded[[row]], state[[row]]) for row in range(len(state))), strict=True)
    return list(said), type(state).join(rows)
