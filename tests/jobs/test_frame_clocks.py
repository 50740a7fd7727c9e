from fractions import Fraction
from itertools import pairwise

import pytest

from jobs.archives.frame_clocks import exact_rate, gaps, stamps_s

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["1305031102.175304.png", "1305031102.211214.png", "1305031103.1.png"], ["0.03591", "0.888786"]),
        (["1403636579763555584.png", "1403636579813555456.png"], ["0.049999872"]),
        (["cam0_1403636579763.jpg", "cam0_1403636580763.jpg"], ["1"]),
        (["1403636579_900000000.jpg", "1403636580_000000001.jpg"], ["0.100000001"]),
        (["IMG_20240501_235959.jpg", "IMG_20240502_000001.jpg"], ["2"]),
        (["20240501_123456_789.jpg", "20240501_123457_001.jpg"], ["0.212"]),
        (["2024-05-01T12-34-56.5000.jpg", "2024-05-01T12-34-57.jpg"], None),
        (["2024-05-01T12-34-56.500Z.jpg", "2024-05-01T12-34-57.000Z.jpg"], ["0.5"]),
        (["00001.jpg", "00002.jpg"], None),
        (["20240501_123456_001.jpg", "20240501_123456_002.jpg"], None),  # the start of a recording and a counter
        (["20241301_123456.jpg", "20241301_123457.jpg"], None),  # there is no month 13
        (["1403636579763.jpg", "1403636579763_b.jpg"], None),  # twice the same
        (["1403636579763.jpg", "cover.jpg"], None),
        (["1403636579763.jpg"], None),
    ],
)
def test_names_that_are_time_stamps_are_read_exactly(names: list[str], steps: list[str] | None):
    found = stamps_s(names)
    if steps is None:
        assert found is None
    else:
        assert [after - before for before, after in pairwise(found)] == [Fraction(s) for s in steps]


@pytest.mark.parametrize(
    ("numbers", "usual", "places"),
    [
        (range(10), 1, []),
        (range(0, 50, 5), 5, []),
        ([0, 1, 2, 3, 5, 6, 7], 1, [3]),
        ([0, 5, 10, 25, 30, 35], 5, [2]),
        ([0, 33, 67, 100, 133, 167, 200], 33, []),  # milliseconds, none is missing
        ([0, 7, 8, 30, 31, 50], 1, []),  # frames that somebody chose
        ([0, 1, 2, 0, 1, 2], 1, []),  # two counters
        ([0, 9], 0, []),
    ],
)
def test_frames_are_missing_only_where_names_count_otherwise(numbers: list[int], usual: int, places: list[int]):
    assert gaps([f"f_{number}.jp2" for number in numbers])[1] == places
    if places:
        assert gaps([f"f_{number}.jp2" for number in numbers])[0] == usual


def test_a_hundred_thousand_names_are_looked_through_once():
    names = [f"{number:06d}.jpg" for number in range(100_000) if number != 70_000]
    assert gaps(names) == (1, [69_999])
    uneven = [f"{1_403_636_579_000_000_000 + 33_333_333 * n + n * n % 1009}.png" for n in range(100_000)]
    assert len(stamps_s(uneven)) == 100_000
    assert gaps(uneven)[1] == []


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (25, Fraction(25)),
        (29.97, Fraction(2997, 100)),
        (30_000 / 1001, Fraction(30_000, 1001)),
        (1 / 3, Fraction(1, 3)),
        (1 / 1800, Fraction(1, 1800)),
        (1 / 3600, Fraction(1, 3600)),
        (1 / 86_400, Fraction(1, 86_400)),
        (1e-9, Fraction(1, 10**9)),
        (100_000, Fraction(100_000)),
    ],
)
def test_a_rate_is_the_fraction_that_was_meant(fps: float, exact: Fraction):
    assert exact_rate(fps) == exact


@pytest.mark.parametrize("fps", [0.123456789, 7.654321987, 5000.123456, 99_999.987654])
def test_any_rate_fits_its_columns(fps: float):
    rate = exact_rate(fps)
    assert float(rate) == pytest.approx(fps, rel=1e-6)
    assert max(rate.numerator, rate.denominator) < 2**31
