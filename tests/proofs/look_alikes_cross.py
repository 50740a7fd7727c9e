"""Two look-alikes cross behind a pillar: MaskProp and VisSTG, who learned the film, know afterwards who is who; linked
by their overlap, the same masks change places. Two minutes.

python -m pytest tests/proofs/look_alikes_cross.py
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pycocotools import mask as coco

from tests.vis_models.drawn import HEIGHT, WIDTH
from tests.vis_models.test_learning import labels_of, learned, small_mask_prop, small_visstg, tracks_of
from vis_models import boxes
from vis_models.metrics.average_precision import average_precision
from vis_models.types import Clips, Objects

LENGTH = 13
SIDE, ROW, SPEED = 12, 24, 6
"""Of both squares, in pixels."""
PILLAR = slice(41, 55)
"""Its columns: for one frame it hides both."""
LOOK_ALIKE = (230, 130)
"""How bright each is in the same colour."""


def crossing() -> Clips:
    """One goes from left to right, the other from right to left, along the same row and of one class."""
    frames = torch.full((1, LENGTH, 3, HEIGHT, WIDTH), 30, dtype=torch.uint8)
    masks = torch.zeros(1, LENGTH, 2, HEIGHT, WIDTH, dtype=torch.bool)
    for t in range(LENGTH):
        for a, left in enumerate((6 + SPEED * t, WIDTH - 6 - SIDE - SPEED * t)):
            masks[0, t, a, ROW : ROW + SIDE, left : left + SIDE] = True
            frames[0, t, 0, ROW : ROW + SIDE, left : left + SIDE] = LOOK_ALIKE[a]
    masks[..., PILLAR] = False
    frames[..., PILLAR] = 120
    objects = Objects(
        masks,
        boxes.of_masks(masks),
        masks.any(-1).any(-1),
        torch.zeros(1, 2, dtype=torch.long),
        torch.zeros(1, 2, dtype=torch.bool),
    )
    return Clips(frames, objects)


def linked_by_overlap(tracks: list[dict]) -> list[dict]:
    """The same masks, each given to the track whose last mask it covers best, or is nearest to."""
    length = len(tracks[0]["segmentations"])
    made: list[dict] = []
    for t in range(length):
        shown = [(track, track["segmentations"][t]) for track in tracks if track["segmentations"][t]]
        free = list(made)
        for track, mask in sorted(shown, key=lambda each: -each[0]["score"]):
            best = max(free, key=lambda own: overlap(own["segmentations"], mask), default=None)
            if best is None or overlap(best["segmentations"], mask) == 0:
                best = track | {"segmentations": [None] * length}
                made.append(best)
            else:
                free = [own for own in free if own is not best]
            best["segmentations"][t] = mask
    return made


def overlap(seen: list[dict | None], mask: dict) -> float:
    last = [each for each in seen if each][-1]
    return float(coco.iou([last], [mask], [0])[0, 0])


@pytest.mark.parametrize(("make", "iterations"), [(small_mask_prop, 400), (small_visstg, 500)])
def test_look_alikes_that_cross_behind_a_pillar_keep_their_names(make: Callable[[], Any], iterations: int):
    clip = crossing()
    hidden = [t for t in range(LENGTH) if not clip.objects.visible[0, t].any()]
    assert hidden == [6]
    tracks = tracks_of(learned(make, clip, iterations), clip)
    score = average_precision(labels_of(clip), tracks).summary()
    by_overlap = average_precision(labels_of(clip), linked_by_overlap(tracks)).summary()
    print(make.__name__, {name: round(score[name], 3) for name in ("AP", "AP50", "AP75")}, "by overlap", by_overlap)
    assert score["AP50"] >= 0.95
    assert by_overlap["AP50"] <= 0.6
