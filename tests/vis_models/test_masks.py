import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from vis_models import boxes, masks
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_a_mask_survives_its_coding_and_its_runs_are_those_of_a_slow_count(density: float):
    rng = np.random.default_rng(0)
    for _ in range(25):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        mask = rng.random((height, width)) < density
        (rle,) = masks.encode(mask[None])
        assert (masks.decode(rle, height, width) == mask).all()
        assert masks.run_lengths(rle).tolist() == slow_runs(mask)
        assert masks.area_px([rle], height, width) == [mask.sum()]


def test_masks_of_a_frame_are_coded_in_one_call():
    stack = torch.zeros(3, 8, 9, dtype=torch.bool)
    stack[1, 2:5, 3:7] = True
    rles = masks.encode(stack.numpy())
    assert [masks.decode(rle, 8, 9).sum() for rle in rles] == [0, 12, 0]
    assert masks.boxes_px(rles, 8, 9).tolist() == [[0] * 4, [3, 2, 7, 5], [0] * 4]
    assert boxes.of_masks(stack).tolist() == [[0] * 4, [3, 2, 7, 5], [0] * 4]
    assert masks.encode(stack[:0].numpy()) == []
    assert masks.area_px([], 8, 9) == []
    assert masks.boxes_px([], 8, 9).shape == (0, 4)


def test_our_bytes_are_those_that_pycocotools_reads():
    mask = np.eye(12, 20, dtype=bool)
    (rle,) = masks.encode(mask[None])
    assert (coco.decode({"size": [12, 20], "counts": rle}) == mask).all()


@pytest.mark.parametrize("rle", [b"", b"~~~~zz", b"!!", b"\x00", b"PPP", b"o" * 18 + b"1", b"0N"])
def test_bytes_that_are_no_rle_are_never_given_to_the_decoder(rle: bytes):
    with pytest.raises(ValueError, match="no COCO RLE"):
        masks.run_lengths(rle)
    with pytest.raises(ValueError, match="no COCO RLE"):
        masks.decode(rle, 40, 50)


@pytest.mark.parametrize("size", [(41, 50), (40, 49), (1, 1)])
def test_runs_that_do_not_fill_the_size_are_refused(size: tuple[int, int]):
    (rle,) = masks.encode(np.ones((1, 40, 50), bool))
    with pytest.raises(ValueError, match="sum to 2000"):
        masks.decode(rle, *size)
    with pytest.raises(BadConfig, match="sum to 2000"):
        masks.from_coco({"counts": rle.decode()}, *size)


def slow_runs(mask: np.ndarray) -> list[int]:
    """Walk down the columns; the first run counts background."""
    runs, value = [0], False
    for pixel in mask.T.flat:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def test_any_number_of_masks_is_measured():
    rles = masks.encode(np.ones((1, 3, 5), dtype=bool)) * 600
    assert masks.area_px(rles, 3, 5) == [15] * 600
    assert masks.area_px([], 3, 5) == []


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (5, "is null, RLE or polygons, got '5'"),
        ({"size": [40, 50]}, "is null, RLE or polygons"),
        ([7], "x, y, ... of 3 points or more, got 7"),
        ([[1, 1, 9, 1]], "of 3 points or more"),
        ([[1, 1, 9, 1, 9, 9, 1]], "of 3 points or more"),
        ([[1, 1, 9, 1, 9, "9"]], "in or near the frame"),
        ([[1, 1, 9, 1, 9, float("nan")]], "in or near the frame"),
        ([[1, 1, 9, 1, 9, 1e9]], "in or near the frame"),  # pycocotools would take all memory there is
        ([[1, 1, 9, 1, 9, -1e30]], "in or near the frame"),
        ({"counts": [0, 2001]}, "lengths, 0 to 2000 pixels"),
        ({"counts": [0, 10**20]}, "lengths, 0 to 2000 pixels"),
        ({"counts": [-1, 2001]}, "lengths, 0 to 2000 pixels"),
        ({"counts": [[1]]}, "lengths, 0 to 2000 pixels"),
        ({"counts": [0, 1999]}, "sum to 1999"),
        ({"counts": None}, "a text or a list of run lengths, got None"),
        ({"counts": {}}, "a text or a list of run lengths"),
        ({"counts": "\ud800"}, "no COCO RLE"),
        ({"counts": ""}, "no COCO RLE"),
        ({"counts": [0, 2000], "size": 40}, "RLE of size 40, expected the video's"),
        ({"counts": [0, 2000], "size": [50, 40]}, r"RLE of size \[50, 40\], expected the video's \[40, 50\]"),
    ],
)
def test_what_is_no_mask_is_refused_in_words(segmentation, message):
    with pytest.raises(BadConfig, match=message):
        masks.from_coco(segmentation, 40, 50)


def test_a_polygon_that_leaves_the_frame_is_cut_at_its_edge():
    rle = masks.from_coco([[-30, 10, 80, 10, 80, 20, -30, 20]], 40, 50)
    assert masks.decode(rle, 40, 50).sum() == 10 * 50
