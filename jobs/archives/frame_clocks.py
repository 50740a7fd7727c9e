"""Names of frames -> what they say about time: they count, or they are stamps of a clock, or neither.

A counter that leaps tells of frames that are missing. A stamp tells when its frame was taken, and uneven stamps are no
damage: a camera that pauses has lost nothing.
"""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import PurePosixPath

UNIX = re.compile(r"(?:.*\D)?(1\d{9})(?:\.(\d{1,9})|[_-]?(\d{3}|\d{6}|\d{9}))?\D*")
"""Seconds since 1970, from 2001 to 2033, and a fraction: `1305031102.175304` (TUM), `1403636579763555584` (EuRoC)."""
DATE = re.compile(
    r"(?:.*\D)?((?:19|20)\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_.T ]?(\d\d)[-_.:]?(\d\d)[-_.:]?(\d\d)"
    r"(?:[-_.]?(\d{3}|\d{6}|\d{9}))?\D*"
)
"""A date with a time: `20240501_123456_789`, `IMG_20240501_123456`, `2024-05-01T12-34-56.789`."""


def stamps_s(names: Sequence[str]) -> list[Fraction] | None:
    """Seconds of each name, exact, on a scale of their own; None where not every name is a stamp, or two are the same.

    A date that is the same in all names is the start of a recording, and what stands behind it (`20240501_123456_001`)
    counts its frames.
    """
    stems = [PurePosixPath(name).stem for name in names]
    for read in (_unix_s, _date_s):
        times = [time for stem in stems if (time := read(stem)) is not None]
        if len(times) == len(stems) > 1 and len(set(times)) == len(times):
            return None if read is _date_s and len({int(time) for time in times}) == 1 else times
    return None


def _unix_s(stem: str) -> Fraction | None:
    found = UNIX.fullmatch(stem)
    return Fraction(f"{found[1]}.{found[2] or found[3] or 0}") if found else None


def _date_s(stem: str) -> Fraction | None:
    found = DATE.fullmatch(stem)
    if not found:
        return None
    try:
        whole = datetime(*(int(part) for part in found.groups()[:6]), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:  # month 13
        return None
    return Fraction(f"{int(whole.timestamp())}.{found[7] or 0}")


def gaps(names: Sequence[str]) -> tuple[int, list[int]]:
    """(usual step, places before which frames are missing) of names that count; no place where they do not.

    Names count where more than half of the steps are the same and the others are leaps over whole numbers of them.
    """
    numbers = [int(found[-1]) for name in names if (found := re.findall("[0-9]+", PurePosixPath(name).stem))]
    if len(numbers) != len(names) or len(names) < 3:
        return 0, []
    steps = [after - before for before, after in pairwise(numbers)]
    usual, times = Counter(steps).most_common(1)[0]
    leaps = [place for place, step in enumerate(steps) if step != usual]
    if usual < 1 or 2 * times <= len(steps) or any(steps[place] < usual or steps[place] % usual for place in leaps):
        return usual, []
    return usual, leaps


def exact_rate(fps: float) -> Fraction:
    """Frames per second as the fraction that was meant: 29.97 is 2997/100, 0.000555... one frame in 1800 s."""
    if fps < 1:
        return 1 / Fraction(1 / fps).limit_denominator(1_000_000)
    return Fraction(fps).limit_denominator(min(1_000_000, int((2**31 - 1) / fps)))
