"""YOLACT: instance masks in real time, as a linear combination of prototypes.

Source: Bolya et al., "YOLACT", ICCV 2019, and the authors' code where the paper is silent.
Here it is RGNN's detector: trained alone in stage 1 by `Yolact.loss`, frozen afterwards.

Axes: F frames, P priors, C classes with background at 0, K prototypes, N detections, A annotated objects.
"""

from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.layers.backbones import ResNet
from vis_models.layers.fpn import FeaturePyramid
from vis_models.types import Clips, Detections, Found
from vis_models.yolact import losses
from vis_models.yolact.config import YolactConfig
from vis_models.yolact.decisions import NmsRule, assemble, decode_boxes, suppress, take
from vis_models.yolact.output import Instances, YolactOutput

MEAN_RGB = (123.68, 116.78, 103.94)
STD_RGB = (58.40, 57.12, 57.38)


class Yolact(nn.Module):
    """Backbone, pyramid, prototype net and one head shared by all levels."""

    mean: Tensor
    std: Tensor
    priors: Float[Tensor, "P 4"]

    def __init__(self, config: YolactConfig) -> None:
        super().__init__()
        self.config = config
        channels, levels = config.channels, len(config.prior_scales)
        scales = {len(s) for s in config.prior_scales}
        if len(scales) > 1:
            raise ValueError(f"every level needs as many prior scales, got {config.prior_scales}: the head is shared")
        self.backbone = ResNet(config.backbone)
        self.fpn = FeaturePyramid(self.backbone.channels, channels, levels)
        self.proto_net = _prototype_net(config)
        self.head = Head(channels, scales.pop() * len(config.prior_ratios), config.num_classes + 1, config.prototypes)
        self.semantic_seg_conv = nn.Conv2d(channels, config.num_classes, 1)
        for module in (self.fpn, self.proto_net, self.head, self.semantic_seg_conv):
            for conv in module.modules():
                if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                    nn.init.xavier_uniform_(conv.weight)
                    nn.init.zeros_(conv.bias)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD_RGB).view(3, 1, 1), persistent=False)
        self.register_buffer("priors", _priors(config), persistent=False)

    def forward(self, pixels: UInt8[Tensor, "F 3 H W"]) -> YolactOutput:
        return self.outputs((pixels - self.mean) / self.std)

    def outputs(self, images: Float[Tensor, "F 3 H W"]) -> YolactOutput:
        """The network on normalised images."""
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        dropped = tuple(F.dropout2d(feature, self.config.dropout, self.training) for feature in features)
        pyramid = self.fpn(dropped)
        per_level = [self.head(level) for level in pyramid]
        box, logit, coefficient = (torch.cat(parts, 1).float() for parts in zip(*per_level, strict=True))
        return YolactOutput(
            boxes=box,
            logits=logit,
            coefficients=coefficient,
            prototypes=self.proto_net(pyramid[0]).float(),
            semantic=self.semantic_seg_conv(pyramid[0]).float(),
            features=features,
        )

    # ---- decisions -------------------------------------------------------------------------------------------

    def detect(self, output: YolactOutput, slots: int, min_score: float, nms_iou: float, pool: int = 200) -> Detections:
        """The best boxes of each frame whatever their class: cross-class Fast NMS into a fixed number of slots.

        Args:
            slots: N; the best `slots` survivors are kept.
            min_score: least probability of the best foreground class.
            nms_iou: a box falls when a better one overlaps it by more.
            pool: how many of the best boxes enter the suppression.
        """
        score = output.logits.softmax(-1)[..., 1:].amax(-1)
        score, index = score.topk(min(pool, score.shape[1]), dim=1)
        candidates = self.boxes_px(take(output.boxes, index), self.priors[index])
        alive = box_ops.fast_nms(candidates, nms_iou) & (score > min_score)
        rank = torch.where(alive, score, -1.0)
        rank, best = rank.topk(min(slots, rank.shape[1]), dim=1)
        prior = index.gather(1, best)
        coefficients = take(output.coefficients, prior)
        return Detections(
            boxes_px=take(candidates, best),
            class_logits=take(output.logits, prior),
            mask_logits=torch.einsum("fnk,fkhw->fnhw", coefficients, output.prototypes),
            valid=rank > 0,
        )

    def boxes_px(self, encoded: Float[Tensor, "*S 4"], priors: Float[Tensor, "*S2 4"]) -> Float[Tensor, "*S 4"]:
        """Boxes as corners, cut off at the image."""
        edge = self._image_scale(encoded)
        corners = box_ops.corners(decode_boxes(encoded, priors)) * edge
        return corners.clamp(min=0).minimum(edge - 1 if self.config.clip_to_last_pixel else edge)

    def instances(
        self,
        output: YolactOutput,
        min_score: float = 0.05,
        nms_iou: float = 0.5,
        top: int = 100,
        rule: NmsRule = "fast",
        cross_class: bool = False,
    ) -> list[Instances]:
        """YOLACT's own answer, frame by frame: suppression, then the `top` best over all classes.

        Differs from the authors' Fast NMS, which also answers with a prior's classes below `min_score` when its
        best one is above.
        """
        probabilities = output.logits.softmax(-1)[..., 1:]
        decoded = box_ops.corners(decode_boxes(output.boxes, self.priors))
        answers = []
        for frame, scores in enumerate(probabilities):
            near = (scores.amax(-1) > min_score).nonzero().squeeze(1)
            classes, prior, score = suppress(
                decoded[frame, near], scores[near].T, nms_iou, rule, cross_class, min_score, top=top
            )
            boxes = decoded[frame, near[prior]]
            masks = assemble(output.coefficients[frame, near[prior]], output.prototypes[frame], boxes)
            answers.append(Instances(classes, score, boxes.clamp(0, 1), masks))
        return answers

    @torch.no_grad()
    def find(self, frame: UInt8[np.ndarray, "H W 3"]) -> Found:
        """The instances of a frame, at its own size."""
        height, width = self.config.image_size
        resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].to(self.mean.device)
        instances = self.instances(self(pixels))[0]
        _, masks = instances.at((frame.shape[0], frame.shape[1]))
        return Found(instances.classes.tolist(), instances.scores.tolist(), masks)

    def _image_scale(self, like: Tensor) -> Tensor:
        height, width = self.config.image_size
        return like.new_tensor([width, height, width, height])

    # ---- training --------------------------------------------------------------------------------------------

    def loss(self, clips: Clips) -> dict[str, Tensor]:
        """The four terms of YOLACT, weighted; each frame of a clip is an image of its own."""
        output = self(clips.frames.flatten(0, 1))
        length, objects = clips.frames.shape[1], clips.objects
        return self.terms(
            output,
            boxes=objects.boxes_px.flatten(0, 1) / self._image_scale(output.boxes),
            masks=objects.masks.flatten(0, 1),
            labels=objects.labels.repeat_interleave(length, 0),
            crowd=objects.crowd.repeat_interleave(length, 0),
            visible=objects.visible.flatten(0, 1),
        )

    def terms(
        self,
        output: YolactOutput,
        boxes: Float[Tensor, "F A 4"],
        masks: Bool[Tensor, "F A H W"],
        labels: Int[Tensor, "F A"],
        crowd: Bool[Tensor, "F A"],
        visible: Bool[Tensor, "F A"],
    ) -> dict[str, Tensor]:
        """Loss terms for annotated boxes as fractions of the image; annotations that are not visible are padding."""
        return losses.terms(self.config, self.priors, output, boxes, masks, labels, crowd, visible)


class Head(nn.Module):
    """One 3x3 convolution, then three in parallel: boxes, classes and prototype coefficients of every prior."""

    def __init__(self, channels: int, priors_per_cell: int, num_classes: int, prototypes: int) -> None:
        super().__init__()
        self.shapes = (4, num_classes, prototypes)
        self.upfeature = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
        self.bbox_layer = nn.Conv2d(channels, priors_per_cell * 4, 3, padding=1)
        self.conf_layer = nn.Conv2d(channels, priors_per_cell * num_classes, 3, padding=1)
        self.mask_layer = nn.Conv2d(channels, priors_per_cell * prototypes, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "F _ _ _"]
    ) -> tuple[Float[Tensor, "F _ 4"], Float[Tensor, "F _ C"], Float[Tensor, "F _ K"]]:
        x = F.relu(self.upfeature(x))
        box, logit, coefficient = (
            layer(x).permute(0, 2, 3, 1).reshape(len(x), -1, width)
            for layer, width in zip((self.bbox_layer, self.conf_layer, self.mask_layer), self.shapes, strict=True)
        )
        return box, logit, coefficient.tanh()


def _priors(config: YolactConfig) -> Float[Tensor, "P 4"]:
    """(cx, cy, w, h) as fractions of the image: levels fine to coarse, then row, column, scale, ratio."""
    priors = []
    for level, scales in enumerate(config.prior_scales):
        stride = config.backbone.stride * 2**level
        rows, columns = (-(-side // stride) for side in config.image_size)
        ratios = [ratio / config.prior_aspect for ratio in config.prior_ratios]
        widths = [s * sqrt(r) / config.prior_denominator for s in scales for r in ratios]
        heights = [s / sqrt(r) / config.prior_denominator for s in scales for r in ratios]
        sizes = torch.tensor([widths, widths if config.square_priors else heights]).T  # (priors of a cell, 2)
        ys, xs = (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
        cy, cx = torch.meshgrid(ys, xs, indexing="ij")
        centres = torch.stack([cx, cy], -1).view(-1, 1, 2).expand(-1, len(sizes), -1)
        priors.append(torch.cat([centres, sizes.expand(len(centres), -1, -1)], -1).reshape(-1, 4))
    return torch.cat(priors)


def _prototype_net(config: YolactConfig) -> nn.Sequential:
    """3 convolutions on P3, then upsample and convolve, then one 1x1; indices as in the published weights."""
    width = config.prototype_channels
    layers: list[nn.Module] = [nn.Conv2d(config.channels, width, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(config.prototype_upsamples):
        layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, config.prototypes, 1), nn.ReLU(inplace=True))
