"""What every test may use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with `golden/` and `data/`: set `VIS_TEST_DATA`, or lay it beside the checkout as `shared`."""
    folder = (REPOSITORY / os.environ.get("VIS_TEST_DATA", "../shared")).resolve()
    if not (folder / "golden").is_dir():
        pytest.skip(f"no test data in {folder}: set VIS_TEST_DATA to the folder that holds golden/ and data/")
    return folder
