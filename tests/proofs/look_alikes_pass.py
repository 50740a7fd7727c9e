"""Two look-alikes jump by more than their own size and pass each other behind a pillar that hides both. MaskProp
carries their masks along, VisSTG knows where an edge leads: both keep them apart in films that they have not seen.
Linked by overlap, the same masks are broken tracks. Four minutes.

python -m pytest tests/proofs/look_alikes_pass.py
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from pycocotools import mask as coco

from tests.vis_models.drawn import HEIGHT, WIDTH
from tests.vis_models.test_learning import descend, labels_of, small_mask_prop, small_visstg, tracks_of
from vis_models import boxes
from vis_models.mask_prop.model import MaskProp
from vis_models.metrics.average_precision import average_precision
from vis_models.types import Clips, Objects
from vis_models.vis_stg.model import VisStg

LENGTH = 7
SPEED = 13
"""Of the squares, in pixels a frame; they are 10 to 13 pixels large."""
PILLAR = slice(41, 55)
"""Its columns: for one frame it hides both."""
HIDDEN = 3
"""That frame."""
REACH = 3
"""Frames between the two of a pair, at most."""


def passing(draw: Random) -> Clips:
    """One goes from left to right, the other from right to left, each in a row of its own."""
    side, start = draw.randint(10, 13), draw.randint(2, 3)
    rows = draw.sample((draw.randint(0, 14), draw.randint(32, 50)), 2)
    frames = torch.full((1, LENGTH, 3, HEIGHT, WIDTH), 30, dtype=torch.uint8)
    masks = torch.zeros(1, LENGTH, 2, HEIGHT, WIDTH, dtype=torch.bool)
    for t in range(LENGTH):
        for a, left in enumerate((start + SPEED * t, WIDTH - start - side - SPEED * t)):
            place = (slice(rows[a], rows[a] + side), slice(left, left + side))
            masks[0, t, a][place], frames[0, t, 0][place] = True, 230
    masks[..., PILLAR] = False
    frames[..., PILLAR] = 120
    visible = masks.any(-1).any(-1)
    nothing = torch.zeros(1, 2)
    return Clips(frames, Objects(masks, boxes.of_masks(masks), visible, nothing.long(), nothing.bool()))


def taught(make: Callable[[], Any], iterations: int, pairs: int, learning_rate: float) -> Any:
    """A model that learned from a new film for every pair of frames."""
    torch.manual_seed(0)
    model, draw = make(), Random(0)
    part: Any = model.part("whole")
    near = [(a, b) for a in range(LENGTH) for b in range(LENGTH) if 0 < abs(a - b) <= REACH]

    def pair() -> Clips:
        film, of = passing(draw), list(draw.choice(near))
        shown = {name: getattr(film.objects, name)[:, of] for name in ("masks", "boxes_px", "visible")}
        return Clips(film.frames[:, of], replace(film.objects, **shown))

    def loss() -> dict:
        drawn = [pair() for _ in range(pairs)]
        objects = Objects.join([each.objects for each in drawn])
        return part.loss(Clips(torch.cat([each.frames for each in drawn]), objects))

    descend([p for p in part.parameters() if p.requires_grad], loss, iterations, learning_rate)
    return model.eval()


def linked_by_overlap(tracks: list[dict]) -> list[dict]:
    """The same masks, each given to the track whose last mask it covers best."""
    made: list[dict] = []
    for t in range(LENGTH):
        shown = [(track, track["segmentations"][t]) for track in tracks if track["segmentations"][t]]
        free = list(made)
        for track, mask in sorted(shown, key=lambda each: -each[0]["score"]):
            best = max(free, key=lambda own: overlap(own["segmentations"], mask), default=None)
            if best is None or overlap(best["segmentations"], mask) == 0:
                best = track | {"segmentations": [None] * LENGTH}
                made.append(best)
            else:
                free = [own for own in free if own is not best]
            best["segmentations"][t] = mask
    return made


def overlap(seen: list[dict | None], mask: dict) -> float:
    last = [each for each in seen if each][-1]
    return float(coco.iou([last], [mask], [0])[0, 0])


def mask_prop() -> MaskProp:
    """It sees over three frames, and as many cells as they jump."""
    return MaskProp(small_mask_prop().config.model_copy(update={"reach": REACH, "dilations": (1, 3, 6)}))


def vis_stg() -> VisStg:
    """Its window holds where a square is after two jumps."""
    return VisStg(small_visstg().config.model_copy(update={"relative_position": True, "window": 15}))


@pytest.mark.parametrize(("make", "lessons"), [(mask_prop, (300, 2, 1e-3)), (vis_stg, (400, 4, 3e-3))])
def test_look_alikes_that_jump_and_pass_behind_a_pillar_keep_their_names(
    make: Callable[[], Any], lessons: tuple[int, int, float]
):
    model, draw = taught(make, *lessons), Random(99)
    kept, broken = [], []
    for film in [passing(draw) for _ in range(10)]:
        assert [t for t in range(LENGTH) if not film.objects.visible[0, t].any()] == [HIDDEN]
        truth, tracks = labels_of(film), tracks_of(model, film)
        kept.append(average_precision(truth, tracks).summary()["AP50"])
        broken.append(average_precision(truth, linked_by_overlap(tracks)).summary()["AP50"])
    assert sum(kept) >= 9, kept
    assert sum(broken) <= 0.5, broken
