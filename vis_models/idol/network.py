"""The network of IDOL: of every query of a frame a class, a box, a mask and an embedding.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, section 3.2; parameter
names are the authors'.

Axes: F frames, N decoder layers, Q queries, S classes, C channels, R chosen queries of all frames, K = 8 channels of
the mask features.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models.idol import layouts
from vis_models.idol.config import IdolConfig
from vis_models.idol.masks import MaskBranch
from vis_models.idol.transformer import DeformableTransformer, Levels
from vis_models.layers.backbones import backbone
from vis_models.layers.dynamic_masks import PARAMETERS, dynamic_masks
from vis_models.layers.mlp import Mlp
from vis_models.layers.normalise import DIVISOR

PRIOR = 0.01
"""Chance of every class at the start."""
SMALL = -2.0
"""Logit of a box's sides at the start."""


@dataclass(frozen=True)
class IdolOutput:
    """What the network says of F frames, layer by layer of the decoder."""

    logits: Float[Tensor, "N F Q S"]
    """Of each class by itself."""
    boxes: Float[Tensor, "N F Q 4"]
    """(cx, cy, width, height) as fractions of the picture without its padding."""
    references: Float[Tensor, "N F Q 2"]
    """(x, y) that each layer was given, of the same unit: what masks are relative to."""
    queries: Float[Tensor, "N F Q C"]
    features: Float[Tensor, "F K h w"]
    """What all masks of a frame are made of."""
    sizes_px: Int[Tensor, "F 2"]
    """(height, width) of each picture without its padding."""


class IdolNetwork(nn.Module):
    """Backbone, deformable transformer, and the heads on its queries."""

    published = layouts.PUBLISHED
    """The layouts that it knows, in words."""

    def __init__(self, config: IdolConfig) -> None:
        super().__init__()
        self.config = config
        channels, layers = config.channels, config.decoder_layers
        self.backbone = backbone(config.backbone)
        self.input_proj = _projections(self.backbone.channels, channels, config.levels, config.norm_groups)
        self.transformer = DeformableTransformer(config)
        self.query_embed = nn.Embedding(config.queries, 2 * channels)
        self.class_embed = nn.ModuleList(deepcopy(_class_head(channels, config.num_classes)) for _ in range(layers))
        first = _box_head(channels)
        self.bbox_embed: Sequence[Mlp] = nn.ModuleList(deepcopy(first) for _ in range(layers))  # type: ignore[assignment]
        nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], SMALL)
        self.mask_head = MaskBranch(channels)
        self.controller = Mlp(channels, channels, channels, PARAMETERS)
        for linear in self.controller.layers:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.reid_embed_head = Mlp(channels, channels, channels, channels)

    def from_published(self, state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
        """The layout of a checkpoint, and its tensors under the names of this network; None: of another kind.

        Raises:
            BadConfig: one of other fields than this network's, save its classes.
        """
        found = layouts.renamed(state)
        if found is not None:
            layouts.require_alike(*found, self.config)
        return found

    def forward(self, images: Float[Tensor, "F 3 H W"], sizes_px: Int[Tensor, "F 2"]) -> IdolOutput:
        """
        Args:
            images: normalised, zero beyond each picture, sides multiples of 32.
            sizes_px: (height, width) of each picture.
        """
        own = -(-sizes_px // DIVISOR) * DIVISOR
        kinds, kind = own.unique(dim=0, return_inverse=True)
        if self.config.padding == "joint" or (len(kinds) == 1 and kinds[0].tolist() == list(images.shape[-2:])):
            return self._joint(images, sizes_px)
        groups = [(kind == number).nonzero().flatten() for number in range(len(kinds))]
        parts = [
            self._joint(images[group, :, :height, :width], sizes_px[group])
            for group, (height, width) in zip(groups, kinds.tolist(), strict=True)
        ]
        stride = self.config.backbone.stride
        return _joined(parts, torch.cat(groups).argsort(), (images.shape[2] // stride, images.shape[3] // stride))

    def embed(self, queries: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """What queries of one object have in common, over frames."""
        return self.reid_embed_head(queries).float()

    def masks(
        self, output: IdolOutput, layer: int, frame: Int[Tensor, " R"], query: Int[Tensor, " R"]
    ) -> Float[Tensor, "R _ _"]:
        """Mask logits of some queries, as one layer tells them: a cell is 4 pixels of the padded picture, with a
        backbone of stride 8."""
        parameters = self.controller(output.queries[layer, frame, query])
        centres = output.references[layer, frame, query] * output.sizes_px[frame].flip(1)
        return dynamic_masks(output.features[frame], parameters, centres, self.config.backbone.stride)

    # ---- the parts, in the order of the data -----------------------------------------------------------------

    def _joint(self, images: Float[Tensor, "F 3 H W"], sizes_px: Int[Tensor, "F 2"]) -> IdolOutput:
        memory = self.transformer.encode(self.levels(images, sizes_px))
        position, content = self.query_embed.weight.chunk(2, 1)
        decoded = self.transformer.decode(memory, content, position, self.bbox_embed)
        logits = [head(queries) for head, queries in zip(self.class_embed, decoded.queries, strict=True)]
        return IdolOutput(
            logits=torch.stack(logits).float(),
            boxes=decoded.boxes,
            references=decoded.references,
            queries=decoded.queries,
            features=self.mask_head(memory.maps()[:3]),
            sizes_px=sizes_px,
        )

    def levels(self, images: Float[Tensor, "F 3 H W"], sizes_px: Int[Tensor, "F 2"]) -> Levels:
        """The backbone's maps and coarser ones, all of them of `channels` channels."""
        found = list(self.backbone(images))
        maps = [project(x) for project, x in zip(self.input_proj, found, strict=False)]
        last = found[-1]
        for project in self.input_proj[len(found) :]:
            last = project(last)
            maps.append(last)
        paddings: list[Tensor] = []
        for number, (height, width) in enumerate(x.shape[-2:] for x in maps):
            if number < len(found):
                cells = -(-sizes_px // (self.config.backbone.stride * 2**number))
                rows = torch.arange(height, device=images.device) >= cells[:, :1]
                columns = torch.arange(width, device=images.device) >= cells[:, 1:]
                paddings.append(rows[:, :, None] | columns[:, None])
            else:
                paddings.append(F.interpolate(paddings[0][None].float(), size=(height, width))[0] > 0)
        return Levels.of(maps, paddings)


def _projections(given: Sequence[int], channels: int, levels: int, groups: int) -> nn.ModuleList:
    """Of the backbone's maps, and from its last to coarser ones."""
    convs = [nn.Conv2d(inside, channels, 1) for inside in given]
    inside = given[-1]
    for _ in range(levels - len(given)):
        convs.append(nn.Conv2d(inside, channels, 3, stride=2, padding=1))
        inside = channels
    for conv in convs:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(groups, channels)) for conv in convs)


def _class_head(channels: int, classes: int) -> nn.Linear:
    head = nn.Linear(channels, classes)
    nn.init.constant_(head.bias, -log((1 - PRIOR) / PRIOR))
    return head


def _box_head(channels: int) -> Mlp:
    """Says at the start that no box is off."""
    head = Mlp(channels, channels, channels, 4)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head


def _joined(parts: Sequence[IdolOutput], order: Int[Tensor, " F"], size: tuple[int, int]) -> IdolOutput:
    """One answer of those of each size; mask features are filled up with zeros."""
    features = [
        F.pad(part.features, [0, size[1] - part.features.shape[3], 0, size[0] - part.features.shape[2]])
        for part in parts
    ]
    return IdolOutput(
        logits=torch.cat([part.logits for part in parts], 1)[:, order],
        boxes=torch.cat([part.boxes for part in parts], 1)[:, order],
        references=torch.cat([part.references for part in parts], 1)[:, order],
        queries=torch.cat([part.queries for part in parts], 1)[:, order],
        features=torch.cat(features)[order],
        sizes_px=torch.cat([part.sizes_px for part in parts])[order],
    )
