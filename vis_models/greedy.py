"""Greedy association by overlap and class: the hand-made tracker that a learned one must beat.

It sees the same detections as RGNN (`Rgnn.encode`) and shares its weights' layout, so that one model folder can
be run with either. Per frame: detections above a score, duplicates suppressed; each pair of track and detection is
worth its box IoU plus a bonus for the same class; the best pairs are taken first, the rest start tracks. A track's
class is the largest mean class probability, its score that mean times the share of frames in which it was seen.
Where no slot is free, `slot_recycling` lets a birth take that of the track with the lowest score out of sight.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.layers.video_masks import video_masks
from vis_models.rgnn.appearance import map_size
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.model import Rgnn
from vis_models.rgnn.state import RgnnEncoded
from vis_models.types import Masks, Rows, Sighting, Tracks, Verdict, VideoInfo
from vis_models.yolact.decisions import crop


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
    births: Int[Tensor, " B"]
    """Tracks started so far: the next track id."""
    track_id: Int[Tensor, "B M"]
    boxes_px: Float[Tensor, "B M 4"]
    class_sum: Float[Tensor, "B M C"]
    """Class probabilities, summed over sightings; no background."""
    sightings: Int[Tensor, "B M"]
    first_frame: Int[Tensor, "B M"]
    last_frame: Int[Tensor, "B M"]


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
            births=whole[:, 0].clone(),
            track_id=whole.clone(),
            boxes_px=like.new_zeros(*shape, 4),
            class_sum=like.new_zeros(*shape, self.config.detector.num_classes),
            sightings=whole.clone(),
            first_frame=whole.clone(),
            last_frame=whole,
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
        count, frame, births = self._count(state), int(state.frame[0]), int(state.births[0])
        wanted = [n for n in range(len(boxes)) if n not in pairs]
        free = [*range(count, self.config.tracks), *self._recyclable(state, set(pairs.values()))]
        born = dict(zip(wanted, free, strict=False))
        verdicts = [self._verdict(state, slot) for slot in born.values() if slot < count]
        pairs |= born
        taken, new = sorted(pairs), list(born.values())
        slots = torch.tensor([pairs[n] for n in taken], dtype=torch.long)
        state = GreedyState(*(getattr(state, name).clone() for name in GreedyState.__dataclass_fields__))
        state.track_id[0, new] = torch.arange(births, births + len(new), device=state.track_id.device)
        state.class_sum[0, new], state.sightings[0, new], state.first_frame[0, new] = 0.0, 0, frame
        state.boxes_px[0, slots] = boxes[taken]
        state.class_sum[0, slots] += chance[taken]
        state.sightings[0, slots] += 1
        state.last_frame[0, slots] = frame
        scores = chance[taken].amax(-1).tolist() if taken else []
        sighting = Sighting(frame, state.track_id[0, slots].tolist(), scores, self._masks(encoded, kept[taken], state))
        after = replace(state, frame=state.frame + 1, births=state.births + len(new))
        return Tracks([sighting], verdicts, len(wanted) - len(new)), after

    def _count(self, state: GreedyState) -> int:
        """Slots in use, of a state of one video."""
        return min(int(state.births[0]), self.config.tracks)

    def _recyclable(self, state: GreedyState, matched: set[int]) -> list[int]:
        """Slots of tracks that are out of sight for the second frame at least, lowest score first."""
        if not self.config.slot_recycling:
            return []
        last_seen, frame = state.last_frame[0].tolist(), int(state.frame[0])
        lost = [slot for slot in range(self._count(state)) if slot not in matched and last_seen[slot] < frame - 1]
        return sorted(lost, key=lambda slot: self._verdict(state, slot).score)

    def _verdict(self, state: GreedyState, slot: int) -> Verdict:
        """About a track, of a state of one video."""
        seen = int(state.sightings[0, slot])
        score, category = (state.class_sum[0, slot] / seen).max(0)
        since = int(state.frame[0] - state.first_frame[0, slot])
        return Verdict(int(state.track_id[0, slot]), int(category), float(score) * seen / since)

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
        count = self._count(state)
        overlap = box_ops.iou(boxes, state.boxes_px[0, :count])
        same = chance.argmax(-1)[:, None] == state.class_sum[0, :count].argmax(-1)
        worth = torch.where(overlap > self.config.match_iou, overlap + self.config.class_bonus * same, -1.0)
        pairs: dict[int, int] = {}
        while worth.numel() and worth.max() > 0:
            detection, slot = divmod(int(worth.argmax()), count)
            pairs[detection] = slot
            worth[detection], worth[:, slot] = -1.0, -1.0
        return pairs

    def _masks(self, encoded: RgnnEncoded, which: Int[Tensor, " T"], state: GreedyState) -> Masks:
        """Each detection's own mask inside its box; a pixel goes to the strongest."""
        height, width = self.config.detector.image_size
        logits = encoded.mask_logits[:, which]
        fraction = encoded.boxes_px[:, which] / encoded.boxes_px.new_tensor([width, height, width, height])
        logits = logits.masked_fill(~crop(fraction, map_size(logits)), -20.0)
        size = (int(state.size_px[0, 0]), int(state.size_px[0, 1]))
        return video_masks(logits[0], [len(which)], [size], background=0.0)[0]

    @torch.no_grad()
    def finish(self, state: GreedyState) -> list[Tracks]:  # type: ignore[override]
        said = []
        for row in range(len(state)):
            own = state[[row]]
            said.append(Tracks([], [self._verdict(own, slot) for slot in range(self._count(own))]))
        return said
