"""How good a detector is on single frames, and what it allows a tracker.

On frames: mask AP, by the rules of the video metric with one frame a video. For a tracker: an identity oracle in the
manner of Yang et al., "Video instance segmentation", ICCV 2019, from raw detections: in each frame an object takes the
detection that covers it best, with the mean of their class probabilities. Differs from `oracle.py`, which re-links
finished tracks: there a mask belongs to one object only, and crowds are none.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vis_models import masks as mask_ops
from vis_models.data.annotations import AnnotatedVideo, VideoSet
from vis_models.layers.resize import resize_logits
from vis_models.metrics.average_precision import average_precision
from vis_models.metrics.oracle import LEAST_IOU
from vis_models.types import FrameDetector
from vis_models.yolact.decisions import crop


@torch.no_grad()
def frame_mask_ap(detector: FrameDetector, videos: VideoSet, frames: int) -> dict[str, float]:
    """`mask_ap` and `mask_ap50` of a detector, as fractions, on about `frames` frames spread evenly over the videos.

    Args:
        videos: in the categories of the data set that the detector was trained on, in their order: `translate` brings
            another file to them.
    """
    training = detector.training
    detector.eval()
    places = [(video, index) for video in videos.videos for index in range(len(video.file_names))]
    truth: dict = {"videos": [], "annotations": [], "categories": [c.model_dump() for c in videos.categories]}
    results = []
    for number, (video, index) in enumerate(places[:: max(1, len(places) // frames)], start=1):
        size = [video.height, video.width]
        truth["videos"].append(
            {"id": number, "height": video.height, "width": video.width, "length": 1, "file_names": [str(number)]}
        )
        for track in video.tracks:
            rle = track.rles[index]
            if rle is not None:
                truth["annotations"].append({
                    "id": len(truth["annotations"]) + 1,
                    "video_id": number,
                    "category_id": track.category_id,
                    "iscrowd": int(track.crowd),
                    "segmentations": [{"size": size, "counts": rle.decode()}],
                })  # fmt: skip
        found = detector.find(video.read_frame(index))
        rles = mask_ops.encode(found.masks.numpy(force=True))
        for category, score, rle in zip(found.categories, found.scores, rles, strict=True):
            results.append({
                "video_id": number,
                "category_id": videos.categories[category].id,
                "score": score,
                "segmentations": [{"size": size, "counts": rle.decode()}],
            })  # fmt: skip
    detector.train(training)
    summary = average_precision(truth, results).summary()
    return {"mask_ap": summary["AP"], "mask_ap50": summary["AP50"]}


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
    return resize_logits(mask_logits[None].masked_fill(~inside, -20.0), size_px)[0] > 0


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
                counts = mask_ops.encode(masks[best : best + 1].numpy(force=True))[0].decode()
                segments[slot][frame] = {"size": [video.height, video.width], "counts": counts}
                seen[slot].append(probabilities[best])
    entries = []
    for segment, chances in zip(segments, seen, strict=True):
        if chances:
            score, category = torch.stack(chances).mean(0).max(0)
            entry = {"video_id": video.video_id, "category_id": category_ids[int(category)], "score": float(score)}
            entries.append(entry | {"segmentations": segment})
    return entries
