"""How good a detector is on single frames: mask AP, by the rules of the video metric with one frame a video."""

import numpy as np
import torch
from jaxtyping import UInt8

from vis_models import masks as mask_ops
from vis_models.data.annotations import VideoSet
from vis_models.data.clips import Augmentation, change_frame, draw_change
from vis_models.metrics.average_precision import average_precision
from vis_models.yolact import Yolact

UNCHANGED = Augmentation(horizontal_flip=0.0)


@torch.no_grad()
def frame_mask_ap(detector: Yolact, videos: VideoSet, frames: int, device: torch.device | str) -> dict[str, float]:
    """`mask_ap` and `mask_ap50` of a detector, as fractions, on about `frames` frames spread evenly over the videos."""
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
                    "areas": mask_ops.area_px([rle], *size),
                })  # fmt: skip
        for category, score, rle in _detect(detector, video.read_frame(index), device):
            results.append({
                "video_id": number,
                "category_id": videos.categories[category].id,
                "score": score,
                "segmentations": [{"size": size, "counts": rle.decode()}],
            })  # fmt: skip
    detector.train(training)
    summary = average_precision(truth, results).summary()
    return {"mask_ap": summary["AP"], "mask_ap50": summary["AP50"]}


def _detect(
    detector: Yolact, frame: UInt8[np.ndarray, "H W 3"], device: torch.device | str
) -> list[tuple[int, float, bytes]]:
    """(category index, score, RLE at the frame's own size) of each instance."""
    height, width = frame.shape[:2]
    change = draw_change(np.random.default_rng(0), UNCHANGED, (height, width), detector.config.image_size)
    pixels = torch.from_numpy(change_frame(frame, change)).permute(2, 0, 1)[None].to(device)
    found = detector.instances(detector(pixels))[0]
    _, masks = found.at((height, width))
    return list(zip(found.classes.tolist(), found.scores.tolist(), mask_ops.encode(masks), strict=True))
