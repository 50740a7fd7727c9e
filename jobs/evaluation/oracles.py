"""What a score would be if one thing were perfect.

Identities: the tracks of each video are changed before they are scored, whoever made them. Detections: the image oracle
segments anew, with the objects of the labels in place of the detector's (`true_objects.py`).
"""

from collections.abc import Iterator
from typing import Literal

from vis_models.data.dialects import VideoId
from vis_models.metrics.mask_tracks import Prediction
from vis_models.metrics.oracle import CLIP_FRAMES, true_identities
from vis_models.metrics.youtube_vis import GroundTruth

Oracle = Literal["identity", "frame", "clip", "image"]
MEANS: dict[str, str] = {
    "identity": "masks as predicted, in each frame linked to the object of the labels that they cover best",
    "frame": "the identity oracle under its other name: masks as predicted, each linked to the object it covers best",
    "clip": f"pieces of {CLIP_FRAMES} frames as predicted, linked to the object of the labels that they cover best",
    "image": "the model's tracker got the labelled boxes, masks and classes in place of its own detections",
}


def true_links(
    oracle: Oracle, truth: GroundTruth, videos: Iterator[tuple[VideoId, list[Prediction]]]
) -> Iterator[tuple[VideoId, list[Prediction]]]:
    """The tracks of each video under the identities of the labels."""
    for video, tracks in videos:
        yield video, true_identities(tracks, truth.truths(video), CLIP_FRAMES if oracle == "clip" else 1)
