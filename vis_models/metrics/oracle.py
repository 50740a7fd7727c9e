"""What a detector allows: tracks whose identity is taken from the truth.

Source: the identity oracle of Yang et al., "Video instance segmentation", ICCV 2019: masks and classes as predicted,
each with the identity of the object that it covers best.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vis_models import masks as mask_ops
from vis_models.data.annotations import AnnotatedVideo
from vis_models.yolact import crop

LEAST_IOU = 0.5
"""An object whose best detection overlaps less is not seen in that frame."""


def detected_masks(
    boxes_px: Float[Tensor, "N 4"],
    mask_logits: Float[Tensor, "N h w"],
    size_px: tuple[int, int],
    image_size: tuple[int, int],
) -> Bool[Tensor, "N H W"]:
    """A detector's own masks, each inside its box, at `size_px`; the boxes are in pixels of `image_size`."""
    height, width = image_size
    fraction = boxes_px / boxes_px.new_tensor([width, height, width, height])
    inside = crop(fraction[None], (mask_logits.shape[-2], mask_logits.shape[-1]))
    return mask_ops.resize_logits(mask_logits[None].masked_fill(~inside, -20.0), size_px)[0] > 0


def identity_oracle(
    video: AnnotatedVideo,
    frames: Iterable[tuple[Bool[Tensor, "N H W"], Float[Tensor, "N C"]]],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Entries of a results file, one for each object that was seen.

    Args:
        frames: of each frame the detections' masks at the video's size and their class probabilities, no background.
        category_ids: of the data set, in the order of the classes.
    """
    length = len(video.file_names)
    segments: list[list[dict[str, Any] | None]] = [[None] * length for _ in video.tracks]
    seen: list[list[Tensor]] = [[] for _ in video.tracks]
    for frame, (masks, probabilities) in enumerate(frames):
        for slot, track in enumerate(video.tracks):
            rle = track.rles[frame]
            if rle is None or not len(masks):
                continue
            truth = torch.from_numpy(np.ascontiguousarray(mask_ops.decode(rle, video.height, video.width)))
            iou = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2)).clamp(min=1)
            best = int(iou.argmax())
            if iou[best] >= LEAST_IOU:
                counts = mask_ops.encode(masks[best : best + 1])[0].decode()
                segments[slot][frame] = {"size": [video.height, video.width], "counts": counts}
                seen[slot].append(probabilities[best])
    entries = []
    for segment, chances in zip(segments, seen, strict=True):
        if chances:
            score, category = torch.stack(chances).mean(0).max(0)
            entry = {"video_id": video.video_id, "category_id": category_ids[int(category)], "score": float(score)}
            entries.append(entry | {"segmentations": segment})
    return entries
