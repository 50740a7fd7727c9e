"""Area and canvas of many run-length coded masks at once, without decoding one.

A COCO string holds numbers d_0, d_1, ... in digits of 5 bits. The runs are r_i = d_i for i < 3 and r_i = d_i + r_(i-2)
after that, so each d_i with i > 0 is part of every second run from i to the end: with n numbers, of
w_i = (n - 1 - i) // 2 + 1 runs. Sums of runs are therefore weighted sums of the numbers:

    canvas = d_0 + sum over i > 0 of w_i d_i          area (runs of foreground) = the same sum over odd i

Axes: N masks, B bytes of all of them, K numbers of all of them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

MASKS_AT_ONCE = 256
"""So many that the arrays stay in the processor's cache."""
DIGITS = bytes(range(48, 48 + 64))
"""The last digit of a number is one of the lower 32."""


def measure_px(rles: Sequence[bytes]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """(area, canvas) of each mask in pixels; a whole mask has a canvas of height times width.

    Bytes that are no COCO string at all have the canvas -1.
    """
    calls = [_measure(rles[start : start + MASKS_AT_ONCE]) for start in range(0, len(rles), MASKS_AT_ONCE)]
    none = np.zeros(0, dtype=int)
    return np.concatenate([none, *(area for area, _ in calls)]), np.concatenate(
        [none, *(canvas for _, canvas in calls)]
    )


def _measure(rles: Sequence[bytes]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    broken = np.array([not rle or bool(rle.translate(None, DIGITS)) or rle[-1] >= 48 + 32 for rle in rles])
    whole = [b"0" if is_broken else rle for rle, is_broken in zip(rles, broken, strict=True)]
    digits = np.frombuffer(b"".join(whole), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((digits & 32) == 0)  # bit 5 says that more digits of a number follow
    numbers = _numbers(digits, last)
    ends = np.searchsorted(last, np.cumsum([len(rle) for rle in whole]))
    starts = np.concatenate([[0], ends[:-1]])
    index = np.arange(len(numbers)) - np.repeat(starts, ends - starts)
    of_mask = np.repeat(ends - starts, ends - starts)
    shares = numbers * np.where(index == 0, 1, (of_mask - 1 - index) // 2 + 1)
    areas = np.add.reduceat(np.where(index % 2, shares, 0), starts)
    return areas, np.where(broken, -1, np.add.reduceat(shares, starts))


def _numbers(digits: Int[np.ndarray, " B"], last: Int[np.ndarray, " K"]) -> Int[np.ndarray, " K"]:
    """Lowest digit first; bit 4 of the last digit is the sign."""
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    place = np.arange(len(digits)) - np.repeat(first, lengths)
    negative = (digits[last] & 16) != 0
    return np.add.reduceat((digits & 31) << (5 * place), first) - np.where(negative, 1 << (5 * lengths), 0)
