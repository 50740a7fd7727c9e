"""Area and canvas of many run-length coded masks at once, without decoding one in Python.

A COCO string holds numbers d_0, d_1, ... in digits of 5 bits. The runs are r_i = d_i for i < 3 and r_i = d_i + r_(i-2)
after that; runs with odd i are foreground. pycocotools adds up the foreground. For the background the same string is
read once more behind an empty run: every run moves to the other parity, but what was d_2 now gets r_0 on top and hands
it on, so r_0 is in every background run after the first. With n numbers, of which (n + 1) // 2 are background,

    canvas = foreground + foreground of the string behind an empty run - r_0 ((n + 1) // 2 - 1)

Axes: N masks.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from pycocotools import mask as coco

DIGITS = bytes(range(48, 48 + 64))
"""The last digit of a number is one of the lower 32."""
UNFINISHED = DIGITS[32:]
MASKS_AT_ONCE = 255
"""pycocotools 2.0.11 counts the masks of a call in 8 bits and fails beyond that."""
_ANY_SIZE = [1, 1]
"""The area does not depend on it."""
WRAPS_AT = 2**32
"""pycocotools adds up in 32 bits."""


def measure_px(rles: Sequence[bytes]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """(area, canvas) of each mask in pixels; a whole mask has a canvas of height times width.

    Bytes that are no COCO string at all have the canvas -1.
    """
    if not rles:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    broken = np.array([not rle or bool(rle.translate(None, DIGITS)) or rle[-1] >= 48 + 32 for rle in rles])
    whole = [b"0" if is_broken else rle for rle, is_broken in zip(rles, broken.tolist(), strict=True)]
    areas, behind_a_run = _foreground_px(whole), _foreground_px([b"0" + rle for rle in whole])
    later = np.array([(len(rle.translate(None, UNFINISHED)) + 1) // 2 - 1 for rle in whole])
    canvas = (areas + behind_a_run - np.array([_first(rle) for rle in whole]) * later) % WRAPS_AT
    return areas, np.where(broken, -1, canvas)


def _foreground_px(rles: Sequence[bytes]) -> Int[np.ndarray, " N"]:
    coded = [{"size": _ANY_SIZE, "counts": rle} for rle in rles]
    starts = range(0, len(coded), MASKS_AT_ONCE)
    return np.concatenate([coco.area(coded[start : start + MASKS_AT_ONCE]) for start in starts]).astype(int)


def _first(rle: bytes) -> int:
    """The first number, wrapped: lowest digit first, bit 5 says that more follow, bit 4 of the last one is the sign."""
    value, shift = 0, 0
    for digit in rle:
        value |= (digit - 48 & 31) << shift
        shift += 5
        if not digit - 48 & 32:
            return (value - (1 << shift) if digit - 48 & 16 else value) % WRAPS_AT
    raise AssertionError("a number without an end was taken for whole")
