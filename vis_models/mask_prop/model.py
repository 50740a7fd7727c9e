"""MaskProp: masks of each frame carried to the frames around it; clips that show the same things are one track.

Source: Bertasius, Torresani, "Classifying, segmenting, and tracking object instances in video with mask propagation",
CVPR 2020, over the detector of `mask_rcnn/`.

Axes: B videos side by side, F frames, N detection slots, R detections of all frames, r pixels along a side of a mask.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.layers.normalise import DIVISOR, whole_px
from vis_models.losses import nothing
from vis_models.mask_prop import tracker
from vis_models.mask_prop.config import MaskPropConfig
from vis_models.mask_prop.linking import every_soft_iou
from vis_models.mask_prop.objective import cover, propagation_loss, refinement_losses
from vis_models.mask_prop.propagation import Propagation
from vis_models.mask_prop.refinement import Refinement, cut_out, spread
from vis_models.mask_prop.state import MaskPropEncoded, MaskPropState
from vis_models.mask_rcnn import layouts
from vis_models.mask_rcnn.model import MaskRcnn, MaskRcnnEncoded, slots
from vis_models.matching import unlike_better
from vis_models.track_slots import one_by_one
from vis_models.truths import Truth, sizes_of, truths_of
from vis_models.types import Clips, Frames, Objects, Tracks, VideoInfo

AT_ONCE = 16
"""Masks that are refined together: the network sees each at the size of a picture."""


class MaskProp(nn.Module):
    """A `VideoModel`; detector and propagation are trained together, the refinement after them."""

    published = layouts.PUBLISHED

    def __init__(self, config: MaskPropConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = MaskRcnn(config.detector)
        self.propagation = Propagation(config)
        self.refinement = Refinement(config.refinement) if config.refinement else None

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        return layouts.renamed(state)

    # ---- the contract ----------------------------------------------------------------------------------------

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return self.detector.frame_size(video)

    @torch.no_grad()
    def encode(self, frames: Frames) -> MaskPropEncoded:
        """Detections without duplicates, their masks refined, and the map on which these are carried."""
        images = self.detector.normalised(frames.pixels, whole_px(frames.pixels))
        found, levels = self.detector.detect(frames.pixels)
        return self._described(found, levels, images, self.config.duplicate_iou)

    @torch.no_grad()
    def encode_objects(self, frames: Frames, objects: Objects) -> MaskPropEncoded:
        """An image oracle: boxes, classes and masks are those of the objects, all scores one."""
        given = self.detector.given(objects, (frames.pixels.shape[-2], frames.pixels.shape[-1]))
        return self._described(given, self.detector.levels_of(frames), None, 1.0)

    @torch.no_grad()
    def start(self, videos: list[VideoInfo]) -> MaskPropState:
        height, width = (-(-side // DIVISOR) * DIVISOR // self.stride for side in self.frame_size(videos[0]))
        return MaskPropState.empty(self.config, videos, (height, width), self.detector.mean)

    @torch.no_grad()
    def step(self, encoded: MaskPropEncoded, state: MaskPropState) -> tuple[list[Tracks], MaskPropState]:
        return one_by_one(partial(tracker.step, self.config, self.propagation), encoded, state)

    @torch.no_grad()
    def finish(self, state: MaskPropState) -> list[Tracks]:
        return [tracker.finish(self.config, self.propagation, state[[row]]) for row in range(len(state))]

    @property
    def stride(self) -> int:
        """Pixels along a side of a cell of the map on which masks are carried."""
        return self.detector.backbone_stride * 2**self.config.level

    # ---- what is known of a frame ------------------------------------------------------------------------------

    def _described(
        self,
        found: MaskRcnnEncoded,
        levels: Sequence[Float[Tensor, "F _ _ _"]],
        images: Float[Tensor, "F 3 _ _"] | None,
        most_alike: float,
    ) -> MaskPropEncoded:
        """`images`: where masks are refined; None: they stay as they are."""
        features = levels[self.config.level].float()
        frame, slot = found.valid.nonzero(as_tuple=True)
        boxes, masks = found.boxes_px[frame, slot], found.mask_logits[frame, slot].float().sigmoid()
        covers = cover(masks, boxes, (features.shape[-2], features.shape[-1]), self.stride)
        kept = self._unlike(frame, covers, len(found), most_alike)
        frame, slot, boxes, masks, covers = (each[kept] for each in (frame, slot, boxes, masks, covers))
        places = boxes
        if self.refinement is not None and self.config.refinement and images is not None:
            places = self.refinement.squares(boxes)
            masks = self._refined(images, frame, masks, boxes, places).sigmoid()
        columns = (found.scores[frame, slot], found.class_scores[frame, slot], masks, places, covers)
        valid, (scores, class_scores, masks, places, covers) = slots(
            frame, len(found), self.config.detector.detections, columns
        )
        return MaskPropEncoded(
            valid.sum(1), scores, class_scores, masks, places, covers, features, found.frame_px.clone()
        )

    @staticmethod
    def _unlike(
        frame: Int[Tensor, " R"], covers: Float[Tensor, "R h w"], frames: int, most: float
    ) -> Int[Tensor, " K"]:
        """Detections that are not another's duplicate."""
        kept = []
        for number in range(frames):
            own = (frame == number).nonzero().squeeze(1)
            masks = covers[own].flatten(1)
            kept.append(own[unlike_better(every_soft_iou(masks, masks) > most)])
        return torch.cat(kept)

    def _refined(
        self,
        images: Float[Tensor, "F 3 H W"],
        frame: Int[Tensor, " R"],
        masks: Float[Tensor, "R m m"],
        boxes_px: Float[Tensor, "R 4"],
        places_px: Float[Tensor, "R 4"],
    ) -> Float[Tensor, "R r r"]:
        """Logits of masks in their squares."""
        assert self.refinement is not None
        side, logits = self.refinement.config.side_px, []
        for own in torch.arange(len(masks), device=masks.device).split(AT_ONCE):
            pixels = cut_out(images, frame[own], places_px[own], side)
            before = spread(masks[own], boxes_px[own], places_px[own], (side, side))
            logits.append(self.refinement(pixels, before))
        return torch.cat(logits)

    # ---- training ----------------------------------------------------------------------------------------------

    def part(self, name: str) -> nn.Module:
        """`detector`: Mask R-CNN alone, on single frames. `whole`: with it the propagation, on pairs of frames.
        `refinement`: that alone, on what the others find.

        Raises:
            ValueError: the refinement of a model without one.
        """
        self.eval().requires_grad_(False)
        if name == "refinement":
            if self.refinement is None:
                raise ValueError("a model whose config.refinement is null has no part of this name")
            self.refinement.train().requires_grad_(True)
            return self
        self.detector.trained()
        if name == "detector":
            return self.detector
        self.propagation.train().requires_grad_(True)
        return self

    def frame_detector(self, name: str) -> MaskRcnn | None:
        return self.detector if name == "detector" else None

    def fusible(self) -> tuple[nn.Module, ...]:
        return (self.detector.backbone, self.detector.fpn) if self.config.frame_px else ()

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """Of the part that is in training."""
        return self._whole_loss(clips) if self.propagation.training else self._refinement_loss(clips)

    def _whole_loss(self, clips: Clips) -> dict[str, Tensor]:
        """The five terms of Mask R-CNN, and Eq. (2).

        Raises:
            ValueError: clips that are no pairs.
        """
        if clips.frames.shape[1] != 2:
            raise ValueError(
                f"MaskProp learns from pairs of frames, got clips of {clips.frames.shape[1]}: set the stage's sampling "
                "to pair"
            )
        truths, sizes = truths_of(clips), sizes_of(clips)
        images = self.detector.normalised(clips.frames.flatten(0, 1), sizes)
        levels = self.detector.pyramid(images)
        step = 1 if self.config.learn_reference else 2
        terms, _, _ = self.detector.terms(
            [level[::step] for level in levels],
            (images.shape[-2], images.shape[-1]),
            sizes[::step],
            truths[::step],
        )
        terms["propagation"] = propagation_loss(self.config, self.detector, self.propagation, levels, clips, sizes)
        return terms

    def _refinement_loss(self, clips: Clips) -> dict[str, Tensor]:
        """Of the masks of detections that are an object; each frame of a clip is an image of its own."""
        assert self.refinement is not None
        truths, sizes = truths_of(clips), sizes_of(clips)
        pixels = clips.frames.flatten(0, 1)
        with torch.no_grad():
            found, _ = self.detector.detect(pixels, sizes)
            frame, slot, object_ = self._recognised(found, truths)
            if len(frame) > self.refinement.config.lessons:
                every = torch.linspace(0, len(frame) - 1, self.refinement.config.lessons, device=frame.device).long()
                frame, slot, object_ = frame[every], slot[every], object_[every]
            boxes, masks = found.boxes_px[frame, slot], found.mask_logits[frame, slot].float().sigmoid()
            places = self.refinement.squares(boxes)
            wanted = self._wanted(truths, frame, object_, places)
        logits = self._refined(self.detector.normalised(pixels, sizes), frame, masks, boxes, places)
        terms = refinement_losses(logits, wanted)
        return terms | {"overlap": terms["overlap"] + nothing(self.refinement)}

    def _recognised(
        self, found: MaskRcnnEncoded, truths: Sequence[Truth]
    ) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"], Int[Tensor, " R"]]:
        """Detections that overlap an object: of which frame, in which slot, and which of its objects."""
        assert self.config.refinement is not None
        none = found.labels.new_zeros(0)
        parts = [(none, none, none)]
        for number, truth in enumerate(truths):
            own = found.valid[number].nonzero().squeeze(1)
            if not len(own) or not len(truth.boxes_px):
                continue
            overlap, object_ = box_ops.iou(found.boxes_px[number, own], truth.boxes_px).max(1)
            enough = overlap >= self.config.refinement.match_iou
            parts.append((torch.full_like(own, number)[enough], own[enough], object_[enough]))
        frames, slots_, objects = zip(*parts, strict=True)
        return torch.cat(frames), torch.cat(slots_), torch.cat(objects)

    def _wanted(
        self,
        truths: Sequence[Truth],
        frame: Int[Tensor, " R"],
        object_: Int[Tensor, " R"],
        places_px: Float[Tensor, "R 4"],
    ) -> Float[Tensor, "R r r"]:
        """True masks in the squares."""
        assert self.refinement is not None
        side = self.refinement.config.side_px
        masks = [truths[n].masks[of] for n, of in zip(frame.tolist(), object_.tolist(), strict=True)]
        if not masks:
            return places_px.new_zeros(0, side, side)
        every = torch.arange(len(masks), device=places_px.device)
        return cut_out(torch.stack(masks).float()[:, None], every, places_px, side)[:, 0]
