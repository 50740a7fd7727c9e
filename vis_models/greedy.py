"""Greedy association by overlap and class: the hand-made tracker that a learned one must beat.

It sees the same detections as RGNN (`Rgnn.encode`) and shares its weights' layout, so that one model folder can
be run with either. Per frame: detections above a score, duplicates suppressed; each pair of track and detection is
worth its box IoU plus a bonus for the same class; the best pairs are taken first, the rest start tracks. A track's
class is the largest mean class probability, its score that mean times the share of frames in which it was seen.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers.resize import resize_logits
from vis_models.rgnn import Rgnn, RgnnConfig, RgnnEncoded, map_size
from vis_models.types import Rows, Sighting, Tracks, Verdict, VideoInfo
from vis_models.yolact import crop


class GreedyConfig(RgnnConfig):
    """RGNN's config, and what the rules need."""

    detection_score: float = Field(0.1, ge=0, le=1)
    """Least class probability of a detection."""
    duplicate_iou: float = Field(0.5, ge=0, le=1)
    """A detection that overlaps a better one by more is dropped."""
    match_iou: float = Field(0.3, ge=0, le=1)
    """Least overlap with the track's last box."""
    class_bonus: float = Field(0.5, ge=0)
    """What the same class is worth in IoU."""


@dataclass(frozen=True)
class GreedyState(Rows):
    """The memory of B videos; tracks fill the slots from the first one on."""

    size_px: Int[Tensor, "B 2"]
    frame: Int[Tensor, " B"]
    count: Int[Tensor, " B"]
    """Tracks so far; ids are slot numbers."""
    boxes_px: Float[Tensor, "B M 4"]
    class_sum: Float[Tensor, "B M C"]
    """Class probabilities, summed over sightings; no background."""
    sightings: Int[Tensor, "B M"]
    first_frame: Int[Tensor, "B M"]


class Greedy(Rgnn):
    """A `VideoModel` with RGNN's detector and no learned association."""

    config: GreedyConfig

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> GreedyState:  # type: ignore[override]
        shape, like = (len(videos), self.config.tracks), self.class_head.weight
        whole = torch.zeros(shape, dtype=torch.long, device=like.device)
        return GreedyState(
            size_px=torch.tensor([(video.height, video.width) for video in videos]).view(-1, 2),
            frame=whole[:, 0].clone(),
            count=whole[:, 0].clone(),
            boxes_px=like.new_zeros(*shape, 4),
            class_sum=like.new_zeros(*shape, self.config.detector.num_classes),
            sightings=whole,
            first_frame=whole.clone(),
        )

    @torch.no_grad()
    def step(self, encoded: RgnnEncoded, state: GreedyState) -> tuple[list[Tracks], GreedyState]:  # type: ignore[override]
        said, rows = [], []
        for row in range(len(state)):
            tracks, new = self._step_one(encoded[[row]], state[[row]])
            said.append(tracks)
            rows.append(new)
        return said, GreedyState.join(rows)

    def _step_one(self, encoded: RgnnEncoded, state: GreedyState) -> tuple[Tracks, GreedyState]:
        probabilities = encoded.class_logits[0].softmax(-1)[:, 1:]
        kept = self._without_duplicates(encoded, probabilities)
        boxes = encoded.boxes_px[0, kept]
        chance = probabilities[kept]
        pairs = self._pairs(state, boxes, chance)
        count, frame = int(state.count[0]), int(state.frame[0])
        new = [n for n in range(len(boxes)) if n not in pairs]
        free = range(count, min(count + len(new), self.config.tracks))
        pairs |= dict(zip(new, free, strict=False))
        taken = sorted(pairs)
        slots = torch.tensor([pairs[n] for n in taken], dtype=torch.long)
        state = GreedyState(*(getattr(state, name).clone() for name in GreedyState.__dataclass_fields__))
        state.boxes_px[0, slots] = boxes[taken]
        state.class_sum[0, slots] += chance[taken]
        state.sightings[0, slots] += 1
        state.first_frame[0, list(free)] = frame
        scores = chance[taken].amax(-1).tolist() if taken else []
        masks = self._masks(encoded, kept[taken], state)
        sighting = Sighting(frame, slots.tolist(), scores, masks)
        after = replace(state, frame=state.frame + 1, count=state.count + len(free))
        return Tracks([sighting], [], len(new) - len(free)), after

    def _without_duplicates(self, encoded: RgnnEncoded, chance: Float[Tensor, "N C"]) -> Int[Tensor, " K"]:
        """Detections that may be tracked, best first."""
        score = chance.amax(-1)
        order = torch.where(encoded.valid[0] & (score > self.config.detection_score), score, -1.0).argsort(
            descending=True
        )
        order = order[score[order] > self.config.detection_score]
        order = order[encoded.valid[0, order]]
        return order[box_ops.greedy_nms(encoded.boxes_px[0, order], self.config.duplicate_iou)]

    def _pairs(self, state: GreedyState, boxes: Float[Tensor, "K 4"], chance: Float[Tensor, "K C"]) -> dict[int, int]:
        """Detection -> track slot, the best pairs first."""
        count = int(state.count[0])
        overlap = box_ops.iou(boxes, state.boxes_px[0, :count])
        same = chance.argmax(-1)[:, None] == state.class_sum[0, :count].argmax(-1)
        worth = torch.where(overlap > self.config.match_iou, overlap + self.config.class_bonus * same, -1.0)
        pairs: dict[int, int] = {}
        while worth.numel() and worth.max() > 0:
            detection, slot = divmod(int(worth.argmax()), count)
            pairs[detection] = slot
            worth[detection], worth[:, slot] = -1.0, -1.0
        return pairs

    def _masks(self, encoded: RgnnEncoded, which: Int[Tensor, " T"], state: GreedyState) -> Bool[Tensor, "T H W"]:
        """Each detection's own mask inside its box; a pixel goes to the strongest."""
        height, width = self.config.detector.image_size
        logits = encoded.mask_logits[:, which]
        fraction = encoded.boxes_px[:, which] / encoded.boxes_px.new_tensor([width, height, width, height])
        logits = logits.masked_fill(~crop(fraction, map_size(logits)), -20.0)
        size = (int(state.size_px[0, 0]), int(state.size_px[0, 1]))
        logits = resize_logits(logits, size)[0]
        if not len(logits):
            return logits.bool()
        strongest = logits.argmax(0) == torch.arange(len(logits), device=logits.device)[:, None, None]
        return strongest & (logits > 0)

    @torch.no_grad()
    def finish(self, state: GreedyState) -> list[Tracks]:  # type: ignore[override]
        said = []
        for row in range(len(state)):
            verdicts = []
            for slot in range(int(state.count[row])):
                seen = int(state.sightings[row, slot])
                score, category = (state.class_sum[row, slot] / seen).max(0)
                since = int(state.frame[row] - state.first_frame[row, slot])
                verdicts.append(Verdict(slot, int(category), float(score) * seen / since))
            said.append(Tracks([], verdicts))
        return said
