"""What the README tells a newcomer to type works, in the order in which it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vis_models.rgnn.rows import ROWS

from . import measured
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
    assert ran == 5
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
    assert len(road) == 11
    assert [path for path in road if not (REPOSITORY / path).is_file()] == []


@pytest.mark.unit
def test_it_counts_the_published_cases_that_a_clone_compares():
    models, evaluators = re.search(r"(\d+) cases\s+of models and operators and (\d+) of evaluators", README).groups()
    assert (int(models), int(evaluators)) == (len(published.names()), len(published.evaluations()))


@pytest.mark.unit
def test_its_measured_figures_are_those_of_the_lines_that_were_measured():
    lines, spreads = measured.read(measured.MEASURED), measured.read(measured.VIDEOS)
    assert measured.written(README, lines, spreads) == README, "made anew by: python -m tests.measured"
    assert {place["name"] for place in measured.PLACE.finditer(README)} == measured.figures(lines, spreads).keys()
    runs = {(line["row"], line["detector"]) for line in lines}
    assert [s["row"] for s in spreads if (s["row"], s["detector"]) not in runs] == []


@pytest.mark.unit
def test_a_row_on_another_detector_is_held_against_the_proposed_approach_on_that_one():
    def run(row: str, detector: str, seed: int, ap: float) -> dict[str, str]:
        return {"row": row, "detector": detector, "seed": str(seed), "ap": str(ap)}

    lines = [
        *(run("proposed", "first", seed, 0.20 + seed / 100) for seed in range(3)),
        *(run("limited", "first", seed, 0.10 + seed / 100) for seed in range(3)),
        *(run("proposed", "second", seed, 0.30) for seed in range(2)),
        *(run("masktrack", "second", seed, 0.15 + seed / 10) for seed in range(2)),
    ]
    spreads = [
        {"row": "limited", "detector": "first", "seeds": "3", "spread_of_videos": "0.02"},
        {"row": "masktrack", "detector": "second", "seeds": "1", "spread_of_videos": "0.02"},  # of fewer seeds: old
    ]
    proposed, limited, masktrack = measured.comparisons(lines, spreads, ROWS)
    assert (proposed.seeds, proposed.ap, proposed.difference) == pytest.approx((3, 0.21, 0))
    assert (limited.seeds, limited.difference, limited.elsewhere) == (3, pytest.approx(-0.1), False)
    assert (limited.spread_of_videos, limited.verdict) == (0.02, "reproduced")
    assert (masktrack.seeds, masktrack.ap, masktrack.elsewhere) == (2, pytest.approx(0.2), True)
    assert masktrack.by_seed == pytest.approx((-0.15, -0.05))
    assert (masktrack.spread_of_videos, masktrack.verdict) == (None, "")
