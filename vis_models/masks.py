"""Run-length coded masks: COCO's coding, its published spellings, areas and boxes. No torch.

The one encoding of the house is COCO's compressed counts as bytes: runs in column-major order,
background first. pycocotools reads and writes the same bytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco

from vis_models.config import BadConfig

FAR = 10
"""Corners of a polygon lie no further away than so many frames: pycocotools walks along every edge."""
MOST_DIGITS = 7
"""Of a number: 35 bits."""
MASKS_AT_ONCE = 512
"""So few that their runs take a few megabytes."""


def encode(masks: Bool[np.ndarray, "T H W"]) -> list[bytes]:
    """Run-length code T masks of one frame in one call."""
    return encode_parts(list(masks), [(0, 0)] * len(masks), *masks.shape[1:])


def encode_parts(
    parts: Sequence[Bool[np.ndarray, "_ _"]], corners_px: Sequence[tuple[int, int]], height_px: int, width_px: int
) -> list[bytes]:
    """Run-length code masks of which a part of the frame is given, with (x, y) of its corner; outside it is empty."""
    if not len(parts):
        return []
    size = [height_px, width_px]
    runs = [_part_runs(part, corner, *size) for part, corner in zip(parts, corners_px, strict=True)]
    return [rle["counts"] for rle in coco.frPyObjects([{"counts": each, "size": size} for each in runs], *size)]


def _part_runs(
    part: Bool[np.ndarray, "_ _"], corner_px: tuple[int, int], height_px: int, width_px: int
) -> Int[np.ndarray, " R"]:
    """Lengths of the runs of the whole frame, from the few pixels that differ from the one above them.

    Rows are compared as they lie in memory, and only what was found is sorted into the columns of the code.
    """
    if not part.size:
        return np.array([height_px * width_px])
    rows, columns = part.shape
    differs = np.empty((rows + 1, columns), dtype=bool)
    differs[0], differs[rows] = part[0], part[-1]  # above and below the part is background
    np.not_equal(part[1:], part[:-1], out=differs[1:-1])
    y, x = np.divmod(np.flatnonzero(differs), columns)
    places = np.sort(x * height_px + y) + (corner_px[0] * height_px + corner_px[1])
    if rows == height_px:  # a run that goes on at the top of the next column does not end in between
        goes_on = np.flatnonzero(places[1:] == places[:-1])
        places = np.delete(places, np.concatenate([goes_on, goes_on + 1]))
    ends = np.concatenate([[0], places, [height_px * width_px]])
    runs_px = ends[1:] - ends[:-1]
    return runs_px[:-1] if len(places) and not runs_px[-1] else runs_px


def decode(rle: bytes, height_px: int, width_px: int) -> Bool[np.ndarray, "H W"]:
    """The mask of one RLE. Raises ValueError when the runs do not fit the size."""
    runs_px = run_lengths(rle)
    if runs_px.sum() != height_px * width_px:  # pycocotools would return memory it never wrote
        raise ValueError(
            f"the runs of the RLE sum to {runs_px.sum()}, expected {height_px * width_px} (height x width)"
        )
    return coco.decode(_coco(rle, height_px, width_px)).astype(bool)


def run_lengths(rle: bytes) -> Int[np.ndarray, " R"]:
    """Lengths of the runs in pixels, background first. Raises ValueError for bytes that are no RLE."""
    numbers, count, sound = _numbers([rle])
    if not sound[0]:
        raise ValueError(f"{rle[:20]!r} is no COCO RLE")
    background, foreground, _ = _runs(numbers, count)
    runs_px = np.stack([background, foreground], axis=1).ravel()[: count[0]]
    if runs_px.min() < 0:
        raise ValueError(f"{rle[:20]!r} is no COCO RLE: a run has negative length")
    return runs_px


def measure_px(rles: Sequence[bytes]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """(area, canvas) of each mask in pixels; a whole mask has a canvas of height times width.

    Bytes that are no RLE have the canvas -1: pycocotools would read beyond them, or never come back.
    """
    areas, canvases = np.zeros(len(rles), dtype=int), np.zeros(len(rles), dtype=int)
    for start in range(0, len(rles), MASKS_AT_ONCE):
        chunk = slice(start, start + MASKS_AT_ONCE)
        numbers, count, sound = _numbers(rles[chunk])
        background, foreground, first = _runs(numbers, count)
        lowest = np.minimum(np.minimum.reduceat(background, first), np.minimum.reduceat(foreground, first))
        areas[chunk] = np.add.reduceat(foreground, first)
        canvas = areas[chunk] + np.add.reduceat(background, first)
        canvases[chunk] = np.where(sound & (lowest >= 0), canvas, -1)
    return areas, canvases


def _numbers(
    rles: Sequence[bytes],
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """(the M numbers of N masks, how many each mask has, whether its bytes are numbers at all; if not, it has one, 0).

    COCO writes a number as 5-bit digits, lowest first, bit 5 says that more follow, bit 4 of the last one is the sign.
    """
    lengths = np.array([len(rle) or 1 for rle in rles])
    digits = np.frombuffer(b"".join(rle or b"0" for rle in rles), np.uint8) - np.uint8(48)  # below 48 it wraps
    ends = np.cumsum(lengths)
    ongoing = digits & 32 != 0
    sound = np.array([bool(rle) for rle in rles]) & (np.maximum.reduceat(digits, ends - lengths) < 64)
    sound &= ~ongoing[ends - 1]
    last = np.flatnonzero(~ongoing)
    first = np.concatenate([[0], last[:-1] + 1])
    size = last - first + 1
    if sound.all() and size.max() > MOST_DIGITS:
        sound[np.searchsorted(ends, first[size > MOST_DIGITS], side="right")] = False
    if not sound.all():
        mended = [rle if fits else b"0" for rle, fits in zip(rles, sound.tolist(), strict=True)]
        return *_numbers(mended)[:2], sound
    numbers = (digits[first] & 31).astype(np.int64)
    for place in range(1, int(size.max())):
        longer = np.flatnonzero(size > place)
        numbers[longer] |= (digits[first[longer] + place] & 31).astype(np.int64) << 5 * place
    negative = np.flatnonzero(digits[last] & 16)
    numbers[negative] -= 1 << 5 * size[negative]
    return numbers, np.diff(np.searchsorted(first, ends), prepend=0), sound


def _runs(
    numbers: Int[np.ndarray, " M"], count: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " N"]]:
    """(background runs, foreground runs, place of each mask's first pair of them).

    From the fourth on a number is the difference from the run two before. A mask that ends with background gets a
    foreground run of 0 at its end.
    """
    pairs = (count + 1) // 2
    first = np.cumsum(pairs) - pairs
    steps = np.zeros((int(pairs.sum()), 2), dtype=np.int64)
    steps.ravel()[np.arange(len(numbers)) + np.repeat(2 * first - (np.cumsum(count) - count), count)] = numbers
    background, foreground = steps[:, 0].copy(), steps[:, 1].copy()
    initial, background[first] = background[first], 0
    background, foreground = np.cumsum(background), np.cumsum(foreground)
    background -= np.repeat(background[first], pairs)
    foreground -= np.repeat(foreground[first] - steps[first, 1], pairs)
    background[first] = initial
    foreground[(first + pairs - 1)[count % 2 == 1]] = 0
    return background, foreground, first


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
        turned = isinstance(size, list | tuple) and [*size] == [width_px, height_px]
        why = "; width and height are swapped in one of the two" if turned else ""
        raise BadConfig(f"RLE of size {size}, expected the video's [{height_px}, {width_px}] (height, width){why}")
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
