"""The smallest model that keeps the contract: one object a class, found pixel by pixel, trained in one stage on pairs.

It is no part of the product. An installed package would look like this, with two entry points (see `install`).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from jobs.training.recipes.base import ParameterGroup, Stage, TrainJob, WorldData
from vis_models.config import ModelConfig
from vis_models.data.sampling import Pair
from vis_models.data.world import WorldConfig
from vis_models.types import Clips, Frames, Masks, Rows, Sighting, Tracks, Verdict, VideoInfo
from vis_models.zoo import Entry

ENTRY = Entry("tests.tiny_model:TinyConfig", "tests.tiny_model:Tiny")


class TinyConfig(ModelConfig):
    """A width and a size."""

    num_classes: PositiveInt = 6
    channels: PositiveInt = 16
    image_size: tuple[PositiveInt, PositiveInt] = (48, 80)


@dataclass(frozen=True)
class TinyEncoded(Rows):
    """Class logits of every pixel, background first."""

    logits: Float[Tensor, "F C h w"]


@dataclass(frozen=True)
class TinyState(Rows):
    """The track of a class has the number of the class."""

    size_px: Int[Tensor, "B 2"]
    frame: Int[Tensor, " B"]
    seen: Int[Tensor, "B S"]
    """Frames in which each class was seen."""


class Tiny(nn.Module):
    """Two convolutions."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(3, config.channels, 5, padding=2)
        self.head = nn.Conv2d(config.channels, config.num_classes + 1, 3, padding=1)

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return self.config.image_size

    @torch.no_grad()
    def encode(self, frames: Frames) -> TinyEncoded:
        return TinyEncoded(self(frames.pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(F.relu(self.stem(pixels / 127.5 - 1)))

    def start(self, videos: list[VideoInfo]) -> TinyState:
        sizes = torch.tensor([(video.height, video.width) for video in videos]).view(-1, 2)
        nothing = torch.zeros(len(videos), self.config.num_classes, dtype=torch.long)
        return TinyState(sizes, torch.zeros(len(videos), dtype=torch.long), nothing)

    def step(self, encoded: TinyEncoded, state: TinyState) -> tuple[list[Tracks], TinyState]:
        said, seen = [], state.seen.clone()
        for row, (logits, size) in enumerate(zip(encoded.logits, state.size_px.tolist(), strict=True)):
            classes = F.interpolate(logits[None].float(), size, mode="bilinear")[0].argmax(0)
            found = [c for c in range(self.config.num_classes) if bool((classes == c + 1).any())]
            seen[row, found] += 1
            masks = torch.stack([classes == c + 1 for c in found]) if found else torch.zeros(0, *size, dtype=torch.bool)
            said.append(Tracks([Sighting(int(state.frame[row]), found, [1.0] * len(found), Masks.of(masks))], []))
        return said, replace(state, frame=state.frame + 1, seen=seen)

    def finish(self, state: TinyState) -> list[Tracks]:
        shares = state.seen / state.frame.clamp(min=1)[:, None]
        return [
            Tracks([], [Verdict(c, c, float(share)) for c, share in enumerate(row.tolist()) if share]) for row in shares
        ]

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """Each pixel of both frames, and that both frames show the same colours of a class."""
        logits = self(clips.frames.flatten(0, 1)).float()
        objects = clips.objects
        order = objects.labels[:, None, :, None, None] + 1
        target = (objects.masks * order).amax(2).flatten(0, 1)
        first, second = logits.softmax(1).mean((2, 3)).unflatten(0, clips.frames.shape[:2]).unbind(1)
        return {"pixels": F.cross_entropy(logits, target), "pair": (first - second).abs().mean()}

    def part(self, name: str) -> nn.Module:
        return self.train().requires_grad_(True)

    def frame_detector(self, name: str) -> None:
        return None

    def fusible(self) -> tuple[nn.Module, ...]:
        return (self.stem,)


def tiny_pairs() -> TrainJob:
    """Seconds on one core."""
    return TrainJob(
        recipe="tiny_pairs",
        model="tiny",
        config=TinyConfig(),
        world=WorldData(world=WorldConfig(height=48, width=80, frames=4), train_videos=6, val_videos=3),
        stages=(
            Stage(
                name="pairs",
                iterations=12,
                batch_size=4,
                sampling=Pair(window=2),
                optimizer="adamw",
                learning_rate=1e-2,
                groups=(ParameterGroup(begins=("stem.",), rate=0.5, weight_decay=0.0),),
                accumulate=2,
                average=0.9,
                validate_every=6,
                validation_videos=3,
                checkpoint_every=6,
                precision="fp32",
            ),
        ),
    )


def install(site: Path) -> None:
    """What `pip install` would leave in a folder of packages: the names of the model and of its recipe."""
    info = site / "tiny_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[vislake.models]\ntiny = tests.tiny_model:ENTRY\n[vislake.recipes]\ntiny_pairs = tests.tiny_model:tiny_pairs\n"
    )
