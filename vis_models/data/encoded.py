"""Clips whose frozen half was computed once: stage 2 then trains on what it costs alone.

The frozen detector says the same about the same picture in every epoch. K augmented copies of each video are
encoded before training; each sample then takes one copy and a random stretch of its frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vis_models.data.clips import ClipSet, draw_change, join_objects, load_clip
from vis_models.types import Clips, Objects, Rows

Encode = Callable[[Clips], tuple[Rows, Objects]]


@dataclass(frozen=True)
class EncodedClips:
    """Encoded copies of whole videos in memory; floats are kept in half precision."""

    copies: list[tuple[Rows, Objects]]
    length: int
    seed: int

    def batch(self, samples: range) -> tuple[Rows, Objects]:
        """Samples of the run side by side: encoded frames, those of a clip in a row, and their objects."""
        drawn = [self._draw(n) for n in samples]
        encoded = type(drawn[0][0]).join([_converted(part, torch.float32) for part, _ in drawn])
        return encoded, join_objects([objects for _, objects in drawn])

    def _draw(self, n: int) -> tuple[Rows, Objects]:
        turn, place = divmod(n, len(self.copies))
        which = np.random.default_rng([self.seed, 2, turn]).permutation(len(self.copies))[place]
        encoded, objects = self.copies[which]
        start = int(np.random.default_rng([self.seed, 3, n]).integers(0, len(encoded) - self.length + 1))
        stop = start + self.length
        in_time = {name: getattr(objects, name)[:, start:stop] for name in ("masks", "boxes_px", "visible")}
        return encoded[start:stop], replace(objects, **in_time)


def encode_copies(
    clips: ClipSet, copies: int, encode: Encode, share: tuple[int, int], progress: Callable[[int, int], None]
) -> EncodedClips:
    """Encode every video of `clips` in so many differently augmented copies.

    Args:
        encode: a model's `encode_clips`.
        share: (rank, workers): each worker encodes, and later draws from, its own part.
        progress: called with copies done and copies in all.
    """
    rank, workers = share
    numbers = range(rank, len(clips.usable) * copies, workers)
    encoded = []
    for done, n in enumerate(numbers):
        video = clips.usable[n % len(clips.usable)]
        rng = np.random.default_rng([clips.seed, 4, n])
        change = draw_change(rng, clips.augmentation, (video.height, video.width), clips.size)
        rows, objects = encode(load_clip(clips.videos, video, range(len(video.file_names)), change))
        encoded.append((_converted(rows, torch.float16).to("cpu"), objects.to("cpu")))
        progress(done + 1, len(numbers))
    return EncodedClips(encoded, clips.length, clips.seed)


def _converted(rows: Rows, kind: torch.dtype) -> Rows:
    def convert(value: Any) -> Any:
        return value.to(kind) if isinstance(value, Tensor) and value.is_floating_point() else value

    return type(rows)(*(convert(getattr(rows, field.name)) for field in fields(rows)))
