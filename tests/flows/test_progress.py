"""What a person at a terminal without bars sees of a run."""

import pytest

from flows import progress

pytestmark = pytest.mark.unit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still; its only value is the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_is_told_at_its_start_at_its_end_and_every_ten_seconds_between(clock, capsys):
    with progress.at_terminal() as report:
        for done in range(1, 101):
            report("train", done, 100, {})
            clock[0] += 0.25
    said = capsys.readouterr().err.splitlines()
    assert said == ["train: 1 of 100", "train: 41 of 100", "train: 81 of 100", "train: 100 of 100"]


def test_each_stage_has_its_own_clock_and_figures_are_short(clock, capsys):
    with progress.at_terminal() as report:
        report("train", 1, 9, {"loss": 3.14159})
        report("draw", 1, 9, {"frames": 12})
        report("train", 2, 9, {"loss": 3.0})
    assert capsys.readouterr().err.splitlines() == ["train: 1 of 9  loss 3.14", "draw: 1 of 9  frames 12"]


def test_a_note_is_told_at_once_and_does_not_count_as_progress(clock, capsys):
    with progress.at_terminal() as report:
        report("train", 5, 9, {})
        report("train", 0, 9, {"note": "random weights"})
        report("train", 9, 9, {})
    assert capsys.readouterr().err.splitlines() == ["train: 5 of 9", "train: random weights", "train: 9 of 9"]
