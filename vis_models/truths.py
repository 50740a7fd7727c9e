"""What is true of each frame of training clips: the objects that can be seen there, and the size of the picture.

Axes: F frames of all clips in a row, A objects of a frame, K crowds of a frame.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.types import Clips


@dataclass(frozen=True)
class Truth:
    """The objects of one frame; crowds apart."""

    boxes_px: Float[Tensor, "A 4"]
    labels: Int[Tensor, " A"]
    """0 .. classes-1."""
    masks: Bool[Tensor, "A H W"]
    slots: Int[Tensor, " A"]
    """What the objects of a clip are called in each of its frames."""
    crowds_px: Float[Tensor, "K 4"]


def truths_of(clips: Clips) -> list[Truth]:
    """The objects that can be seen in each frame of each clip, clip by clip."""
    objects, found = clips.objects, []
    for clip in range(len(objects)):
        known = ~objects.crowd[clip] & (objects.labels[clip] >= 0)
        for frame in range(clips.frames.shape[1]):
            seen = objects.visible[clip, frame]
            slots = (seen & known).nonzero().squeeze(1)
            boxes = objects.boxes_px[clip, frame]
            found.append(
                Truth(
                    boxes[slots],
                    objects.labels[clip, slots],
                    objects.masks[clip, frame, slots],
                    slots,
                    boxes[seen & objects.crowd[clip]],
                )
            )
    return found


def sizes_of(clips: Clips) -> Int[Tensor, "F 2"]:
    """(height, width) of the picture in each frame."""
    if clips.sizes_px is not None:
        return clips.sizes_px.flatten(0, 1)
    shape = torch.tensor([clips.frames.shape[-2:]], device=clips.frames.device)
    return shape.expand(clips.frames.shape[0] * clips.frames.shape[1], 2)


def masks_at_cells(masks: Bool[Tensor, "A H W"], cells: tuple[int, int], stride: int) -> Bool[Tensor, "A h w"]:
    """True masks at the cells of a network's, which are of a picture padded further: the middle pixel of each.

    Args:
        cells: (height, width) of a mask of the network.
        stride: pixels along a side of a cell.
    """
    return _padded(masks, cells, stride)[:, stride // 2 :: stride, stride // 2 :: stride]


def shares_of_cells(masks: Bool[Tensor, "A H W"], cells: tuple[int, int], stride: int) -> Float[Tensor, "A h w"]:
    """How much of each cell a true mask covers, 0 to 1; arguments as of `masks_at_cells`. Between the cells of a mask
    that says so its edge lies where it is, and not on the border of a cell."""
    return F.avg_pool2d(_padded(masks, cells, stride)[:, None].float(), stride)[:, 0]


def _padded(masks: Bool[Tensor, "A H W"], cells: tuple[int, int], stride: int) -> Bool[Tensor, "A _ _"]:
    rows, columns = (side * stride for side in cells)
    return F.pad(masks, [0, columns - masks.shape[2], 0, rows - masks.shape[1]])
