"""Mask R-CNN as a detector whose objects a tracker links (`trackers/contract.py`), and given objects in its place.

Source and axes: as `model.py`; h, w cells of the feature map, which is the pyramid's second level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vis_models.layers.normalise import DIVISOR
from vis_models.layers.paste_masks import Pasting, paste
from vis_models.mask_rcnn.config import MaskRcnnDetectorConfig
from vis_models.mask_rcnn.model import MaskRcnn
from vis_models.trackers.contract import Candidates, Sizes
from vis_models.types import Frames, Masks, Objects, VideoInfo

LEVEL = 1
"""Of the pyramid, whose cells trackers look at."""
FINER = 4
"""Pixels along a side of a cell, by which its share under a mask is told."""


class MaskRcnnDetector(MaskRcnn):
    """A `Detector`. One proposal can be several detections, each of one class."""

    config: MaskRcnnDetectorConfig

    def sizes(self, video: VideoInfo, features: bool) -> Sizes:
        stride = self.backbone_stride * 2**LEVEL
        height, width = (-(-side // DIVISOR) * DIVISOR // stride for side in self.frame_size(video))
        shape = (self.config.channels, height, width) if features else (0, 0, 0)
        return Sizes(self.config.detections, self.config.num_classes, shape)

    def encode(self, frames: Frames, features: bool) -> Candidates:  # type: ignore[override]
        found, levels = self.detect(frames.pixels)
        chance = torch.zeros_like(found.class_scores)  # of its own class: its others are detections of their own
        chance.scatter_(2, found.labels[..., None], found.scores[..., None])
        return self._candidates(found.boxes_px, chance, found.mask_logits, found.valid, frames, levels, features)

    def encode_objects(self, frames: Frames, objects: Objects, features: bool) -> Candidates:
        """The image oracle; without features the network has nothing to say."""
        found = self.given(objects, (frames.pixels.shape[-2], frames.pixels.shape[-1]))
        levels = self.levels_of(frames) if features else None
        return self._candidates(
            found.boxes_px, found.class_scores, found.mask_logits, found.valid, frames, levels, features
        )

    def masks(self, found: Candidates, which: Sequence[int], size_px: tuple[int, int], exclusive: bool) -> Masks:
        frame_px = self.frame_size(VideoInfo("", *size_px))
        masks = _pasted(
            found.mask_logits[0, list(which)], found.boxes_px[0, list(which)], frame_px, size_px, self.config.pasting
        )
        if not exclusive:
            return masks
        chance = found.chance[0, list(which)].amax(-1)
        return _without_overlap(masks, chance.argsort(descending=True, stable=True).tolist())

    def fusible(self) -> tuple[nn.Module, ...]:
        return (self.backbone, self.fpn) if self.config.image_size else ()

    def _candidates(
        self,
        boxes_px: Float[Tensor, "F N 4"],
        chance: Float[Tensor, "F N C"],
        mask_logits: Float[Tensor, "F N m m"],
        valid: Tensor,
        frames: Frames,
        levels: Sequence[Tensor] | None,
        features: bool,
    ) -> Candidates:
        if levels is None or not features:
            count, slots = valid.shape
            nothing = boxes_px.new_zeros(count, slots, 0, 0), boxes_px.new_zeros(count, 0, 0, 0)
            return Candidates(boxes_px, chance, mask_logits, valid, *nothing)
        map_ = levels[LEVEL].float()
        height, width = map_.shape[-2:]
        stride = self.backbone_stride * 2**LEVEL
        fine = (height * FINER, width * FINER)
        cover = map_.new_zeros(*valid.shape, height, width)
        for frame, own in enumerate(valid):
            slots_ = own.nonzero().squeeze(1)
            if len(slots_):
                boxes = boxes_px[frame, slots_] * (FINER / stride)
                whole = paste(mask_logits[frame, slots_].float().sigmoid(), boxes, fine).whole()
                cover[frame, slots_] = F.avg_pool2d(whole.float()[None], FINER)[0].to(cover.device)
        return Candidates(boxes_px, chance, mask_logits, valid, cover, map_)


def _pasted(
    logits: Float[Tensor, "T m m"],
    boxes_px: Float[Tensor, "T 4"],
    frame_px: tuple[int, int],
    size_px: tuple[int, int],
    pasting: Pasting,
) -> Masks:
    """`boxes_px`: in a frame of the model's size."""
    scale = boxes_px.new_tensor([size_px[1] / frame_px[1], size_px[0] / frame_px[0]]).repeat(2)
    return paste(logits.float().sigmoid(), boxes_px * scale, size_px, pasting)


def _without_overlap(masks: Masks, order: Sequence[int]) -> Masks:
    """A pixel goes to the first mask of the order that has it."""
    taken = torch.zeros(masks.size_px, dtype=torch.bool)
    parts = list(masks.parts)
    for n in order:
        (x, y), part = masks.corners_px[n], parts[n]
        there = taken[y : y + part.shape[0], x : x + part.shape[1]]
        parts[n] = part & ~there
        there |= part
    return Masks(masks.size_px, masks.corners_px, parts)
