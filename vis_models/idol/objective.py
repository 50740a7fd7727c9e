"""Eq. (2): which queries learn what, layer by layer, and what the embeddings of two frames learn from each other.

Source: Wu et al., "In defense of online models for video instance segmentation", ECCV 2022, sections 3.1 and 3.2; where
the paper is silent, its released code.

Axes: F frames, L decoder layers, Q queries, A objects of a frame, R matched queries of all frames, P positive and N
negative embeddings, D channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vis_models import boxes as box_ops
from vis_models.idol import losses, matching
from vis_models.idol.config import IdolConfig
from vis_models.idol.network import IdolNetwork, IdolOutput
from vis_models.losses import mean_over_workers, nothing, worker_count
from vis_models.truths import Truth, masks_at_cells, truths_of
from vis_models.types import Clips


@dataclass(frozen=True)
class Matched:
    """Which query is which object, in one layer."""

    object: Int[Tensor, "F Q"]
    """Of the frame's objects; -1: none."""
    best: tuple[Int[Tensor, " _"], ...]
    """The cheapest query of each object of a frame; -1: none."""


class Contrasted(NamedTuple):
    """Embeddings of one object."""

    key: Float[Tensor, " D"]
    """Of its best query in the key frame."""
    positives: Float[Tensor, "P D"]
    """Of the reference frame, as the next."""
    negatives: Float[Tensor, "N D"]


class Objective(nn.Module):
    """The loss of the network's output; has parameters where embeddings learn by an ID head."""

    def __init__(self, config: IdolConfig) -> None:
        super().__init__()
        self.config = config
        self.id_head = nn.Linear(config.channels, config.identities) if config.embed_loss == "id" else None

    def forward(
        self, network: IdolNetwork, output: IdolOutput, clips: Clips, sizes_px: Int[Tensor, "F 2"]
    ) -> dict[str, Tensor]:
        """The terms of a batch.

        Raises:
            ValueError: clips that are neither single frames nor pairs.
        """
        length = clips.frames.shape[1]
        if length > 2:
            raise ValueError(
                f"IDOL learns from single frames, or from pairs, a key and a reference frame, got clips of {length} "
                "frames: set the stage's sampling to pair"
            )
        truths = truths_of(clips)
        learned = range(0, len(truths), 1 if self.config.learn_reference else length)
        true_boxes = [_as_shares(truth.boxes_px, size) for truth, size in zip(truths, sizes_px, strict=True)]
        terms: dict[str, Tensor] = {}
        for layer in range(len(output.logits)):
            matched = self._match(output, layer, learned, truths, true_boxes)
            for name, value in self._layer(network, output, layer, learned, matched, truths, true_boxes).items():
                terms[name] = terms.get(name, 0) + value
        if length == 2:
            keys = matched.best[:: 2 if self.config.learn_reference else 1]
            terms |= self._embeddings(network, output, clips, truths, true_boxes, keys)
        return terms | {"class": terms["class"] + nothing(network, self)}

    def _match(
        self,
        output: IdolOutput,
        layer: int,
        learned: Sequence[int],
        truths: Sequence[Truth],
        true_boxes: Sequence[Float[Tensor, "_ 4"]],
    ) -> Matched:
        objects, best = [], []
        for frame in learned:
            chances, boxes = output.logits[layer, frame].sigmoid(), output.boxes[layer, frame]
            own, cheapest = matching.assign(matching.costs(chances, boxes, true_boxes[frame], truths[frame].labels))
            objects.append(own)
            best.append(cheapest)
        return Matched(torch.stack(objects), tuple(best))

    def _layer(
        self,
        network: IdolNetwork,
        output: IdolOutput,
        layer: int,
        learned: Sequence[int],
        matched: Matched,
        truths: Sequence[Truth],
        true_boxes: Sequence[Float[Tensor, "_ 4"]],
    ) -> dict[str, Tensor]:
        """Class, box and mask of what one layer says of the frames that are learned."""
        config = self.config
        count = _mean_count(int((matched.object >= 0).sum()), output.logits)
        place, query = (matched.object >= 0).nonzero(as_tuple=True)
        frame = torch.tensor(list(learned), device=place.device)[place]
        labels = torch.full_like(matched.object, -1)
        wanted_boxes, wanted_masks = [], []
        maps = network.masks(output, layer, frame, query).float()
        for row, number in enumerate(learned):
            own = matched.object[row][matched.object[row] >= 0]
            labels[row, matched.object[row] >= 0] = truths[number].labels[own]
            wanted_boxes.append(true_boxes[number][own])
            wanted_masks.append(
                masks_at_cells(truths[number].masks, (maps.shape[-2], maps.shape[-1]), config.mask_stride)[own]
            )
        l1, giou = losses.box_losses(output.boxes[layer, frame, query].float(), torch.cat(wanted_boxes), count)
        mask, dice = losses.mask_losses(maps, torch.cat(wanted_masks).to(maps.dtype), count)
        return {
            "class": config.class_weight
            * losses.class_loss(output.logits[layer, list(learned)].float(), labels, count),
            "l1": config.l1_weight * l1,
            "giou": config.giou_weight * giou,
            "mask": config.mask_weight * mask,
            "dice": config.dice_weight * dice,
        }

    def _embeddings(
        self,
        network: IdolNetwork,
        output: IdolOutput,
        clips: Clips,
        truths: Sequence[Truth],
        true_boxes: Sequence[Float[Tensor, "_ 4"]],
        keys: Sequence[Int[Tensor, " _"]],
    ) -> dict[str, Tensor]:
        """What embeddings learn of the objects that both frames show; `keys`: the best query of each object of the key
        frames."""
        config, embeddings = self.config, network.embed(output.queries[-1]).float()
        pairs, names = list[Contrasted](), list[Tensor]()
        for clip, best in enumerate(keys):
            key, reference, other = truths[2 * clip], truths[2 * clip + 1], 2 * clip + 1
            both = (key.slots[:, None] == reference.slots) & (best >= 0)[:, None]
            first, second = both.nonzero(as_tuple=True)
            chances, boxes = output.logits[-1, other].sigmoid(), output.boxes[-1, other]
            given = matching.costs(chances, boxes, true_boxes[other][second], reference.labels[second])
            if config.select == "ot":
                positive, negative = matching.contrasted(given)
            else:
                positive, negative = matching.by_overlap(given, config.positive_iou, config.negative_iou)
            for number, query in enumerate(best[first].tolist()):
                liked, disliked = embeddings[other, positive[:, number]], embeddings[other, negative[:, number]]
                pairs.append(Contrasted(embeddings[2 * clip, query], liked, disliked))
            if self.id_head is not None:
                names.append(_identities(clips, clip)[key.slots[first]] % config.identities)
        if self.id_head is not None:
            return {"embed": config.embed_weight * self._id_loss(pairs, torch.cat(names), embeddings)}
        return self._contrast(pairs, embeddings)

    def _contrast(self, pairs: Sequence[Contrasted], embeddings: Float[Tensor, "F Q D"]) -> dict[str, Tensor]:
        """Eq. (4) and the auxiliary loss, each the mean over objects."""
        config, count, nothing = self.config, _mean_count(len(pairs), embeddings), embeddings.sum() * 0
        contrast = torch.stack([nothing, *(losses.contrast(*pair) for pair in pairs)]).sum() / count
        terms = {"embed": config.embed_weight * contrast}
        if config.cosine_weight:
            cosine = torch.stack([nothing, *(losses.cosine_loss(*pair) for pair in pairs)]).sum() / count
            terms["cosine"] = config.cosine_weight * cosine
        return terms

    def _id_loss(
        self, pairs: Sequence[Contrasted], names: Int[Tensor, " K"], embeddings: Float[Tensor, "F Q D"]
    ) -> Float[Tensor, ""]:
        """Cross-entropy of which object of the training set each embedding is: the key's, and the positives."""
        assert self.id_head is not None
        own = [torch.cat([pair.key[None], pair.positives]) for pair in pairs]
        rows = torch.cat([embeddings[0, :0], *own])
        wanted = names.repeat_interleave(
            torch.tensor([len(each) for each in own], device=names.device, dtype=torch.long)
        )
        each = F.cross_entropy(self.id_head(rows).float(), wanted, reduction="sum")
        return each / _mean_count(len(rows), embeddings)


def _as_shares(boxes_px: Float[Tensor, "A 4"], size_px: Int[Tensor, " 2"]) -> Float[Tensor, "A 4"]:
    """Corners in pixels to (cx, cy, width, height) as shares of a picture of (height, width)."""
    return box_ops.centre_size(boxes_px / size_px.flip(0).repeat(2))


def _mean_count(count: int, like: Tensor) -> Float[Tensor, ""]:
    """The mean over workers, so that their number changes nothing."""
    return mean_over_workers(torch.tensor(count, device=like.device)).clamp(min=1 / worker_count())


def _identities(clips: Clips, clip: int) -> Int[Tensor, " A"]:
    """Raises ValueError: nobody says which object of the training set each is."""
    if clips.identities is None:
        raise ValueError("an ID head learns from clips that say which object of the training set each is (identities)")
    return clips.identities[clip]
