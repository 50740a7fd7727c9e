import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.archives.deadlines import Hung, Task, decoders

pytestmark = pytest.mark.unit
REPOSITORY = Path(__file__).resolve().parents[2]


def test_work_that_hangs_is_left_behind_and_the_rest_is_done():
    released, late = threading.Event(), []

    def hang(task: Task[int]) -> int:
        released.wait()
        late.append(threading.current_thread())
        return 1

    with decoders(1, patience_s=0.3) as pool:
        stuck, waiting = pool.submit(hang), pool.submit(lambda task: 2)
        assert pool.result(waiting) == 2, "behind one that nobody waits for"
        with pytest.raises(Hung, match=r"no sign of life for 0.3 s"):
            pool.result(stuck)
        released.set()
        assert pool.result(pool.submit(lambda task: 3)) == 3
    while not late or late[0].is_alive():
        time.sleep(0.01)
    with pytest.raises(Hung):
        stuck.done.result()  # what came too late changes nothing


def test_slow_work_that_gives_signs_of_life_may_take_its_time():
    def slow(task: Task[int]) -> int:
        for _ in range(20):
            time.sleep(0.05)
            task.beat()
        return 1

    with decoders(2, patience_s=0.5) as pool:
        assert pool.result(pool.submit(slow)) == 1


def test_what_work_raises_comes_out_also_a_timeout_of_its_own():
    def fail(task: Task[int]) -> int:
        raise TimeoutError("of the network")

    with decoders(1, patience_s=60) as pool, pytest.raises(TimeoutError, match="of the network"):
        pool.result(pool.submit(fail))


def test_a_process_with_a_thread_that_hangs_can_end(tmp_path: Path):
    code = """
import os, sys
from jobs.archives.deadlines import Hung, decoders
os.mkfifo(sys.argv[1])
with decoders(1, 0.3) as pool:
    try:
        pool.result(pool.submit(lambda task: open(sys.argv[1])))
    except Hung as hung:
        print(hung)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "pipe")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "no sign of life for 0.3 s", "")
