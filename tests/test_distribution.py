"""How `make test` shares the tests among its processes."""

import re
import subprocess
import sys

from .conftest import LONGEST_FIRST, REPOSITORY

QUICK = ("tests/test_ci.py", "tests/flows/test_embedded.py", "tests/flows/test_terminal.py")


def test_what_shares_a_server_or_a_store_is_one_process_s_and_the_other_takes_the_rest():
    options = ["--numprocesses", "2", "--verbose", "-m", "unit", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *QUICK]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    ran = re.findall(r"\[(gw\d)\] .* (tests/\S+)::", done.stdout)
    first, other = ({process for process, file in ran if ("flows" in file) == flows} for flows in (True, False))
    assert (len(first), len(other)) == (1, 1)
    assert first != other


def test_what_takes_longest_is_there():
    assert [place for place in LONGEST_FIRST if not (REPOSITORY / place).exists()] == []
