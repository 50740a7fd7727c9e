"""SIGTERM at several moments of a training: it ends as after Ctrl-C and leaves nothing behind. A minute each.

python -m pytest tests/proofs/ends_on_request.py
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.conftest import PATIENCE_S, TRAIN, Program, environment, vis

__all__ = ["environment", "vis"]  # fixtures
CHECKPOINT = "detector/newest.json"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, as those of Ray's sockets may have."""
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.parametrize("moment", ["imports", "engines", "checkpoint"])
def test_a_training_that_is_told_to_end_says_how_to_go_on(vis: Program, short: Path, moment: str):
    run = Path(vis.environment["VIS_STORE"]) / "vis/v1/runs" / moment
    awaited = {"imports": Path("/"), "engines": run / "data.json", "checkpoint": run / CHECKPOINT}[moment]
    with vis.start(*TRAIN, "--name", moment, TMPDIR=str(short)) as process:
        while process.poll() is None and not awaited.exists():
            time.sleep(0.05)
        time.sleep(1)
        process.terminate()
        out, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, out + said
    assert "Traceback" not in said
    assert "SIGTERM received" not in said
    assert [*short.glob("vis-*")] == []
    if moment != "imports":
        assert f"stopped; `vis train --resume {moment}` goes on" in said
        assert f"{moment} " in vis("runs").stdout
