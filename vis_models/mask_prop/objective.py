"""What propagation and refinement learn.

Source: Bertasius, Torresani, "Mask propagation", CVPR 2020, Eq. (2), and section 4.4. Ours, where the paper is silent:
the loss is the mean over objects, not their sum; an object that the second frame does not show costs what is still
shown of it, as Eq. (3) alone would have no slope there; masks that are carried are true ones, or those of the mask head
under the true boxes, without a gradient; refinement learns cross-entropy and overlap.

Axes: B clips of L = 2 frames, A annotated objects, R detections of all frames, r pixels along a side of a square.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.layers.chunks import in_chunks
from vis_models.layers.roi_heads import MASK_CELLS
from vis_models.losses import dice, mean_over_workers
from vis_models.mask_prop.config import MaskPropConfig
from vis_models.mask_prop.propagation import Propagation
from vis_models.mask_prop.refinement import spread
from vis_models.mask_rcnn.model import MaskRcnn
from vis_models.types import Clips

MASKS_AT_ONCE = 64
FINER = 2
"""Places along a side of a cell at which a mask is looked up, so that a cell has a share of it."""


def propagation_loss(
    config: MaskPropConfig,
    detector: MaskRcnn,
    branch: Propagation,
    levels: Sequence[Float[Tensor, "F K _ _"]],
    clips: Clips,
    sizes_px: Int[Tensor, "F 2"],
) -> Float[Tensor, ""]:
    """Eq. (2) of pairs: masks of a frame, carried to the other one. `levels`: of all frames in a row."""
    features = levels[config.level].unflatten(0, (-1, 2))  # (B, 2, C, h, w)
    cells = (features.shape[-2], features.shape[-1])
    stride = detector.backbone_stride * 2**config.level
    there, true = _true_covers(clips, cells, stride)
    carried = _chosen(config, true, _own_covers(detector, levels, clips, there, cells, stride))
    inside = _inside(sizes_px, cells, stride).unflatten(0, (-1, 2))
    total, count = features.new_zeros(()).float(), there.new_zeros((), dtype=torch.long)
    for source in (0, 1) if config.learn_reference else (0,):
        target, own = 1 - source, there[:, source]
        found = branch(features[:, source], features[:, target], carried[:, source], own)
        total = total + unlike(found * inside[:, target, None], true[:, target])[own].sum()
        count = count + own.sum()
    return config.propagation_weight * total / mean_over_workers(count).clamp(min=1)


def unlike(found: Float[Tensor, "*S h w"], true: Float[Tensor, "*S h w"]) -> Float[Tensor, "*S"]:
    """One minus Eq. (3); of an object that is gone n / (n + 1), where n cells are still shown."""
    both, gone = (found * true).sum((-2, -1)), (true.sum((-2, -1)) == 0).float()
    either = (found + true).sum((-2, -1)) - both
    return 1 - (both + gone) / (either + gone).clamp(min=1e-6)


def refinement_losses(logits: Float[Tensor, "R r r"], wanted: Float[Tensor, "R r r"]) -> dict[str, Float[Tensor, ""]]:
    """Cross-entropy of the pixels and the overlap of each mask, both the mean over detections."""
    count = mean_over_workers(torch.tensor(len(logits), device=logits.device)).clamp(min=1)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((1, 2))
    return {"pixels": each.sum() / count, "overlap": dice(logits, wanted, "detr").sum() / count}


def _true_covers(
    clips: Clips, cells: tuple[int, int], stride: int
) -> tuple[Bool[Tensor, "B L A"], Float[Tensor, "B L A h w"]]:
    """Objects that can be seen and are of a known class, and the share of each cell that they have."""
    objects = clips.objects
    there = objects.visible & (~objects.crowd & (objects.labels >= 0))[:, None]
    masks = objects.masks
    pad = [0, cells[1] * stride - masks.shape[-1], 0, cells[0] * stride - masks.shape[-2]]

    def pooled(own: Bool[Tensor, "n H W"]) -> tuple[Float[Tensor, "n h w"]]:
        return (F.avg_pool2d(F.pad(own.float(), pad), stride),)

    covers = in_chunks(pooled, MASKS_AT_ONCE, masks.flatten(0, 2))[0].unflatten(0, masks.shape[:3])
    return there, covers * there[..., None, None]


@torch.no_grad()
def _own_covers(
    detector: MaskRcnn,
    levels: Sequence[Float[Tensor, "F K _ _"]],
    clips: Clips,
    there: Bool[Tensor, "B L A"],
    cells: tuple[int, int],
    stride: int,
) -> Float[Tensor, "B L A h w"]:
    """What the mask head gives under the true boxes."""
    clip, frame, slot = there.nonzero(as_tuple=True)

    def of(boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"], number: Int[Tensor, " n"]) -> tuple[Tensor]:
        logits = detector.mask_logits(detector.pooled(levels, boxes, number, MASK_CELLS))
        masks = logits[torch.arange(len(logits), device=logits.device), labels + 1].sigmoid()
        return (cover(masks, boxes, cells, stride),)

    boxes, labels = clips.objects.boxes_px[clip, frame, slot], clips.objects.labels[clip, slot]
    (found,) = in_chunks(of, MASKS_AT_ONCE, boxes, labels, clip * there.shape[1] + frame)
    covers = found.new_zeros(*there.shape, *cells)
    covers[there] = found
    return covers


def _chosen(
    config: MaskPropConfig, true: Float[Tensor, "B L A h w"], own: Float[Tensor, "B L A h w"]
) -> Float[Tensor, "B L A h w"]:
    """Of each clip one or the other."""
    given = torch.rand(len(true), device=true.device) < config.true_masks
    return torch.where(given[:, None, None, None, None], true, own)


def cover(
    masks: Float[Tensor, "R m m"], boxes_px: Float[Tensor, "R 4"], cells: tuple[int, int], stride: int
) -> Float[Tensor, "R h w"]:
    """The share of each cell that a mask has, which fills its box."""
    whole = boxes_px.new_tensor([0, 0, cells[1] * stride, cells[0] * stride]).expand(len(boxes_px), 4)
    fine = spread(masks, boxes_px, whole, (cells[0] * FINER, cells[1] * FINER))
    return F.avg_pool2d(fine[:, None], FINER)[:, 0]


def _inside(sizes_px: Int[Tensor, "F 2"], cells: tuple[int, int], stride: int) -> Bool[Tensor, "F h w"]:
    """Cells that are not of the padding alone."""
    rows = torch.arange(cells[0], device=sizes_px.device) * stride < sizes_px[:, :1]
    columns = torch.arange(cells[1], device=sizes_px.device) * stride < sizes_px[:, 1:]
    return rows[:, :, None] & columns[:, None]
