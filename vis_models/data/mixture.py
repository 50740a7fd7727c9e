"""Clips from several data sets: which sample comes when.

Source: Johnander et al., section C.3. An epoch samples at random and without replacement from the union of the sets,
every sample with a weight, so that the first one comes from set k with a chosen chance. As a set runs out within
the epoch its chance falls; the next epoch begins with all samples again.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from vis_models.config import BadConfig
from vis_models.data.clips import ClipSet
from vis_models.types import Clips


@lru_cache(maxsize=4)
def draw_epoch(
    seed: int, epoch: int, counts: tuple[int, ...], chances: tuple[float, ...], samples: int
) -> Int[np.ndarray, " S"]:
    """The samples of one epoch in order, numbered through all sets: 0 .. counts[0]-1 are those of the first.

    Every sample of set k weighs chances[k] / counts[k]; one after the other is drawn from those that are left, with
    chances in proportion to their weights. A race is the same in one go: each sample arrives after an exponential time
    with its weight as rate, and the first arrivals are the epoch.

    Args:
        counts: samples of each set.
        chances: that the first sample comes from each set; they sum to one.
        samples: S, length of the epoch.
    """
    weights = np.repeat(np.divide(chances, counts), counts)
    arrival = np.random.default_rng([seed, 5, epoch]).exponential(size=len(weights)) / weights
    order = np.argsort(arrival, kind="stable")[:samples]
    order.flags.writeable = False  # every caller gets the same array
    return order


@dataclass(frozen=True)
class Mixture:
    """Endless, seeded stream of clips of several sets: `mixture[n]` is sample n, whatever was asked before."""

    sets: tuple[ClipSet, ...]
    chances: tuple[float, ...]
    """That the first sample of an epoch comes from each set; they sum to one."""
    epoch: int
    """Samples drawn without replacement, until all can be drawn again."""
    seed: int

    def __post_init__(self) -> None:
        if self.epoch > sum(self.counts):
            raise BadConfig(
                f"an epoch of {self.epoch} samples without replacement, but the data sets have only "
                f"{' + '.join(map(str, self.counts))} videos and images with labels: shorten the epoch "
                "(mixture_epoch of the stage)"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(clips.usable) for clips in self.sets)

    def __getitem__(self, n: int) -> Clips:
        part, index = self.place(n)
        return self.sets[part].clip(index, n)

    def place(self, n: int) -> tuple[int, int]:
        """From which set sample n comes, and which of its usable videos it is."""
        epoch, position = divmod(n, self.epoch)
        drawn = int(draw_epoch(self.seed, epoch, self.counts, self.chances, self.epoch)[position])
        ends = np.cumsum(self.counts)
        part = int(np.searchsorted(ends, drawn, side="right"))
        return part, drawn - int(ends[part]) + self.counts[part]
