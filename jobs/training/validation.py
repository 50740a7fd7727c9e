"""How good a model in training is: its own answer about held-out videos, by the metric that it will be judged by."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from jobs.store import Store
from jobs.training.recipes.base import Stage
from jobs.training.run_files import BEST, RESULT
from jobs.training.stages import save_weights
from vis_models.data.annotations import AnnotatedVideo, Category, VideoSet, as_youtube_vis
from vis_models.metrics.average_precision import average_precision
from vis_models.metrics.detector import frame_mask_ap
from vis_models.types import FrameDetector, Frames, VideoInfo

SIDE_BY_SIDE = 25
"""Videos of a batch at most."""

Encode = Callable[[int], Any]
"""Number of a frame -> what the model's `encode` says of this frame of every video of a batch, a row each."""


@dataclass
class Judge:
    """Scores a stage on held-out videos and keeps the weights of the best score in the run's folder."""

    stage: Stage
    model: Any
    videos: VideoSet
    store: Store
    folder: str
    """Of the stage, in the store."""

    def due(self, done: int) -> bool:
        """After this iteration a score is wanted: at the end also of what detects, as the gate asks for it."""
        last = done == self.stage.iterations
        every = self.stage.validate_every
        return (last and self._detector is not None) or bool(every and (last or done % every == 0))

    @property
    def _detector(self) -> FrameDetector | None:
        return self.model.frame_detector(self.stage.part)

    def score(self) -> dict[str, float]:
        """Of the weights as they are."""
        if self._detector is not None:
            return frame_mask_ap(self._detector, self.videos, self.stage.gate_frames)
        return video_ap(self.model, self.videos, self.stage.validation_videos)

    def keep(self, done: int, figures: dict[str, float]) -> dict[str, float]:
        """Keep the weights as they are if none scored better before. Returns the figures of the best, with `best_at`.

        Without `validate_every` there is one score only, and nothing to keep.
        """
        if not self.stage.validate_every:
            return figures
        key = f"{self.folder}/{BEST}"
        best = self.store.read_json(key) if self.store.exists(key) else None
        if best and best[_measure(best)] >= figures[_measure(figures)]:
            return best
        with tempfile.TemporaryDirectory() as scratch:
            save_weights(Path(scratch) / RESULT, self.model)
            self.store.write_bytes(f"{self.folder}/{RESULT}", (Path(scratch) / RESULT).read_bytes())
        self.store.write_json(key, best := figures | {"best_at": float(done)})
        return best


def _measure(figures: dict[str, float]) -> str:
    return "mask_ap" if "mask_ap" in figures else "val_ap"


def video_ap(model: Any, videos: VideoSet, count: int, side_by_side: int = 8) -> dict[str, float]:
    """`val_ap` and `val_ap50`, as fractions, on `count` videos spread evenly; the model comes back as it was.

    Args:
        videos: in the categories of the data set that the model is trained on, in their order.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    chosen = [videos.videos[n] for n in sorted({*np.linspace(0, len(videos.videos) - 1, count).round().astype(int)})]
    few = VideoSet(videos.categories, tuple(chosen), videos.source)
    results = list(play(model, chosen, videos.categories, lambda batch: _from_files(model, batch), side_by_side))
    for module in training:
        module.training = True
    summary = average_precision(as_youtube_vis(few), results).summary()
    return {"val_ap": summary["AP"], "val_ap50": summary["AP50"]}


@torch.no_grad()
def play(
    model: Any,
    videos: Sequence[AnnotatedVideo],
    categories: Sequence[Category],
    frames_of: Callable[[list[AnnotatedVideo]], Encode],
    side_by_side: int = SIDE_BY_SIDE,
) -> Iterator[dict[str, Any]]:
    """The model's tracks as entries of a results file; videos of equal length and input size are played side by
    side."""
    kinds = {id(video): (len(video.file_names), model.frame_size(_info(video))) for video in videos}
    order = sorted(videos, key=lambda video: kinds[id(video)])
    while order:
        length, _ = kind = kinds[id(order[0])]
        batch = [video for video in order[:side_by_side] if kinds[id(video)] == kind]
        order = order[len(batch) :]
        encoded = frames_of(batch)
        state = model.start([_info(video) for video in batch])
        tracks: dict[tuple[int, int], list[dict[str, Any] | None]] = {}  # by place in the batch and track id
        for frame in range(length + 1):
            if frame < length:
                said, state = model.step(encoded(frame), state)
            else:
                said = model.finish(state)
            for place, (video, words) in enumerate(zip(batch, said, strict=True)):
                for sighting in words.sightings:
                    rles, areas = sighting.masks.rles(), sighting.masks.areas_px()
                    for track_id, rle, area in zip(sighting.track_ids, rles, areas, strict=True):
                        segments = tracks.setdefault((place, track_id), [None] * length)
                        if area:
                            size = [video.height, video.width]
                            segments[sighting.frame] = {"size": size, "counts": rle.decode()}
                for verdict in words.verdicts:
                    segments = tracks.get((place, verdict.track_id), [])
                    for category, score in (
                        [(verdict.category, verdict.score), *verdict.others] if any(segments) else ()
                    ):
                        entry = {"video_id": video.video_id, "category_id": categories[category].id, "score": score}
                        yield entry | {"segmentations": segments}


def _info(video: AnnotatedVideo) -> VideoInfo:
    return VideoInfo(str(video.video_id), video.height, video.width)


def _from_files(model: Any, batch: list[AnnotatedVideo]) -> Encode:
    device = next(model.parameters()).device

    def encode(frame: int) -> Any:
        pixels = [picture(model, video, frame) for video in batch]
        return model.encode(Frames(torch.stack(pixels)).to(device))

    return encode


def picture(model: Any, video: AnnotatedVideo, frame: int) -> UInt8[Tensor, "3 H W"]:
    """A frame at the model's input size."""
    height, width = model.frame_size(_info(video))
    resized = Image.fromarray(video.read_frame(frame)).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
