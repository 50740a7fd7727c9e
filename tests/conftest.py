"""What every test may use, and how tests are shared among processes (`make test`)."""

import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST_FIRST = (
    "tests/flows/",
    "tests/test_road.py",
    "tests/jobs/test_train.py",
    "tests/test_readme.py",
    "tests/jobs/test_faults.py",
    "tests/jobs/test_segment.py",
    "tests/jobs/test_ablation.py",
)
"""A folder whose tests share a store and a server, and files that take minutes: last, they would leave a core idle."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with `golden/` and `data/`: set `VIS_TEST_DATA`, or lay it beside the checkout as `shared`."""
    folder = (REPOSITORY / os.environ.get("VIS_TEST_DATA", "../shared")).resolve()
    if not (folder / "golden").is_dir():
        pytest.skip(f"no test data in {folder}: set VIS_TEST_DATA to the folder that holds golden/ and data/")
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--numprocesses`: a file is one process's, so that what its tests share is made once."""
    from xdist.scheduler import LoadFileScheduling  # only where tests run side by side

    class Whole(LoadFileScheduling):
        """Files, and the folders of LONGEST_FIRST, as a whole; those first."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((whole for whole in LONGEST_FIRST if file.startswith(whole)), file)

        def _assign_work_unit(self, node: Any) -> None:
            longest = next((whole for whole in LONGEST_FIRST if whole in self.workqueue), None)
            if longest:
                self.workqueue.move_to_end(longest, last=False)
            super()._assign_work_unit(node)

    return Whole(config, log)
