"""Golden parity: our models and operators against numbers of published implementations.

Every `golden/parity/*.npz` of the test data is one test; the longest matching prefix of its name chooses the check,
in `parity/`. The files alone say which seeds and sizes: another folder of the same form is checked by `VIS_TEST_DATA`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import REPOSITORY
from .parity import layers, yolact
from .parity.case import Case

MODULES = (layers, yolact)
"""Each offers CHECKS, prefix -> check, and SLOW, prefixes of what takes longer than a unit test may."""
NOT_YET = {
    "idol_": "IDOL",
    "msda_": "deformable attention, of IDOL",
    "dice_losses": "the mask loss of IDOL",
    "masktrack_": "MaskTrack R-CNN",
    "roi_align": "RoIAlign, of MaskTrack R-CNN",
    "centernet_": "CenterNet, of VisSTG",
    "deform_conv_": "deformable convolution, of VisSTG and MaskProp",
    "rgnn_": "the checks of RGNN",
}
"""Prefix -> what the house does not have yet."""

CHECKS: dict[str, Callable[[Case], None]] = {prefix: check for m in MODULES for prefix, check in m.CHECKS.items()}
FOLDER = (REPOSITORY / os.environ.get("VIS_TEST_DATA", "../shared")).resolve() / "golden" / "parity"


def _cases() -> list:
    slow = tuple(prefix for module in MODULES for prefix in module.SLOW)
    return [
        pytest.param(path, id=path.stem, marks=[] if path.name.startswith(slow) else [pytest.mark.unit])
        for path in sorted(FOLDER.glob("*.npz"))
    ] or [
        pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"no golden cases in {FOLDER}: set VIS_TEST_DATA"))
    ]


def check(path: Path) -> Case:
    """Run the check of a file, which must compare every number in it."""
    prefix = max((p for p in CHECKS | NOT_YET if path.name.startswith(p)), key=len, default=None)
    assert prefix is not None, f"{path.name}: no check knows this prefix, expected one of {sorted(CHECKS | NOT_YET)}"
    if prefix not in CHECKS:
        pytest.skip(f"not here yet: {NOT_YET[prefix]}")
    case = Case(path)
    CHECKS[prefix](case)
    assert not case.unread, f"{path.name}: numbers that nobody compared: {case.unread}"
    return case


@pytest.mark.parametrize("path", _cases())
def test_golden_parity(path: Path):
    case = check(path)
    worst = max(case.off, key=case.off.__getitem__)
    print(f"{case.name}: {len(case.off)} comparisons, the worst off by {case.off[worst]:.1e} ({worst})")


@pytest.mark.unit
def test_a_number_off_by_more_than_the_tolerance_fails_its_case(tmp_path: Path):
    arrays = {"in.a": np.float32([1, 0, 1]), "out.a": np.float32([0.5, 0.25, 0.25])}
    np.savez(tmp_path / "lovasz_gradient_vector.npz", **arrays)  # the gradient of (1, 0, 1) is (1/2, 1/6, 1/3)
    with pytest.raises(AssertionError, match=r"out\.a: off by 8\.3e-02"):
        check(tmp_path / "lovasz_gradient_vector.npz")


@pytest.mark.unit
def test_a_number_that_nobody_compared_fails_its_case(tmp_path: Path):
    np.savez(tmp_path / "lovasz_gradient_vector.npz", **{"out.forgotten": np.float32([1])})
    with pytest.raises(AssertionError, match=r"nobody compared: \['out\.forgotten'\]"):
        check(tmp_path / "lovasz_gradient_vector.npz")


@pytest.mark.unit
def test_a_case_of_an_unknown_prefix_fails(tmp_path: Path):
    with pytest.raises(AssertionError, match=r"news\.npz: no check knows this prefix"):
        check(tmp_path / "news.npz")
