"""A worker in a process of its own: how it answers, how it dies and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.child import TIDY_S, Child, ChildDied, Line

DUTY = f"{__name__}:serve"
STARTER = """
import sys, time
from functools import partial
from pathlib import Path
from jobs.child import Child
from tests.jobs.test_child import DUTY, keep_busy
child = Child(DUTY)
child.say(partial(keep_busy, Path(sys.argv[1])))
time.sleep(600)
"""


def serve(line: Line) -> None:
    while True:
        line.answer(line.hear(), line)


def count_to(last: int, line: Line) -> int:
    for number in range(last):
        line.note(number)
    return last


def refuse(line: Line) -> None:
    raise KeyError("no such frame")


def say_and_exit(line: Line) -> None:
    os.write(2, b"out of everything")
    os._exit(3)


def be_killed(line: Line) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def keep_busy(folder: Path, line: Line) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "begun").touch()
    try:
        time.sleep(600)
    finally:
        (folder / "tidy").touch()


def come_to_an_end(folder: Path, line: Line) -> None:
    """As who has something to save, and notes to send that nobody reads."""
    (folder / "begun").touch()
    while not line.asked_to_end():
        line.note("on the way")
        time.sleep(0.2)
    time.sleep(2 * TIDY_S)
    (folder / "saved").touch()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(DUTY)
    yield child
    child.stop()


def ask(child: Child, work: Callable[..., Any]) -> tuple[Any, list[Any]]:
    notes: list[Any] = []
    child.say(work)
    return child.answer(notes.append), notes


def until(true: Callable[[], Any], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(true())


def gone(process: int) -> bool:
    try:
        return (Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]) == "Z"
    except OSError:
        return True


def test_a_child_answers_notes_first_and_takes_the_next_message_after_an_error(child: Child):
    assert ask(child, partial(count_to, 3)) == (3, [0, 1, 2])
    with pytest.raises(KeyError, match="no such frame") as error:
        ask(child, refuse)
    assert "in refuse" in error.value.__notes__[0]
    assert ask(child, partial(count_to, 1)) == (1, [0])


@pytest.mark.parametrize(
    ("end", "how"), [(say_and_exit, "exit code 3: out of everything"), (be_killed, "signal SIGKILL")]
)
def test_a_child_that_ends_by_itself_is_lost_with_the_reason(child: Child, end: Callable[..., None], how: str):
    for _ in range(2):  # whoever asks it again is told the same
        with pytest.raises(ChildDied) as lost:
            ask(child, end)
        assert str(lost.value) == how


def test_a_busy_child_that_nobody_waits_for_any_more_tidies_up_and_ends(child: Child, tmp_path: Path):
    child.say(partial(keep_busy, tmp_path))
    assert until((tmp_path / "begun").exists)
    child.stop()
    assert (tmp_path / "tidy").exists()
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_that_asks_whether_it_should_end_is_waited_for(child: Child, tmp_path: Path):
    child.say(partial(come_to_an_end, tmp_path))
    assert until((tmp_path / "begun").exists)
    child.stop()
    assert (tmp_path / "saved").exists()


def test_a_child_ends_with_the_process_that_started_it_even_a_killed_one(tmp_path: Path):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)])
    assert until((tmp_path / "begun").exists)
    starter.kill()
    starter.wait()
    process = int((tmp_path / "pid").read_text())
    assert until(lambda: gone(process), 2 * TIDY_S + 10)
    assert (tmp_path / "tidy").exists()
