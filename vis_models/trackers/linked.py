"""A detector and a tracker as one model. Axes: as `contract.py`; B videos side by side."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from vis_models.mask_rcnn.detector import MaskRcnnDetector
from vis_models.trackers.config import LinkedConfig
from vis_models.trackers.contract import Candidates, Seen, trackable
from vis_models.trackers.deep_sort import DeepSort
from vis_models.trackers.feature_propagation import FeaturePropagation
from vis_models.trackers.greedy import Greedy
from vis_models.trackers.iou_tracker import IouTracker
from vis_models.trackers.seq_tracker import SeqTracker
from vis_models.types import Frames, Objects, Rows, Tracks, VideoInfo
from vis_models.yolact.detector import YolactDetector

DETECTORS: dict[str, Any] = {"yolact": YolactDetector, "mask_rcnn": MaskRcnnDetector}
TRACKERS: dict[str, Any] = {
    "greedy": Greedy,
    "iou": IouTracker,
    "propagation": FeaturePropagation,
    "deepsort": DeepSort,
    "seq": SeqTracker,
}


class Linked(nn.Module):
    """A `VideoModel`; its tracker has nothing to train."""

    def __init__(self, config: LinkedConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = DETECTORS[config.detector.name](config.detector)
        self.tracker = TRACKERS[config.tracker.name](config.tracker, config.slot_recycling)

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return self.detector.frame_size(video)

    @torch.no_grad()
    def encode(self, frames: Frames) -> Candidates:
        return self.detector.encode(frames, self.tracker.reads_features)

    @torch.no_grad()
    def encode_objects(self, frames: Frames, objects: Objects) -> Candidates:
        return self.detector.encode_objects(frames, objects, self.tracker.reads_features)

    def start(self, videos: list[VideoInfo]) -> Rows:
        return self.tracker.start(videos, self.detector.sizes(videos[0], self.tracker.reads_features))

    @torch.no_grad()
    def step(self, encoded: Candidates, state: Rows) -> tuple[list[Tracks], Rows]:
        boxes, chance, valid = encoded.boxes_px.cpu(), encoded.chance.cpu(), encoded.valid.cpu()
        cover, features = encoded.cover.cpu(), encoded.features.cpu()
        rules, said, rows = self.config.tracker, [], []
        for row in range(len(state)):
            kept = trackable(boxes[row], chance[row], valid[row], rules.detection_score, rules.duplicate_iou)
            own = state[[row]]
            masks = partial(self._masks, encoded[[row]], kept.tolist(), self._size_px(own))
            seen = Seen(boxes[row, kept], chance[row, kept], cover[row, kept], features[row], masks)
            tracks, own = self.tracker.step(seen, own)
            said.append(tracks)
            rows.append(own)
        return said, type(state).join(rows)

    def finish(self, state: Rows) -> list[Tracks]:
        return [self.tracker.finish(state[[row]]) for row in range(len(state))]

    @staticmethod
    def _size_px(state: Any) -> tuple[int, int]:
        height, width = state.size_px[0].tolist()
        return height, width

    def _masks(
        self, found: Candidates, kept: list[int], size_px: tuple[int, int], which: Sequence[int], exclusive: bool
    ) -> Any:
        return self.detector.masks(found, [kept[n] for n in which], size_px, exclusive)

    # ---- training: of the detector alone ---------------------------------------------------------------------------

    def part(self, name: str) -> nn.Module:
        """`detector`: all there is."""
        return self.detector.requires_grad_(True).train()

    def frame_detector(self, name: str) -> Any:
        return self.detector

    def fusible(self) -> tuple[nn.Module, ...]:
        return self.detector.fusible()
