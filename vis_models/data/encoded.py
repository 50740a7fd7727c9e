"""Clips whose frozen half was computed once: stage 2 then trains on what it costs alone.

The frozen detector says the same about the same picture in every epoch. K augmented copies of each video are
encoded before training, one file each; sample n of a run then takes one copy and a random stretch of its frames, on
whatever worker. The copies depend on the detector and the data alone, so every run on them, whatever its seed, can
share one folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vis_models.data.augmentation import Augmentation
from vis_models.data.clips import ClipSet, draw_change, join_objects, load_clip
from vis_models.types import Clips, Objects, Rows

Encode = Callable[[Clips], tuple[Rows, Objects]]
IN_TIME = ("masks", "boxes_px", "visible")
"""Fields of `Objects` with an axis of frames, their second."""
UNCHANGED = Augmentation(horizontal_flip=0.0)


@dataclass(frozen=True)
class EncodedClips:
    """Encoded copies of whole videos; floats are kept in half precision."""

    files: list[Path]
    kind: type[Rows]
    """What a model's `encode` returns."""
    length: int
    """L, frames of a clip."""
    seed: int

    def batch(self, samples: Sequence[int]) -> tuple[Rows, Objects]:
        """Samples of the run side by side: encoded frames, those of a clip in a row, and their objects."""
        drawn = [self._draw(n) for n in samples]
        return self.kind.join([rows for rows, _ in drawn]), join_objects([objects for _, objects in drawn])

    def whole(self, n: int) -> tuple[Rows, Objects]:
        """All frames of the n-th copy."""
        return read_encoded(self.files[n], self.kind)

    def _draw(self, n: int) -> tuple[Rows, Objects]:
        turn, place = divmod(n, len(self.files))
        which = np.random.default_rng([self.seed, 2, turn]).permutation(len(self.files))[place]
        return read_encoded(self.files[which], self.kind, np.random.default_rng([self.seed, 3, n]), self.length)


def encode_copies(
    clips: ClipSet,
    copies: int,
    kind: type[Rows],
    encode: Encode,
    folder: Path,
    share: tuple[int, int],
    progress: Callable[[int, int], None],
) -> EncodedClips:
    """Encode every video of `clips` in so many differently augmented copies; files that are there are kept.

    Args:
        kind: what `encode` returns.
        encode: a model's `encode_clips`.
        folder: where the files lie; its name must tell detectors and data apart.
        share: (rank, workers) among those that write to the folder: each encodes its part, and the copies of the
            others may not be there yet.
        progress: called with copies done and copies in all.
    """
    rank, workers = share
    folder.mkdir(parents=True, exist_ok=True)
    total = len(clips.usable) * copies
    places = [divmod(n, len(clips.usable)) for n in range(total)]
    files = [folder / f"{quote(str(clips.usable[at].video_id), safe='')}-{copy}.safetensors" for copy, at in places]
    own = range(rank, total, workers)
    for done, n in enumerate(own, start=1):
        if not files[n].exists():
            video = clips.usable[places[n][1]]
            rng = np.random.default_rng([4, n])
            assert clips.size is not None  # encodings are of frames of one size
            change = draw_change(rng, clips.augmentation, (video.height, video.width), clips.size)
            frames = range(len(video.file_names))
            _write(files[n], *encode(load_clip(clips.videos, video, frames, [change] * len(frames))))
        progress(done, len(own))
    return EncodedClips(files, kind, clips.length, clips.seed)


def _write(file: Path, rows: Rows, objects: Objects) -> None:
    tensors = {f"rows.{field.name}": getattr(rows, field.name) for field in fields(rows)}
    tensors |= {f"objects.{field.name}": getattr(objects, field.name) for field in fields(objects)}
    unfinished = file.with_suffix(f".{uuid4().hex}")
    save_file({name: _halved(tensor).cpu().contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.replace(file)  # two runs may write the same copy: each writes a whole file


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def read_encoded(
    file: Path, kind: type[Rows], rng: np.random.Generator | None = None, length: int | None = None
) -> tuple[Rows, Objects]:
    """A copy, or with `rng` a random stretch of `length` of its frames; floats in single precision."""
    with safe_open(file, "pt") as content:
        first = fields(kind)[0].name
        frames = content.get_slice(f"rows.{first}").get_shape()[0]
        length = length or frames
        start = int(rng.integers(0, frames - length + 1)) if rng else 0
        stop = start + length

        def part(name: str) -> Tensor:
            if name.startswith("rows."):
                value = content.get_slice(name)[start:stop]
            elif name.removeprefix("objects.") in IN_TIME:
                value = content.get_slice(name)[:, start:stop]
            else:
                value = content.get_tensor(name)
            return value.to(torch.float32) if value.is_floating_point() else value

        rows = kind(*(part(f"rows.{field.name}") for field in fields(kind)))
        return rows, Objects(*(part(f"objects.{field.name}") for field in fields(Objects)))
