"""Labelled objects in the place of what a detector finds: what an image oracle looks at (`TracksGivenObjects`).

Axes: F frames, N detection slots, A annotated objects.
"""

import torch
import torch.nn.functional as F

from vis_models.types import Detections, Objects


def as_detections(objects: Objects, slots: int, classes: int, size: tuple[int, int]) -> Detections:
    """The visible objects of F frames in the slots of detections, the largest first: a perfect detector's answer.

    Crowds and objects of unknown class take no slot.

    Args:
        size: (height, width) of the detector's masks.
    """
    masks, boxes_px, visible = objects.masks[:, 0], objects.boxes_px[:, 0], objects.visible[:, 0]
    usable = visible & ~objects.crowd & (objects.labels >= 0)
    area = masks.flatten(2).sum(2).masked_fill(~usable, -1)
    spare = max(0, slots - area.shape[1])
    rank, best = F.pad(area, (0, spare), value=-1).topk(slots, dim=1)
    rows = torch.arange(len(best), device=best.device)[:, None]
    best, valid = best.clamp(max=area.shape[1] - 1), rank > 0
    share = F.adaptive_avg_pool2d(masks[rows, best].float(), size).clamp(0.0025, 0.9975)  # logits of -6 to 6
    chosen = F.one_hot(objects.labels[rows, best].clamp(min=0) + 1, classes + 1)
    return Detections(
        boxes_px=boxes_px[rows, best] * valid[..., None],
        class_logits=20.0 * chosen - 10,
        mask_logits=share.logit(),
        valid=valid,
    )
