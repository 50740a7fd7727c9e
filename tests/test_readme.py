"""What the README tells a newcomer to type works, in the order in which it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY
from .parity import published

README = (REPOSITORY / "README.md").read_text()
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]+) -->\n)?```(?P<language>sh|python)\n(?P<text>.*?)```", re.DOTALL)
MARKS = {"needs data", "needs a cluster", "run by tests/test_road.py"}


@pytest.mark.timeout(900)
def test_every_command_runs_as_it_is_written(tmp_path: Path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = 0
    for block in BLOCK.finditer(README):
        if block["mark"]:
            assert block["mark"] in MARKS
            continue
        command = ["bash", "-e", "-c"] if block["language"] == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, block["text"]], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block['text']}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        ran += 1
    assert ran == 4
    assert "track_id" in (tmp_path / "longest.csv").read_text().splitlines()[0]
    assert list((tmp_path / ".vis").rglob("*.html"))


@pytest.mark.unit
def test_commands_that_another_test_runs_stand_in_that_test():
    road = (REPOSITORY / "tests" / "test_road.py").read_text()
    blocks = [block["text"] for block in BLOCK.finditer(README) if block["mark"] == "run by tests/test_road.py"]
    names = re.findall(r"prefect deployment run (\S+)", "".join(blocks))
    assert names == ["train-rgnn", "segment-archive", "evaluate-youtube-vis", "report"]
    assert all(f'"{name}"' in road for name in names)


@pytest.mark.unit
def test_pictures_and_paths_that_it_names_are_there():
    named = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(
        r"`((?:jobs|flows|vis_models|infra|tests)/[\w./]*)`", README
    )
    assert len(named) > 10
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.unit
def test_the_road_of_a_video_leads_through_files_that_are_there():
    (drawing,) = re.findall(r"The road of one video.*?```\n(.*?)```", README, re.DOTALL)
    road = re.findall(r"(?:jobs|vis_models)/\S+\.py", drawing)
    assert len(road) == 10
    assert [path for path in road if not (REPOSITORY / path).is_file()] == []


@pytest.mark.unit
def test_it_counts_the_published_cases_that_a_clone_compares():
    models, evaluators = re.search(r"(\d+) cases\s+of models and operators and (\d+) of evaluators", README).groups()
    assert (int(models), int(evaluators)) == (len(published.names()), len(published.evaluations()))
