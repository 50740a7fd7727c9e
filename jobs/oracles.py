"""What a score would be if one thing were perfect: the tracks of each video, changed before they are scored."""

from collections.abc import Iterator
from typing import Literal

from vis_models.metrics.oracle import CLIP_FRAMES, true_identities, true_masks
from vis_models.metrics.track_matching import Prediction
from vis_models.metrics.youtube_vis import GroundTruth

Oracle = Literal["identity", "frame", "clip", "image"]
MEANS: dict[str, str] = {
    "identity": "masks as predicted, in each frame linked to the object of the labels that they cover best",
    "frame": "another name for identity",
    "clip": f"pieces of {CLIP_FRAMES} frames as predicted, linked to the object of the labels that they cover best",
    "image": "masks and classes of the labels, linked as the predicted tracks that cover them; what no track covers "
    "stays missed (the paper runs the tracker on the true masks instead)",
}


def apply(
    oracle: Oracle, truth: GroundTruth, videos: Iterator[tuple[int, list[Prediction]]], min_score: float
) -> Iterator[tuple[int, list[Prediction]]]:
    """The tracks of each video as the oracle makes them.

    Args:
        min_score: the image oracle, which gives every track the score 1, takes no track below.
    """
    for video, tracks in videos:
        truths = truth.truths(video)
        if oracle == "image":
            yield video, true_masks(tracks, truths, min_score)
        else:
            yield video, true_identities(tracks, truths, CLIP_FRAMES if oracle == "clip" else 1)
