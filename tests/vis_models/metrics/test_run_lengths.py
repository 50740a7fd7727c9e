import numpy as np
import pytest
from pycocotools import mask as coco

from vis_models.metrics.run_lengths import measure_px

pytestmark = pytest.mark.unit


def test_areas_and_canvases_are_those_of_the_bitmaps():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, (500, 2))
    bitmaps = [rng.random(size) < rng.choice([0, 0.02, 0.5, 1]) for size in sizes]
    bitmaps.append(np.tri(1500, 900, dtype=bool))  # numbers of several digits
    areas, canvases = measure_px([encode(bitmap) for bitmap in bitmaps])
    assert areas.tolist() == [bitmap.sum() for bitmap in bitmaps]
    assert canvases.tolist() == [bitmap.size for bitmap in bitmaps]


@pytest.mark.parametrize("broken", [b"", b" ", b"0\xff0", b"P", "\u00e9".encode()])
def test_bytes_that_are_no_run_lengths_stand_out_and_spoil_no_neighbour(broken):
    square = np.ones((3, 4), bool)
    areas, canvases = measure_px([encode(square), broken, encode(square)])
    assert (areas[[0, 2]].tolist(), canvases.tolist()) == ([12, 12], [12, -1, 12])


def test_no_masks_have_no_measures():
    assert [measure.tolist() for measure in measure_px([])] == [[], []]


def encode(bitmap: np.ndarray) -> bytes:
    return coco.encode(np.asfortranarray(bitmap, dtype=np.uint8))["counts"]
