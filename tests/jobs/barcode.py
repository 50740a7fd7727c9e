"""Films that carry their number and frame number burnt into every frame, and a model that reads them.

The model refuses a frame that does not follow the one before it in the same film, so a mix-up between videos that play
side by side cannot go unseen. It answers one frame late, as the contract allows.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from vis_models.checkpoints import CARD, WEIGHTS, ModelCard, read_card
from vis_models.data.annotations import Category
from vis_models.types import Frames, Masks, Rows, Sighting, Tracks, Verdict, VideoInfo

BITS = 8
CLASSES = ("dog", "cat", "bird")


def draw(film: int, frame: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A frame with the film's number in the upper half and the frame's number in the lower one, as white blocks."""
    rows = [[number >> bit & 1 for bit in range(BITS)] for number in (film, frame)]
    height, width = size
    grid = np.array(rows, np.uint8).repeat(height // 2, 0).repeat(width // BITS, 1) * 255
    return grid[..., None].repeat(3, 2)


def write_film(path: Path, film: int, frames: int, size: tuple[int, int] = (96, 128), rate: int = 25) -> Path:
    """An H.264 film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "g": "8"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for frame in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(film, frame, size), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, film: int, numbers: Sequence[int], size: tuple[int, int] = (96, 128)) -> Path:
    """A folder of JPEG frames, named by number; the frame numbers in the pictures have no holes."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, number in enumerate(numbers):
        Image.fromarray(draw(film, frame, size)).save(folder / f"{number:05d}.jpg", quality=95)
    return folder


def as_frames(pixels: Sequence[np.ndarray]) -> Frames:
    """Decoded frames as a model wants them."""
    return Frames(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))


@dataclass(frozen=True)
class Codes(Rows):
    """What the frames say."""

    film: Int[Tensor, " F"]
    frame: Int[Tensor, " F"]


@dataclass(frozen=True)
class Seen(Rows):
    """What is known of the videos that play."""

    videos: tuple[VideoInfo, ...]
    film: Int[Tensor, " B"]
    frames: Int[Tensor, " B"]


class Barcode(nn.Module):
    """Three tracks per film: one in every frame, one in every second frame, one with a score of 0.01.

    Args:
        delay_s: that a step takes.
        fails_on: film at which the model raises an error.
        kills_on: film at which the whole process dies, as a decoder may.
        blind: do not read the codes; every frame is taken for the right one.
    """

    def __init__(self, delay_s: float = 0, fails_on: int = -1, kills_on: int = -1, blind: bool = False) -> None:
        super().__init__()
        self.delay_s, self.fails_on, self.kills_on, self.blind = delay_s, fails_on, kills_on, blind

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return (64, 96) if video.height <= video.width else (96, 64)

    def encode(self, frames: Frames) -> Codes:
        height, width = frames.pixels.shape[-2:]
        columns = (torch.arange(BITS) * 2 + 1) * width // (2 * BITS)
        bits = frames.pixels[:, 0, [height // 4, 3 * height // 4]][:, :, columns] > 127  # (F, 2, BITS)
        film, frame = (bits.long() << torch.arange(BITS)).sum(-1).unbind(1)
        return Codes(film, frame)

    def start(self, videos: list[VideoInfo]) -> Seen:
        return Seen(tuple(videos), torch.full([len(videos)], -1), torch.zeros(len(videos), dtype=torch.long))

    def step(self, encoded: Codes, state: Seen) -> tuple[list[Tracks], Seen]:
        time.sleep(self.delay_s)
        if self.blind:
            encoded = Codes(state.frames * 0, state.frames % 2**BITS)
        if self.kills_on in encoded.film:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails_on in encoded.film:
            raise RuntimeError(f"film {self.fails_on} is one too many")
        fresh = state.frames == 0
        wrong = (~fresh & (encoded.film != state.film)) | (encoded.frame != state.frames % 2**BITS)
        if wrong.any():
            raise RuntimeError(f"frames of {encoded} do not follow {state}")
        tracks = [self._late(state, place) for place in range(len(state))]
        return tracks, Seen(state.videos, encoded.film, state.frames + 1)

    def finish(self, state: Seen) -> list[Tracks]:
        tracks = []
        for place, film in enumerate(state.film.tolist()):
            category = film % len(CLASSES)
            verdicts = [Verdict(film, category, 0.9), Verdict(1000, category, 0.4), Verdict(2000, category, 0.01)]
            tracks.append(Tracks(self._late(state, place).sightings, verdicts, dropped_births=1))
        return tracks

    def _late(self, state: Seen, place: int) -> Tracks:
        """The frame before, in which the first track is a rectangle that grows with the frame's number."""
        frame, video = int(state.frames[place]) - 1, state.videos[place]
        if frame < 0:
            return Tracks([], [])
        masks = torch.zeros(3, video.height, video.width, dtype=torch.bool)
        masks[0, :10, : 1 + frame % 20] = True
        masks[1, 20:30, :10] = frame % 2 == 0
        masks[2, 40:50, :10] = True
        sighting = Sighting(frame, [int(state.film[place]), 1000, 2000], [0.8, 0.6, 0.1], Masks.of(masks))
        return Tracks([sighting], [])


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    classes = tuple(Category(id=10 + place, name=name) for place, name in enumerate(CLASSES))
    card = ModelCard(
        name=folder.name, model="barcode", config={}, classes=classes, created_at=datetime.now(UTC), sha256="0" * 64
    )
    (folder / CARD).write_text(card.model_dump_json())
    (folder / WEIGHTS).touch()
    return folder


def load(folder: Path, device: str, slot_recycling: bool, **behaviour: Any) -> tuple[Barcode, ModelCard]:
    return Barcode(**behaviour).to(device), read_card(folder)
