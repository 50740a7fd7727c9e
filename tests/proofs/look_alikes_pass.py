"""Two look-alikes jump by more than their own size and pass each other behind a pillar: MaskProp, who learned the film,
carries their masks along and knows who is who; linked by overlap, the same masks are broken tracks. Half a minute.

python -m pytest tests/proofs/look_alikes_pass.py
"""

import torch
from pycocotools import mask as coco

from tests.vis_models.drawn import HEIGHT, WIDTH
from tests.vis_models.test_learning import labels_of, learned, small_mask_prop, tracks_of
from vis_models import boxes
from vis_models.mask_prop.model import MaskProp
from vis_models.metrics.average_precision import average_precision
from vis_models.types import Clips, Objects

LENGTH = 7
SIDE, ROWS, SPEED = 12, (12, 40), 13
"""Of the squares, in pixels."""
PILLAR = slice(41, 55)
"""Its columns: for one frame it hides both."""


def passing() -> Clips:
    """One goes from left to right, the other from right to left."""
    frames = torch.full((1, LENGTH, 3, HEIGHT, WIDTH), 30, dtype=torch.uint8)
    masks = torch.zeros(1, LENGTH, 2, HEIGHT, WIDTH, dtype=torch.bool)
    for t in range(LENGTH):
        for a, left in enumerate((3 + SPEED * t, WIDTH - 3 - SIDE - SPEED * t)):
            place = (slice(ROWS[a], ROWS[a] + SIDE), slice(left, left + SIDE))
            masks[0, t, a][place], frames[0, t, 0][place] = True, 230
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
    """The same masks, each given to the track whose last mask it covers best."""
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


def far_sighted() -> MaskProp:
    """Over three frames, and as many cells as they jump."""
    return MaskProp(small_mask_prop().config.model_copy(update={"reach": 3, "dilations": (1, 3, 6)}))


def test_look_alikes_that_jump_and_pass_behind_a_pillar_keep_their_names():
    clip = passing()
    hidden = [t for t in range(LENGTH) if not clip.objects.visible[0, t].any()]
    assert hidden == [3]
    tracks = tracks_of(learned(far_sighted, clip, iterations=300, window=3), clip)
    assert average_precision(labels_of(clip), tracks).summary()["AP50"] >= 0.95
    assert average_precision(labels_of(clip), linked_by_overlap(tracks)).summary()["AP50"] <= 0.05
