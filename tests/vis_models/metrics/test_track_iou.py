import numpy as np
import pytest
from pycocotools import mask as coco

from vis_models.metrics.mask_tracks import MaskTrack
from vis_models.metrics.track_iou import overlap_px

pytestmark = pytest.mark.unit


def test_shaken_tracks_overlap_as_their_bitmaps_do():
    rng = np.random.default_rng(0)
    bitmaps = rng.random((5, 4, 30, 40)) < rng.random((5, 4, 1, 1))
    bitmaps[rng.random((5, 4)) < 0.3] = False
    intersection, union = overlap_px([track(b) for b in bitmaps[:3]], [track(b) for b in bitmaps[3:]])
    for p in range(3):
        for g in range(2):
            assert intersection[p, g] == (bitmaps[p] & bitmaps[3 + g]).sum()
            assert union[p, g] == (bitmaps[p] | bitmaps[3 + g]).sum()


def test_the_longer_track_is_cut_at_the_end_of_the_shorter_one():
    bitmaps = np.ones((3, 2, 2), bool)
    for one, other in [(1, 3), (3, 1)]:
        intersection, union = overlap_px([track(bitmaps[:one])], [track(bitmaps[:other])])
        assert (intersection.item(), union.item()) == (4, 4)


def test_a_frame_whose_masks_differ_in_size_adds_to_neither_sum():
    wide, tall = np.ones((2, 2, 3), bool), np.ones((1, 3, 2), bool)
    mixed = MaskTrack([*track(wide[:1]).rles, *track(tall).rles], np.array([6.0, 6.0]))
    intersection, union = overlap_px([track(wide)], [mixed])
    assert (intersection.item(), union.item()) == (6, 6)


def track(bitmaps: np.ndarray) -> MaskTrack:
    rles = [coco.encode(np.asfortranarray(b, dtype=np.uint8)) if b.any() else None for b in bitmaps]
    return MaskTrack(rles, bitmaps.sum((1, 2)).astype(float))
