"""Which object of the past a detection is: four cues, one score, one track for one detection.

Source: Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, Eq. (2) and (4). Differs from Eq. (4): weights are
those of the authors' code (1 detection, 2 IoU, 10 class), whose text has the first two of them mixed up; a new object
counts as overlapping by 0 and as of the same class.

Axes: N detections, M tracks.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.masktrack_rcnn.config import MaskTrackConfig

LOST = -2
"""In the place of a track: a detection is left out, as a better one took its track."""


def score(
    config: MaskTrackConfig,
    logits: Float[Tensor, "N _"],
    detection_score: Float[Tensor, " N"],
    overlap: Float[Tensor, "N M"],
    same_class: Bool[Tensor, "N M"],
) -> Float[Tensor, "N _"]:
    """Eq. (4), cue by cue; column 0 is "a new object". `logits`: of Eq. (2), `matching.similarity`."""
    total = logits.log_softmax(1)
    none = overlap.new_zeros(len(overlap), 1)
    if config.det_cue:
        total = total + config.det_weight * detection_score.clamp(min=torch.finfo(total.dtype).tiny).log()[:, None]
    if config.iou_cue:
        total = total + config.iou_weight * torch.cat([none, overlap], 1)
    if config.category_cue:
        total = total + config.category_weight * torch.cat([none + 1, same_class.to(none.dtype)], 1)
    return total


def assign(config: MaskTrackConfig, scores: Float[Tensor, "N _"]) -> Int[Tensor, " N"]:
    """The track of each detection, `NEW` or `LOST`. Each takes its best column; of several that want one track the
    best gets it. With the known fault those before it that were the best so far have it, too."""
    best, choice = scores.max(1)
    choice = choice - 1
    wants = (choice[:, None] == choice) & (choice >= 0)[:, None]  # (N, N): both want this track
    place = torch.arange(len(choice), device=choice.device)
    better = (best[:, None] < best) | ((best[:, None] == best) & (place < place[:, None]))
    if config.duplicate_ids:
        better &= place < place[:, None]
    return torch.where((wants & better).any(1), LOST, choice)


def winners(track: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """The detections that their track shows and remembers: of several in one track the last, which is the best."""
    place = torch.arange(len(track), device=track.device)
    again = (track[:, None] == track) & (place > place[:, None])
    return ~again.any(1) & (track >= 0)
