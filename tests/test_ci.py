"""What `.ci/run` relies on says what is there, wherever the checkout lies."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(shutil.which("pgrep") is None, reason="no pgrep on the PATH: .ci/run installs procps"),
]


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(REPOSITORY / ".ci" / script), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["plain", "c++ (x)", "a[b", "$HOME *", r"back\slash"])
def test_a_process_that_was_left_is_found_in_a_folder_of_any_name_and_none_where_there_is_none(
    name: str, tmp_path: Path
):
    folder = tmp_path / name
    folder.mkdir()
    program = shutil.copy(shutil.which("sleep") or "", folder / "sleep")
    with subprocess.Popen([str(program), "60"]) as left:
        found = run("left-over", f"{folder}/")
        left.kill()
    assert (found.returncode, f"{left.pid} {program} 60" in found.stderr) == (1, True)
    nothing = run("left-over", f"{folder}/")
    assert (nothing.returncode, nothing.stderr) == (0, "")


def test_where_pgrep_fails_the_check_fails(tmp_path: Path):
    broken = tmp_path / "pgrep"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    done = run("left-over", "/nowhere/", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "pgrep failed with 3" in done.stderr


def test_one_line_says_that_the_large_set_is_missing_and_none_that_it_is_there(tmp_path: Path):
    missing = run("without", VIS_TEST_DATA=str(tmp_path))
    assert (missing.stdout.count("\n"), "WITHOUT THE LARGE SET" in missing.stdout) == (1, True)
    (tmp_path / "golden" / "parity").mkdir(parents=True)
    assert run("without", VIS_TEST_DATA=str(tmp_path)).stdout == ""


def test_ci_says_so_at_its_beginning_and_at_its_end():
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    calls = [n for n, line in enumerate(lines) if line == ".ci/without"]
    work = [n for n, line in enumerate(lines) if line.startswith("make ")]
    assert len(calls) == 2
    assert calls[0] < min(work) < max(work) < calls[1]
    assert any(line.startswith(".ci/left-over") for line in lines[max(work) :])
