"""Deformable encoder and decoder, with boxes that every layer of the decoder refines.

Source: Zhu et al., "Deformable DETR", ICLR 2021, sections 4.1 and 4.2 and appendix A.4; parameter names are the
authors', whose `norm1` of a decoder layer stands behind the cross attention that comes second.

Axes: F frames, L levels, S cells of all levels in a row, Q queries, C channels, N decoder layers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vis_models.idol.config import IdolConfig
from vis_models.layers.deformable import DeformableAttention, Size
from vis_models.layers.mlp import Mlp
from vis_models.layers.positions import sine_positions

EDGE = 1e-5
"""How near to 0 and 1 a side of a box may come where it is turned into a logit."""


@dataclass(frozen=True)
class Levels:
    """Maps of several sizes in a row, fine to coarse."""

    values: Float[Tensor, "F S C"]
    sizes: tuple[Size, ...]
    padding: Bool[Tensor, "F S"]
    valid: Float[Tensor, "F L 2"]
    """Share of the columns and of the rows that are no padding."""

    @classmethod
    def of(cls, maps: Sequence[Float[Tensor, "F C _ _"]], paddings: Sequence[Bool[Tensor, "F _ _"]]) -> "Levels":
        valid = [torch.stack([(~p[:, 0]).float().mean(1), (~p[:, :, 0]).float().mean(1)], -1) for p in paddings]
        return cls(
            values=in_a_row(maps),
            sizes=tuple((values.shape[2], values.shape[3]) for values in maps),
            padding=torch.cat([padding.flatten(1) for padding in paddings], 1),
            valid=torch.stack(valid, 1),
        )

    def maps(self) -> list[Float[Tensor, "F C _ _"]]:
        lengths = [height * width for height, width in self.sizes]
        parts = zip(self.values.split(lengths, 1), self.sizes, strict=True)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in parts]

    def paddings(self) -> list[Bool[Tensor, "F _ _"]]:
        lengths = [height * width for height, width in self.sizes]
        return [part.unflatten(1, size) for part, size in zip(self.padding.split(lengths, 1), self.sizes, strict=True)]


def in_a_row(maps: Sequence[Float[Tensor, "F C _ _"]]) -> Float[Tensor, "F S C"]:
    return torch.cat([values.flatten(2) for values in maps], 2).transpose(1, 2)


class Decoded(NamedTuple):
    """What each of the N layers of the decoder says."""

    queries: Float[Tensor, "N F Q C"]
    references: Float[Tensor, "N F Q 2"]
    """(x, y) that the layer was given, as fractions of the picture without its padding."""
    boxes: Float[Tensor, "N F Q 4"]
    """(cx, cy, width, height) of the same unit, refined by the layer."""


class EncoderLayer(nn.Module):
    """Every cell looks at a few cells of every level."""

    def __init__(self, config: IdolConfig) -> None:
        super().__init__()
        channels = config.channels
        self.self_attn = DeformableAttention(channels, config.heads, config.levels, config.points)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, config.hidden)
        self.linear2 = nn.Linear(config.hidden, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, levels: Levels, position: Float[Tensor, "F S C"], references: Float[Tensor, "F S L 2"]
    ) -> Float[Tensor, "F S C"]:
        x = levels.values
        seen = self.self_attn(x + position, references, x, levels.sizes, levels.padding)
        x = self.norm1(x + self.dropout(seen))
        inner = self.dropout(self.linear1(x).relu())
        return self.norm2(x + self.dropout(self.linear2(inner)))


class DecoderLayer(nn.Module):
    """Queries look at each other, then at a few cells of every level."""

    def __init__(self, config: IdolConfig) -> None:
        super().__init__()
        channels = config.channels
        self.cross_attn = DeformableAttention(channels, config.heads, config.levels, config.points)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attn = nn.MultiheadAttention(channels, config.heads, config.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, config.hidden)
        self.linear2 = nn.Linear(config.hidden, channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "F Q C"],
        position: Float[Tensor, "F Q C"],
        references: Float[Tensor, "F Q L _"],
        memory: Levels,
    ) -> Float[Tensor, "F Q C"]:
        where = x + position
        seen, _ = self.self_attn(where, where, x, need_weights=False)
        x = self.norm2(x + self.dropout(seen))
        seen = self.cross_attn(x + position, references, memory.values, memory.sizes, memory.padding)
        x = self.norm1(x + self.dropout(seen))
        inner = self.dropout(self.linear1(x).relu())
        return self.norm3(x + self.dropout(self.linear2(inner)))


class Stack(nn.Module):
    """Layers one after the other, under the authors' name for them."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableTransformer(nn.Module):
    """Encoder and decoder. `recomputes`: keep only what enters each layer for the backward pass."""

    def __init__(self, config: IdolConfig) -> None:
        super().__init__()
        channels = config.channels
        self.encoder = Stack([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.decoder = Stack([DecoderLayer(config) for _ in range(config.decoder_layers)])
        self.level_embed = nn.Parameter(torch.empty(config.levels, channels))
        self.reference_points = nn.Linear(channels, 2)
        self.recomputes = False
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset()
        nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embed)

    def encode(self, levels: Levels) -> Levels:
        """The memory: every cell has seen what matters of the picture."""
        channels = levels.values.shape[2]
        positions = [
            sine_positions(padding, channels) + of_level[:, None, None]
            for padding, of_level in zip(levels.paddings(), self.level_embed, strict=True)
        ]
        position, references = in_a_row(positions), own_places(levels)
        for layer in self.encoder.layers:
            levels = replace(levels, values=self._run(layer, levels, position, references))
        return levels

    def decode(
        self,
        memory: Levels,
        content: Float[Tensor, "Q C"],
        position: Float[Tensor, "Q C"],
        box_heads: Iterable[Mlp],
    ) -> Decoded:
        """Section 4.2, iterative bounding box refinement: a layer tells by how much the box of the one before is off,
        which learns nothing from that."""
        frames = len(memory.values)
        queries, where = (part.expand(frames, *part.shape) for part in (content, position))
        reference = self.reference_points(where).float().sigmoid()
        said: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer, head in zip(self.decoder.layers, box_heads, strict=True):
            scale = memory.valid if reference.shape[2] == 2 else memory.valid.repeat(1, 1, 2)
            queries = self._run(layer, queries, where, reference[:, :, None] * scale[:, None], memory)
            given = F.pad(logit(reference), [0, 4 - reference.shape[2]])  # the first layer is given no size
            boxes = (head(queries).float() + given).sigmoid()
            said.append((queries, reference[..., :2], boxes))
            reference = boxes.detach()
        return Decoded(*(torch.stack(parts) for parts in zip(*said, strict=True)))

    def _run(self, layer: Callable[..., Tensor], *given: Any) -> Tensor:
        if not (self.recomputes and torch.is_grad_enabled()):
            return layer(*given)
        return checkpoint(layer, *given, use_reentrant=False)


def own_places(levels: Levels) -> Float[Tensor, "F S L 2"]:
    """The middle of every cell, as fractions of the padded picture of each level; cells beyond the picture lie where
    they would if it went on."""
    places = []
    for number, (height, width) in enumerate(levels.sizes):
        y, x = torch.meshgrid(
            torch.arange(height, device=levels.valid.device) + 0.5,
            torch.arange(width, device=levels.valid.device) + 0.5,
            indexing="ij",
        )
        whole = levels.valid[:, None, number] * levels.valid.new_tensor([width, height])  # of the picture, in cells
        places.append(torch.stack([x, y], -1).flatten(0, 1) / whole)
    return torch.cat(places, 1)[:, :, None] * levels.valid[:, None]


def logit(share: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Inverse of the sigmoid, finite at 0 and 1."""
    share = share.clamp(0, 1)
    return (share.clamp(min=EDGE) / (1 - share).clamp(min=EDGE)).log()
