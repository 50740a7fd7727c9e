"""Golden parity: our models and operators against numbers of published implementations.

Every case of the small set, which lies in `parity/`, is one test, and so is every `golden/parity/*.npz` and
`golden/maskrcnn/*.npz` of the test data, the large set. The longest matching prefix of its name chooses the check, in
`parity/`. The files alone say which seeds and sizes: another folder of the same form is checked by `VIS_TEST_DATA`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from .conftest import REPOSITORY
from .parity import centernet, idol, idol_tracking, layers, mask_rcnn, published, rgnn, swin, yolact
from .parity.case import Case, places

MODULES = (centernet, idol, idol_tracking, layers, mask_rcnn, rgnn, swin, yolact)
"""Each offers CHECKS, prefix -> check, and SLOW, prefixes of what takes longer than a unit test may."""
NOT_YET = {}
"""Prefix -> what the house does not have yet."""

CHECKS: dict[str, Callable[[Case], None]] = {prefix: check for m in MODULES for prefix, check in m.CHECKS.items()}
FOLDER = (REPOSITORY / os.environ.get("VIS_TEST_DATA", "../shared")).resolve() / "golden"
LARGE = sorted(path for part in ("parity", "maskrcnn", "swin") for path in (FOLDER / part).glob("*.npz"))


def _cases() -> list:
    """What is slow runs once: in the large set, where that is there."""
    slow = tuple(prefix for module in MODULES for prefix in module.SLOW)
    large = {path.stem: path for path in LARGE}
    small = {f"small-{name}": name for name in published.names() if not (name.startswith(slow) and name in large)}
    missing = pytest.mark.skip(reason=f"the large set of published numbers is not in {FOLDER}: set VIS_TEST_DATA")
    return [
        pytest.param(given, id=name, marks=[] if name.removeprefix("small-").startswith(slow) else [pytest.mark.unit])
        for name, given in (small | large).items()
    ] + ([] if large else [pytest.param(None, id="large", marks=missing)])


def check(given: Path | str) -> Case:
    """Run the check of a file, or of a case of the small set, which must compare every number in it."""
    name = given if isinstance(given, str) else given.stem
    prefix = max((p for p in CHECKS | NOT_YET if name.startswith(p)), key=len, default=None)
    assert prefix is not None, f"{name}: no check knows this prefix, expected one of {sorted(CHECKS | NOT_YET)}"
    if prefix not in CHECKS:
        pytest.skip(f"not here yet: {NOT_YET[prefix]}")
    case = published.case(given) if isinstance(given, str) else Case.load(given)
    CHECKS[prefix](case)
    assert not case.unread, f"{name}: numbers that nobody compared: {case.unread}"
    return case


@pytest.mark.parametrize("given", _cases())
def test_golden_parity(given: Path | str):
    case = check(given)
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
    with pytest.raises(AssertionError, match=r"news: no check knows this prefix"):
        check(tmp_path / "news.npz")


@pytest.mark.unit
def test_of_samples_the_whole_shape_and_every_sample_are_compared():
    ours = torch.arange(100.0).reshape(4, 25)
    kept = ours.flatten()[places(100, 12)]

    def case(samples: torch.Tensor) -> Case:
        return Case("drawn", {"out.a": samples}, {"out.a": (4, 25)})

    case(kept).close("out.a", ours, 1e-6)
    spoilt = kept.clone()
    spoilt[7] += 1
    with pytest.raises(AssertionError, match=r"off by 1\.0e-02"):
        case(spoilt).close("out.a", ours, 1e-6)
    with pytest.raises(AssertionError, match=r"differ, allowed"):
        case(spoilt).same("out.a", ours)
    meaningful = torch.ones(4, 25, dtype=torch.bool)
    meaningful.view(-1)[places(100, 12)[7]] = False
    case(spoilt).close("out.a", ours, 1e-6, where=meaningful)
    with pytest.raises(AssertionError, match="expected shape"):
        case(kept).close("out.a", ours.T, 1e-6)
    with pytest.raises(AssertionError, match="only samples are here"):
        case(kept)["out.a"]


@pytest.mark.unit
def test_the_small_set_has_whole_models_operators_and_evaluators_with_their_origins():
    names = set(published.names())
    assert {"yolact_forward_550", "yolact_losses", "rgnn_sequence_small", "lovasz_hinge"} <= names
    assert {max((p for p in CHECKS if name.startswith(p)), key=len, default=None) for name in names} >= {
        "yolact_forward", "yolact_losses", "rgnn_sequence", "rgnn_detector", "lovasz_", "resnet"
    }  # fmt: skip
    assert published.evaluations()
    assert published.evaluations(".tracking")
    origins = set(pq.read_table(published.FILE, columns=["origin"])["origin"].to_pylist())
    assert origins <= set(published.ORIGINS.values())
