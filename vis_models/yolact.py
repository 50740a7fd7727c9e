"""YOLACT: instance masks in real time, as a linear combination of prototypes.

Source: Bolya et al., "YOLACT", ICCV 2019, and the authors' code where the paper is silent.
Here it is RGNN's detector: trained alone in stage 1 by `Yolact.loss`, frozen afterwards.

Axes: F frames, P priors, C classes with background at 0, K prototypes, N detections, A annotated objects.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.configs import YolactConfig
from vis_models.layers.backbones import ResNet
from vis_models.layers.fpn import FeaturePyramid
from vis_models.layers.resize import resize_logits
from vis_models.losses import mean_over_workers
from vis_models.types import Clips, Detections, Found

MEAN_RGB = (123.68, 116.78, 103.94)
STD_RGB = (58.40, 57.12, 57.38)
NmsRule = Literal["fast", "greedy"]
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # of the SSD box coding


@dataclass(frozen=True)
class YolactOutput:
    """Everything that YOLACT says about F frames, before any decision."""

    boxes: Float[Tensor, "F P 4"]
    """Encoded against the priors."""
    logits: Float[Tensor, "F P C"]
    coefficients: Float[Tensor, "F P K"]
    prototypes: Float[Tensor, "F K h w"]
    semantic: Float[Tensor, "F _ _ _"]
    features: tuple[Tensor, Tensor, Tensor]
    """C3, C4, C5 of the backbone."""


@dataclass(frozen=True)
class Instances:
    """What YOLACT says about one frame after its decisions, best first."""

    classes: Int[Tensor, " N"]
    """Counted from 0, the first foreground class."""
    scores: Float[Tensor, " N"]
    boxes: Float[Tensor, "N 4"]
    """Corners as fractions of the image."""
    masks: Float[Tensor, "N h w"]
    """Probabilities at the resolution of the prototypes, 0 outside the box."""

    def at(self, size_px: tuple[int, int]) -> tuple[Int[Tensor, "N 4"], Bool[Tensor, "N H W"]]:
        """Boxes in whole pixels, cut off and not rounded, and masks, in an image of this height and width."""
        height, width = size_px
        boxes_px = self.boxes * self.boxes.new_tensor([width, height, width, height])
        return boxes_px.long(), resize_logits(self.masks[None], size_px)[0] > 0.5


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
        candidates = self.boxes_px(_take(output.boxes, index), self.priors[index])
        alive = box_ops.fast_nms(candidates, nms_iou) & (score > min_score)
        rank = torch.where(alive, score, -1.0)
        rank, best = rank.topk(min(slots, rank.shape[1]), dim=1)
        prior = index.gather(1, best)
        coefficients = _take(output.coefficients, prior)
        return Detections(
            boxes_px=_take(candidates, best),
            class_logits=_take(output.logits, prior),
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
        matched, state = self._match(boxes, visible & ~crowd, visible & crowd)
        positive = state == 1
        # Differs from the authors' code, which divides by zero where a batch has no positives
        count = mean_over_workers(positive.sum()).clamp(min=1)
        target = torch.where(positive, labels.gather(1, matched) + 1, 0)
        weights = self.config
        return {
            "class": weights.class_weight * self._class_term(output.logits, target, state) / count,
            "box": weights.box_weight * self._box_term(output.boxes, boxes, matched, positive) / count,
            "mask": weights.mask_weight * self._mask_term(output, boxes, masks, matched, positive) / count,
            "semantic": weights.semantic_weight * self._semantic_term(output.semantic, masks, labels, visible & ~crowd),
        }

    @torch.no_grad()
    def _match(
        self, boxes: Float[Tensor, "F A 4"], regular: Bool[Tensor, "F A"], crowd: Bool[Tensor, "F A"]
    ) -> tuple[Int[Tensor, "F P"], Int[Tensor, "F P"]]:
        """The annotation of each prior, and its state: 1 positive, 0 background, -1 neither.

        Every annotation first claims its best prior, the best pair of all first and each prior once.
        """
        priors = box_ops.corners(self.priors)
        overlap = box_ops.iou(boxes, priors.expand(len(boxes), -1, -1)).masked_fill(~regular[..., None], -1.0)
        best, matched = overlap.max(1)  # (F, P)
        claims, rows = overlap.clone(), torch.arange(len(boxes), device=boxes.device)
        for _ in range(boxes.shape[1]):
            value, flat = claims.flatten(1).max(1)
            annotation, prior = flat // claims.shape[2], flat % claims.shape[2]
            won = value >= 0
            best[rows[won], prior[won]] = 2.0
            matched[rows[won], prior[won]] = annotation[won]
            claims[rows, annotation] = -1.0
            claims[rows, :, prior] = -1.0
        state = torch.where(best >= self.config.positive_iou, 1, torch.where(best < self.config.negative_iou, 0, -1))
        covered = box_ops.intersection(priors.expand(len(boxes), -1, -1), boxes) / box_ops.area(priors)[:, None]
        in_crowd = (covered.masked_fill(~crowd[:, None], 0.0) > self.config.crowd_iou).any(-1)
        return matched, torch.where((state == 0) & in_crowd, -1, state)

    def _class_term(
        self, logits: Float[Tensor, "F P C"], target: Int[Tensor, "F P"], state: Int[Tensor, "F P"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy over the positives and the hardest negatives, three for each positive of the image (OHEM)."""
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        negative, positive = state == 0, state == 1
        hardness = loss.detach().masked_fill(~negative, -1.0)
        rank = hardness.argsort(1, descending=True).argsort(1)
        wanted = self.config.negatives_per_positive * positive.sum(1, keepdim=True)
        return loss[positive | (negative & (rank < wanted))].sum()

    def _box_term(
        self,
        encoded: Float[Tensor, "F P 4"],
        boxes: Float[Tensor, "F A 4"],
        matched: Int[Tensor, "F P"],
        positive: Bool[Tensor, "F P"],
    ) -> Float[Tensor, ""]:
        frame, prior = positive.nonzero(as_tuple=True)
        target = encode_boxes(boxes[frame, matched[frame, prior]], self.priors[prior])
        return F.smooth_l1_loss(encoded[frame, prior], target, reduction="sum")

    def _mask_term(
        self,
        output: YolactOutput,
        boxes: Float[Tensor, "F A 4"],
        masks: Bool[Tensor, "F A H W"],
        matched: Int[Tensor, "F P"],
        positive: Bool[Tensor, "F P"],
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy inside the annotated box, divided by the box's area, summed over positives."""
        per_frame = positive.sum(1)
        slots = min(int(per_frame.max()), self.config.masks_per_image)
        if not slots:
            return (output.prototypes.sum() + output.coefficients.sum()) * 0  # nothing to learn, for all that learns
        lottery = torch.rand_like(positive, dtype=torch.float32).masked_fill(~positive, -1.0)
        ticket, prior = lottery.topk(slots, dim=1)  # (F, slots): a random subset where there are too many
        drawn = ticket >= 0
        annotation = matched.gather(1, prior)
        box = _take(boxes, annotation)
        size = (output.prototypes.shape[-2], output.prototypes.shape[-1])
        small = resize_logits(masks.to(output.prototypes.dtype), size)
        target = _take(small if self.config.soft_masks else (small > 0.5).to(small.dtype), annotation)
        logits = torch.einsum("fnk,fkhw->fnhw", _take(output.coefficients, prior), output.prototypes)
        pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * crop(box, size)
        wh = (box[..., 2:] - box[..., :2]) * box.new_tensor([size[1], size[0]])
        per_mask = pixel.sum((-2, -1)) / wh.prod(-1).clamp(min=1e-4)
        share = (per_frame / drawn.sum(1).clamp(min=1))[:, None]  # a subset stands for all
        return (per_mask * drawn * share).sum()

    def _semantic_term(
        self,
        semantic: Float[Tensor, "F S h w"],
        masks: Bool[Tensor, "F A H W"],
        labels: Int[Tensor, "F A"],
        regular: Bool[Tensor, "F A"],
    ) -> Float[Tensor, ""]:
        """Per-pixel sigmoid cross-entropy of each class against the union of its objects."""
        small = resize_logits(masks.to(semantic.dtype), (semantic.shape[-2], semantic.shape[-1])) > 0.5
        one_hot = F.one_hot(labels.clamp(min=0), semantic.shape[1]) * regular[..., None]  # (F, A, S)
        target = torch.einsum("fas,fahw->fshw", one_hot.to(semantic.dtype), small.to(semantic.dtype)).clamp(max=1)
        loss = F.binary_cross_entropy_with_logits(semantic, target, reduction="sum")
        return loss / (semantic.shape[-1] * semantic.shape[-2] * len(semantic))


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


def decode_boxes(encoded: Float[Tensor, "*S 4"], priors: Float[Tensor, "*S2 4"]) -> Float[Tensor, "*S 4"]:
    """SSD box coding to (cx, cy, w, h) as fractions of the image."""
    centre = priors[..., :2] + CENTRE_VARIANCE * encoded[..., :2] * priors[..., 2:]
    return torch.cat([centre, priors[..., 2:] * (SIZE_VARIANCE * encoded[..., 2:]).exp()], -1)


def encode_boxes(boxes: Float[Tensor, "*S 4"], priors: Float[Tensor, "*S2 4"]) -> Float[Tensor, "*S 4"]:
    """Corners as fractions of the image to SSD box coding; the inverse of `decode_boxes`."""
    target = box_ops.centre_size(boxes)
    centre = (target[..., :2] - priors[..., :2]) / (CENTRE_VARIANCE * priors[..., 2:])
    size = (target[..., 2:].clamp(min=1e-6) / priors[..., 2:]).log() / SIZE_VARIANCE  # never log 0
    return torch.cat([centre, size], -1)


def suppress(
    boxes: Float[Tensor, "P 4"],
    scores: Float[Tensor, "S P"],
    nms_iou: float,
    rule: NmsRule = "fast",
    cross_class: bool = False,
    min_score: float = 0.0,
    pool: int = 200,
    top: int = 100,
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Float[Tensor, " N"]]:
    """The best boxes of an image that no better one covers, best first.

    Args:
        scores: of each foreground class.
        nms_iou: a box falls when a better one overlaps it by more.
        rule: fast lets fallen boxes suppress, greedy does not.
        cross_class: each box competes once, with its best class, against all boxes; otherwise in every class
            against the boxes of that class.
        pool: how many of the best boxes (of a class) enter the suppression.

    Returns:
        class, index of the box, and score of each survivor.
    """
    best, category = scores.max(0, keepdim=True)
    rows = best if cross_class else scores
    score, order = rows.topk(min(pool, rows.shape[1]), dim=1)
    survives = {"fast": box_ops.fast_nms, "greedy": box_ops.greedy_nms}[rule]
    row, rank = (survives(boxes[order], nms_iou) & (score > min_score)).nonzero(as_tuple=True)
    first = score[row, rank].argsort(descending=True)[:top]
    row, rank = row[first], rank[first]
    prior = order[row, rank]
    return category[0, prior] if cross_class else row, prior, score[row, rank]


def assemble(
    coefficients: Float[Tensor, "N K"], prototypes: Float[Tensor, "K h w"], boxes: Float[Tensor, "N 4"]
) -> Float[Tensor, "N h w"]:
    """Mask probabilities: the sum of the prototypes by each detection's coefficients, cut at its box."""
    logits = torch.einsum("nk,khw->nhw", coefficients, prototypes)
    return logits.sigmoid() * crop(boxes[None], (logits.shape[-2], logits.shape[-1]))[0]


def crop(boxes: Float[Tensor, "F N 4"], size: tuple[int, int]) -> Bool[Tensor, "F N h w"]:
    """Which pixels of a (height, width) map lie in each box (fractions of the image), with one pixel to spare."""
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    x0, y0, x1, y1 = (boxes * scale).unbind(-1)
    xs = torch.arange(width, device=boxes.device)
    ys = torch.arange(height, device=boxes.device)
    across = (xs >= (x0 - 1).clamp(min=0)[..., None]) & (xs < (x1 + 1).clamp(max=width)[..., None])
    down = (ys >= (y0 - 1).clamp(min=0)[..., None]) & (ys < (y1 + 1).clamp(max=height)[..., None])
    return down[..., :, None] & across[..., None, :]


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


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of the second axis by an index of the first two: values (F, P, ...), index (F, N) -> (F, N, ...)."""
    tail = values.shape[2:]
    return values.gather(1, index.view(*index.shape, *(1 for _ in tail)).expand(*index.shape, *tail))
