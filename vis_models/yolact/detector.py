"""YOLACT as a detector whose objects a tracker links (`trackers/contract.py`), and given objects in its place.

Source and axes: as `model.py`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vis_models.given_objects import as_detections
from vis_models.layers.video_masks import video_masks
from vis_models.trackers.contract import Candidates, Sizes
from vis_models.types import Detections, Frames, Masks, Objects, VideoInfo
from vis_models.yolact.config import YolactDetectorConfig
from vis_models.yolact.decisions import crop
from vis_models.yolact.model import Yolact

OUTSIDE_LOGIT = -20.0


class YolactDetector(Yolact):
    """A `Detector`; its features are C4."""

    config: YolactDetectorConfig

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return self.config.image_size

    def sizes(self, video: VideoInfo, features: bool) -> Sizes:
        config = self.config
        height, width = (-(-side // (2 * config.backbone.stride)) for side in config.image_size)
        shape = (self.backbone.channels[1], height, width) if features else (0, 0, 0)
        return Sizes(config.detections, config.num_classes, shape)

    def encode(self, frames: Frames, features: bool) -> Candidates:
        output, config = self(frames.pixels), self.config
        found = self.detect(output, config.detections, config.min_score, config.nms_iou)
        return self._candidates(found, output.features[1] if features else None)

    def encode_objects(self, frames: Frames, objects: Objects, features: bool) -> Candidates:
        """The image oracle; without features the network has nothing to say."""
        found = as_detections(objects, self.config.detections, self.config.num_classes, self.mask_size)
        return self._candidates(found, self(frames.pixels).features[1] if features else None)

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of its masks."""
        config = self.config
        height, width = (-(-side // config.backbone.stride) << config.prototype_upsamples for side in config.image_size)
        return height, width

    def _candidates(self, found: Detections, features: Tensor | None) -> Candidates:
        """No mask leaves its box."""
        height, width = self.config.image_size
        size = found.mask_logits.shape[-2], found.mask_logits.shape[-1]
        fraction = found.boxes_px / found.boxes_px.new_tensor([width, height, width, height])
        logits = found.mask_logits.masked_fill(~crop(fraction, size), OUTSIDE_LOGIT)
        if features is None:
            frames, slots = found.valid.shape
            cover, features = logits.new_zeros(frames, slots, 0, 0), logits.new_zeros(frames, 0, 0, 0)
        else:
            features = features.float()
            cover = F.adaptive_avg_pool2d(logits.sigmoid(), (features.shape[-2], features.shape[-1]))
        chance = found.class_logits.softmax(-1)[..., 1:]
        return Candidates(found.boxes_px, chance, logits, found.valid, cover, features)

    def masks(self, found: Candidates, which: Sequence[int], size_px: tuple[int, int], exclusive: bool) -> Masks:
        return video_masks(found.mask_logits[0, list(which)], [len(which)], [size_px], 0.0, exclusive)[0]

    def fusible(self) -> tuple[nn.Module, ...]:
        return self.backbone, self.fpn, self.proto_net
