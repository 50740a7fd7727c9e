"""Run-length coded masks: COCO's coding, its published spellings, areas and boxes. No torch.

The one encoding of the house is COCO's compressed counts as bytes: runs in column-major order,
background first. pycocotools reads and writes the same bytes.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco

from vis_models.config import BadConfig

FAR = 10
"""Corners of a polygon lie no further away than so many frames: pycocotools walks along every edge."""


def encode(masks: Bool[np.ndarray, "T H W"]) -> list[bytes]:
    """Run-length code T masks of one frame in one call."""
    if not len(masks):
        return []
    column_major = np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8)
    return [rle["counts"] for rle in coco.encode(column_major)]


def decode(rle: bytes, height_px: int, width_px: int) -> Bool[np.ndarray, "H W"]:
    """The mask of one RLE. Raises ValueError when the runs do not fit the size."""
    runs_px = run_lengths(rle)
    if runs_px.sum() != height_px * width_px:  # pycocotools would return memory it never wrote
        raise ValueError(
            f"the runs of the RLE sum to {runs_px.sum()}, expected {height_px * width_px} (height x width)"
        )
    return coco.decode(_coco(rle, height_px, width_px)).astype(bool)


def run_lengths(rle: bytes) -> Int[np.ndarray, " R"]:
    """Lengths of the runs in pixels, background first. Raises ValueError for bytes that are no RLE.

    COCO writes a run as 5-bit digits, lowest first, bit 5 says that more follow, bit 4 of the last one is the sign;
    from the fourth run on it is the difference from the run two before.
    """
    digits = np.frombuffer(rle, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (
        not len(last)
        or last[-1] != len(digits) - 1
        or digits.min() < 0
        or digits.max() > 63
        or (last - first).max() > 6
    ):
        raise ValueError(f"{rle[:20]!r} is no COCO RLE")
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((digits & 31) << 5 * place, first)
    runs -= np.where(digits[last] & 16, 1 << 5 * (last - first + 1), 0)
    for parity in (1, 2):
        runs[parity::2] = runs[parity::2].cumsum()
    if runs.min() < 0:
        raise ValueError(f"{rle[:20]!r} is no COCO RLE: a run has negative length")
    return runs


def area_px(rles: list[bytes], height_px: int, width_px: int) -> list[int]:
    """Number of pixels of each mask."""
    starts = range(0, len(rles), 255)  # pycocotools counts the masks of a call in 8 bits
    calls = [coco.area([_coco(rle, height_px, width_px) for rle in rles[start : start + 255]]) for start in starts]
    return [int(area) for areas in calls for area in areas]


def boxes_px(rles: list[bytes], height_px: int, width_px: int) -> Float[np.ndarray, "T 4"]:
    """(x0, y0, x1, y1) of each mask, x1 and y1 exclusive; zeros for an empty mask."""
    if not rles:
        return np.zeros((0, 4))
    xywh = np.asarray(coco.toBbox([_coco(rle, height_px, width_px) for rle in rles]), dtype=float).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def from_coco(segmentation: Any, height_px: int, width_px: int) -> bytes | None:
    """One entry of a `segmentations` list in any published spelling, as RLE bytes; None where absent.

    Args:
        segmentation: None, a list of polygons, or RLE with `counts` as str, bytes or list of run lengths.

    Raises:
        BadConfig: unknown spelling, RLE of another size than the video, or runs that do not fill it.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _refuse_polygon(polygon, FAR * max(height_px, width_px))
        return coco.merge(coco.frPyObjects(segmentation, height_px, width_px))["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise BadConfig(f"a segmentation is null, RLE or polygons, got {str(segmentation)[:60]!r}")
    size = segmentation.get("size", [height_px, width_px])
    if not isinstance(size, list | tuple) or [*size] != [height_px, width_px]:
        raise BadConfig(f"RLE of size {size}, expected the video's [{height_px}, {width_px}] (height, width)")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(isinstance(run, int) and 0 <= run <= height_px * width_px for run in counts):
            raise BadConfig(f"RLE runs are lengths, 0 to {height_px * width_px} pixels, got {str(counts)[:60]}")
        counts = coco.frPyObjects({"counts": counts, "size": [height_px, width_px]}, height_px, width_px)["counts"]
    if not isinstance(counts, str | bytes):
        raise BadConfig(f"the counts of an RLE are a text or a list of run lengths, got {str(counts)[:60]}")
    rle = text_to_rle(counts) if isinstance(counts, str) else counts
    try:
        total_px = run_lengths(rle).sum()
    except ValueError as error:
        raise BadConfig(str(error)) from error
    if total_px != height_px * width_px:
        raise BadConfig(f"RLE runs sum to {total_px}, expected {height_px * width_px} (height times width)")
    return rle


def text_to_rle(counts: str) -> bytes:
    """COCO's compressed counts as a JSON holds them. What is no such text gives bytes that are no RLE either."""
    return counts.encode("utf-8", "surrogatepass")


def _refuse_polygon(polygon: Any, farthest_px: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:  # pycocotools would take four for a box
        raise BadConfig(f"a polygon is a list x, y, x, y, ... of 3 points or more, got {str(polygon)[:60]}")
    if not all(isinstance(place, int | float) and abs(place) <= farthest_px for place in polygon):
        raise BadConfig(f"a polygon has coordinates in px, in or near the frame, got {str(polygon)[:60]}")


def _coco(rle: bytes, height_px: int, width_px: int) -> dict[str, Any]:
    return {"counts": rle, "size": [height_px, width_px]}
