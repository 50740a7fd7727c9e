import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from tests.drawn_results import number
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
        assert [measure.tolist() for measure in masks.measure_px([rle])] == [[mask.sum()], [mask.size]]


def test_masks_of_a_frame_are_coded_in_one_call():
    stack = torch.zeros(3, 8, 9, dtype=torch.bool)
    stack[1, 2:5, 3:7] = True
    rles = masks.encode(stack.numpy())
    assert [masks.decode(rle, 8, 9).sum() for rle in rles] == [0, 12, 0]
    assert masks.boxes_px(rles, 8, 9).tolist() == [[0] * 4, [3, 2, 7, 5], [0] * 4]
    assert boxes.of_masks(stack).tolist() == [[0] * 4, [3, 2, 7, 5], [0] * 4]
    assert masks.encode(stack[:0].numpy()) == []
    assert [measure.tolist() for measure in masks.measure_px([])] == [[], []]
    assert masks.boxes_px([], 8, 9).shape == (0, 4)


def test_parts_of_a_frame_are_coded_where_their_corners_lie():
    parts = [np.ones((2, 3), bool), np.eye(4, dtype=bool), np.ones((6, 1), bool), np.zeros((0, 0), bool)]
    corners_px = [(5, 1), (0, 2), (8, 0), (3, 3)]
    for part, (x, y), rle in zip(parts, corners_px, masks.encode_parts(parts, corners_px, 6, 9), strict=True):
        whole = np.zeros((6, 9), bool)
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        assert (masks.decode(rle, 6, 9) == whole).all()


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
    rng = np.random.default_rng(0)
    bitmaps = [rng.random(rng.integers(1, 60, 2)) < rng.choice([0, 0.02, 0.5, 1]) for _ in range(1200)]
    bitmaps.append(np.tri(1500, 900, dtype=bool))  # numbers of several digits
    areas, canvases = masks.measure_px([masks.encode(bitmap[None])[0] for bitmap in bitmaps])
    assert areas.tolist() == [bitmap.sum() for bitmap in bitmaps]
    assert canvases.tolist() == [bitmap.size for bitmap in bitmaps]


def coded(runs_px: list[int]) -> bytes:
    return b"".join(number(run - (runs_px[n - 2] if n > 2 else 0)) for n, run in enumerate(runs_px))


@pytest.mark.parametrize(
    "broken",
    [
        *(b"", b" ", b"0\xff0", b"P", b"o" * 7 + b"1", "\u00e9".encode()),
        coded([0, 20, -10, 54]),  # pycocotools.iou never returns from this one, though its runs fill 8 x 8
        coded([40, -20, 44]),
        coded([-5, 10, 59]),
        coded([2**32 + 4, 8]),
    ],
)
def test_bytes_that_are_no_mask_stand_out_and_spoil_no_neighbour(broken: bytes):
    (square,) = masks.encode(np.ones((1, 3, 4), bool))
    areas, canvases = masks.measure_px([square, broken, square])
    assert (areas[[0, 2]].tolist(), canvases[[0, 2]].tolist()) == ([12, 12], [12, 12])
    assert canvases[1] not in (12, 64)


def test_shuffled_bytes_measure_what_their_runs_say_one_by_one():
    rng = np.random.default_rng(0)
    rles = [bytes(rng.integers(46, 114, rng.integers(0, 9)).tolist()) for _ in range(3000)]
    expected = []
    for rle in rles:
        try:
            runs = masks.run_lengths(rle)
            expected.append((runs[1::2].sum(), runs.sum()))
        except ValueError:
            expected.append((None, -1))
    assert sum(area is not None for area, _ in expected) > 200
    for (area, canvas), own_area, own_canvas in zip(expected, *masks.measure_px(rles), strict=True):
        assert own_canvas == canvas
        assert area in (None, own_area)


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
