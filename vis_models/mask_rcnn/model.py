"""Mask R-CNN: boxes proposed, then classed, refined and filled with masks, one by one.

Source: He et al., "Mask R-CNN", ICCV 2017, on a feature pyramid (Lin et al., CVPR 2017). Where the paper is silent,
torchvision's two versions of it; every difference among published weights is a field of the config.

Axes: F frames, R boxes of all frames, N detection slots, C classes with background at 0, S without, A annotated
objects, m pixels along a side of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vis_models.given_objects import as_detections
from vis_models.layers import anchors as box_coding
from vis_models.layers import rpn
from vis_models.layers.backbones import ResNet, freeze
from vis_models.layers.box_nms import nms_in_groups
from vis_models.layers.fpn import TopDownPyramid
from vis_models.layers.norm import BatchNorm
from vis_models.layers.normalise import TakesFrames, whole_px
from vis_models.layers.paste_masks import Pasting, paste
from vis_models.layers.roi_align import align_own, pyramid_level, roi_align
from vis_models.layers.roi_heads import (
    BOX_CELLS,
    MASK_CELLS,
    BoxPredictor,
    LinearBoxHead,
    MaskPredictor,
    conv_box_head,
    mask_head,
)
from vis_models.losses import nothing
from vis_models.mask_rcnn import layouts, losses
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.mask_rcnn.losses import BOX_WEIGHTS, Sampled
from vis_models.truths import Truth, sizes_of, truths_of
from vis_models.types import Clips, Found, Frames, Masks, Objects, Rows

LEAST_SIDE_PX = 1e-2
GIVEN_CELLS = 112
"""Pixels along a side of a given mask: four times those of its own, so that little is lost but what a tracker loses."""
SURE = (0.0025, 0.9975)
"""What a given mask says at least and at most of a pixel: logits of -6 to 6."""


@dataclass(frozen=True)
class MaskRcnnEncoded(Rows):
    """The detections of F frames in N slots, best first; slots beyond the last one are not `valid`."""

    boxes_px: Float[Tensor, "F N 4"]
    """(x0, y0, x1, y1) in pixels of the model's input."""
    scores: Float[Tensor, "F N"]
    labels: Int[Tensor, "F N"]
    """0 .. classes-1. One proposal can be several detections, of one class each."""
    class_scores: Float[Tensor, "F N S"]
    """Probability of every class; with background they sum to one."""
    mask_logits: Float[Tensor, "F N m m"]
    """Of the detection's class, within its box."""
    valid: Bool[Tensor, "F N"]
    frame_px: Int[Tensor, "F 2"]
    """(height, width) of the model's input."""


@dataclass(frozen=True)
class Boxes:
    """Detections of all frames in a row, those of a frame best first."""

    boxes_px: Float[Tensor, "R 4"]
    frame: Int[Tensor, " R"]
    scores: Float[Tensor, " R"]
    labels: Int[Tensor, " R"]
    class_scores: Float[Tensor, "R S"]


class MaskRcnn(TakesFrames):
    """Backbone, pyramid, region proposals, and two heads under the proposals."""

    published = layouts.PUBLISHED
    """The layouts that it knows, in words."""
    config: MaskRcnnConfig

    def __init__(self, config: MaskRcnnConfig) -> None:
        super().__init__(config)
        channels, classes = config.channels, config.num_classes + 1
        self.backbone = ResNet(config.backbone)
        for module in self.backbone.modules():
            if isinstance(module, BatchNorm):
                module.eps = config.norm_eps
        taken = self.backbone.stage_channels[config.finest - 2 :]
        self.fpn = TopDownPyramid(taken, channels, len(config.anchor_px), config.norms)
        self.rpn = rpn.RegionNet(channels, len(config.anchor_ratios), config.region_convs)
        self.box_head = (
            LinearBoxHead(channels, config.box_width)
            if config.box_head == "linear"
            else conv_box_head(channels, config.box_width, config.norms)
        )
        self.box_predictor = BoxPredictor(config.box_width, classes)
        self.mask_head = mask_head(channels, channels, config.mask_convs, config.norms)
        self.mask_predictor = MaskPredictor(channels, classes)

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        """The layout of a checkpoint, and its tensors under the names of this model; None: of another kind."""
        return layouts.renamed(state)

    # ---- the network -----------------------------------------------------------------------------------------

    def pyramid(self, images: Float[Tensor, "F 3 H W"]) -> list[Float[Tensor, "F _ _ _"]]:
        """Of normalised images. In channels-last order training is faster, and rounds more than parity allows."""
        order = torch.channels_last if self.training else torch.contiguous_format
        stages = self.backbone.stages(images.contiguous(memory_format=order))
        return self.fpn(stages[self.config.finest - 2 :])

    def regions(self, levels: Sequence[Float[Tensor, "F _ _ _"]], image_px: tuple[int, int]) -> rpn.Regions:
        """What is said of every anchor; `image_px`: (height, width) of what entered the backbone."""
        return rpn.regions(self.rpn(levels), self.anchors(levels, image_px))

    def anchors(
        self, levels: Sequence[Float[Tensor, "F _ _ _"]], image_px: tuple[int, int]
    ) -> list[Float[Tensor, "_ 4"]]:
        config, found = self.config, []
        for level, side in zip(levels, config.anchor_px, strict=True):
            size = level.shape[-2], level.shape[-1]
            stride = (image_px[0] // size[0], image_px[1] // size[1])
            own = box_coding.anchors(size, stride, side, config.anchor_ratios, config.plus_one,
                                     config.round_anchors)  # fmt: skip
            found.append(own.to(level.device))
        return found

    def propose(self, found: rpn.Regions, sizes_px: Int[Tensor, "F 2"]) -> list[Float[Tensor, "_ 4"]]:
        config = self.config
        return rpn.propose(found, sizes_px, config.proposals_per_level, config.proposals, config.proposal_nms_iou,
                           config.plus_one)  # fmt: skip

    def pooled(
        self, levels: Sequence[Float[Tensor, "F K _ _"]], boxes_px: Float[Tensor, "R 4"], frame: Int[Tensor, " R"],
        cells: int = BOX_CELLS,
    ) -> Float[Tensor, "R K _ _"]:  # fmt: skip
        """The features under boxes of any of the frames."""
        config = self.config
        used = levels[: 6 - config.finest]
        level = pyramid_level(boxes_px, len(used), config.unit_px, config.plus_one)
        finest = self.backbone_stride
        strides = [float(finest * 2**n) for n in range(len(used))]
        return roi_align(used, boxes_px, frame, level, strides, cells, config.alignment, config.samples)

    @property
    def backbone_stride(self) -> int:
        """Of the finest level."""
        return self.config.backbone.stride // (2 if self.config.finest == 2 else 1)

    def classify(self, pooled: Float[Tensor, "R K 7 7"]) -> tuple[Float[Tensor, "R C"], Float[Tensor, "R C 4"]]:
        """Class logits, and the box of each class as told relative to the proposal."""
        return self.box_predictor(self.box_head(pooled))

    def mask_logits(self, pooled: Float[Tensor, "R K 14 14"]) -> Float[Tensor, "R C m m"]:
        return self.mask_predictor(self.mask_head(pooled)).float()

    # ---- decisions -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, frames: Frames) -> MaskRcnnEncoded:
        return self.detect(frames.pixels)[0]

    def detect(
        self, pixels: UInt8[Tensor, "F 3 H W"], sizes_px: Int[Tensor, "F 2"] | None = None
    ) -> tuple[MaskRcnnEncoded, list[Float[Tensor, "F _ _ _"]]]:
        """Detections in slots, and the pyramid that they were found on. `sizes_px`: of frames that are padded."""
        sizes = whole_px(pixels) if sizes_px is None else sizes_px
        images = self.normalised(pixels, sizes)
        levels = self.pyramid(images)
        proposals = self.propose(self.regions(levels, (images.shape[-2], images.shape[-1])), sizes)
        found = self.boxes(levels, proposals, sizes)
        return self.in_slots(found, self.masks_under(levels, found), sizes), levels

    def boxes(
        self,
        levels: Sequence[Float[Tensor, "F _ _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        sizes_px: Int[Tensor, "F 2"],
    ) -> Boxes:
        """Each proposal by its classes, those below `min_score` left out, suppressed within their class."""
        frame = torch.cat([torch.full((len(own),), n, device=own.device) for n, own in enumerate(proposals)])
        boxes = torch.cat(list(proposals))
        logits, told = self.classify(self.pooled(levels, boxes, frame))
        return self.decide(logits, told, boxes, frame, sizes_px)

    def decide(
        self,
        logits: Float[Tensor, "R C"],
        told: Float[Tensor, "R C 4"],
        proposals: Float[Tensor, "R 4"],
        frame: Int[Tensor, " R"],
        sizes_px: Int[Tensor, "F 2"],
    ) -> Boxes:
        config = self.config
        probability = logits.softmax(-1)[:, 1:]
        row, label = (probability > config.min_score).nonzero(as_tuple=True)
        boxes = box_coding.decode(told[row, label + 1], proposals[row], BOX_WEIGHTS, config.plus_one)
        boxes = boxes.clamp(min=0).minimum(rpn.cut_at(sizes_px, config.plus_one)[frame[row]])
        large = ((boxes[:, 2:] - boxes[:, :2] + config.plus_one) >= LEAST_SIDE_PX).all(1)
        row, label, boxes = row[large], label[large], boxes[large]
        scores, frame = probability[row, label], frame[row]
        kept = []
        for number in range(len(sizes_px)):
            own = (frame == number).nonzero().squeeze(1)
            survivors = nms_in_groups(boxes[own], scores[own], label[own], config.nms_iou, config.plus_one)
            kept.append(own[survivors[: config.detections]])
        index = torch.cat(kept)
        return Boxes(boxes[index], frame[index], scores[index], label[index], probability[row[index]])

    def masks_under(self, levels: Sequence[Float[Tensor, "F _ _ _"]], found: Boxes) -> Float[Tensor, "R m m"]:
        """Logits of each detection's own class."""
        logits = self.mask_logits(self.pooled(levels, found.boxes_px, found.frame, MASK_CELLS))
        return logits[torch.arange(len(logits), device=logits.device), found.labels + 1]

    def in_slots(
        self, found: Boxes, mask_logits: Float[Tensor, "R m m"], sizes_px: Int[Tensor, "F 2"]
    ) -> MaskRcnnEncoded:
        columns = (found.boxes_px, found.scores, found.labels, found.class_scores, mask_logits)
        valid, (boxes, scores, labels, class_scores, logits) = slots(
            found.frame, len(sizes_px), self.config.detections, columns
        )
        return MaskRcnnEncoded(boxes, scores, labels, class_scores, logits, valid, sizes_px.clone())

    def levels_of(self, frames: Frames) -> list[Float[Tensor, "F _ _ _"]]:
        """The pyramid of frames."""
        return self.pyramid(self.normalised(frames.pixels, whole_px(frames.pixels)))

    def given(self, objects: Objects, size_px: tuple[int, int]) -> MaskRcnnEncoded:
        """These objects as if it had found them, each with a score of one.

        Args:
            size_px: (height, width) of the frames.
        """
        config = self.config
        found = as_detections(objects, config.detections, config.num_classes, size_px)
        share = align_own(
            found.mask_logits.sigmoid().flatten(0, 1), found.boxes_px.flatten(0, 1), GIVEN_CELLS, "aligned"
        )
        chance = found.class_logits.softmax(-1)[..., 1:]
        return MaskRcnnEncoded(
            found.boxes_px, chance.amax(-1), chance.argmax(-1), chance,
            share.clamp(*SURE).logit().unflatten(0, found.valid.shape), found.valid,
            torch.tensor([size_px], device=share.device).expand(len(found), 2),
        )  # fmt: skip

    def masks_of(self, encoded: MaskRcnnEncoded, row: int, which: Sequence[int], size_px: tuple[int, int]) -> Masks:
        """The masks of some detections of one frame at the video's own size; they may share pixels."""
        return masks_of(encoded, row, which, size_px, self.config.pasting)

    @torch.no_grad()
    def find(self, frame: UInt8[np.ndarray, "H W 3"]) -> Found:
        """The instances of a frame, at its own size."""
        size = (frame.shape[0], frame.shape[1])
        encoded = self.encode(self.resized(frame))
        which = encoded.valid[0].nonzero().squeeze(1)
        masks = self.masks_of(encoded, 0, which.tolist(), size).whole()
        return Found(encoded.labels[0, which].tolist(), encoded.scores[0, which].tolist(), masks)

    # ---- training --------------------------------------------------------------------------------------------

    def trained(self) -> "MaskRcnn":
        """In training mode, the first stages of the backbone frozen."""
        self.train().requires_grad_(True)
        freeze(self.backbone, self.config.frozen_stages)
        return self

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """The five terms; each frame of a clip is an image of its own."""
        truths = truths_of(clips)
        sizes = sizes_of(clips)
        images = self.normalised(clips.frames.flatten(0, 1), sizes)
        return self.terms(self.pyramid(images), (images.shape[-2], images.shape[-1]), sizes, truths)[0]

    def terms(
        self,
        levels: Sequence[Float[Tensor, "F _ _ _"]],
        image_px: tuple[int, int],
        sizes_px: Int[Tensor, "F 2"],
        truths: Sequence[Truth],
    ) -> tuple[dict[str, Tensor], Sampled, Float[Tensor, "R K 7 7"]]:
        """The five terms, the proposals that they were taken of, and the features under these."""
        found, sampled, pooled = self.lessons(levels, image_px, sizes_px, truths)
        head = self.head_losses(levels, pooled, sampled, truths)
        head["mask"] = head["mask"] + nothing(self)
        return self.region_losses(found, truths) | head, sampled, pooled

    def lessons(
        self,
        levels: Sequence[Float[Tensor, "F _ _ _"]],
        image_px: tuple[int, int],
        sizes_px: Int[Tensor, "F 2"],
        truths: Sequence[Truth],
    ) -> tuple[rpn.Regions, Sampled, Float[Tensor, "R K 7 7"]]:
        """What is said of all regions, the proposals that heads learn from, and the features under these."""
        found = self.regions(levels, image_px)
        sampled = losses.draw(self.config, self.propose(found, sizes_px), truths)
        return found, sampled, self.pooled(levels, sampled.boxes_px, sampled.frame)

    def head_losses(
        self,
        levels: Sequence[Float[Tensor, "F _ _ _"]],
        pooled: Float[Tensor, "R K 7 7"],
        sampled: Sampled,
        truths: Sequence[Truth],
    ) -> dict[str, Tensor]:
        """Class, box and mask under these proposals."""
        logits, told = self.classify(pooled)
        positive = sampled.positive
        under = self.pooled(levels, sampled.boxes_px[positive], sampled.frame[positive], MASK_CELLS)
        masks = self.mask_logits(under)
        return losses.box_losses(self.config, logits, told, sampled, truths) | {
            "mask": losses.mask_loss(self.config, masks, sampled, truths)
        }

    def region_losses(self, found: rpn.Regions, truths: Sequence[Truth]) -> dict[str, Tensor]:
        config = self.config
        return rpn.region_losses(
            found,
            [truth.boxes_px for truth in truths],
            [truth.crowds_px for truth in truths],
            config.region_positive_iou,
            config.region_negative_iou,
            config.region_samples,
            config.region_positive_share,
            config.region_beta,
            config.plus_one,
        )


def slots(
    frame: Int[Tensor, " R"], frames: int, count: int, columns: Sequence[Tensor]
) -> tuple[Bool[Tensor, "F N"], list[Tensor]]:
    """Rows of all frames, those of a frame together, in `count` slots of each frame; and which slots are filled."""
    per_frame = torch.bincount(frame, minlength=frames)
    valid = torch.arange(count, device=frame.device) < per_frame[:, None]
    filled = []
    for column in columns:
        table = column.new_zeros(frames, count, *column.shape[1:])
        table[valid] = column
        filled.append(table)
    return valid, filled


def masks_of(
    encoded: MaskRcnnEncoded, row: int, which: Sequence[int], size_px: tuple[int, int], pasting: Pasting
) -> Masks:
    """The masks of some detections of one frame at the video's own size; they may share pixels."""
    chosen = torch.tensor(list(which), dtype=torch.long, device=encoded.valid.device)
    scale = encoded.boxes_px.new_tensor(size_px) / encoded.frame_px[row]
    boxes = encoded.boxes_px[row, chosen] * scale.flip(0).repeat(2)
    return paste(encoded.mask_logits[row, chosen].float().sigmoid(), boxes, size_px, pasting)
