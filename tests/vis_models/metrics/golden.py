"""Numbers of published evaluators: the small set, and the cases of `golden/vis_eval` under VIS_TEST_DATA."""

import gzip
import json
import os
from functools import cache
from pathlib import Path

from tests.parity import published

SMALL = "small_"
SHARED = (Path(__file__).parents[3] / os.environ.get("VIS_TEST_DATA", "../shared")).resolve()
FOLDER = SHARED / "golden" / "vis_eval"


def cases(kind: str = "") -> list[str]:
    """Names of all cases with expected numbers; kind: `.tracking` for those of tracking metrics."""
    names = (path.name.removesuffix(".expected.json.gz") for path in FOLDER.glob("*.expected.json.gz"))
    large = sorted(name.removesuffix(kind) for name in names if name.endswith(kind) and (kind or "." not in name))
    return [f"{SMALL}{name}" for name in published.evaluations(kind)] + large


@cache
def golden(case: str, kind: str = "") -> tuple[dict, list, dict]:
    """Ground truth, results and the numbers of the published evaluator; `real_X` is scored on a video in data/real."""
    if case.startswith(SMALL):
        return published.evaluation(case.removeprefix(SMALL), kind)
    if case.startswith("real_"):
        inputs = SHARED / "data" / "real" / "annotated" / case.removeprefix("real_")
        paths = [inputs / "gt.ytvis.json.gz", inputs / "results.json.gz"]
    else:
        paths = [FOLDER / f"{case}.gt.json.gz", FOLDER / f"{case}.results.json.gz"]
    paths.append(FOLDER / f"{case}{kind}.expected.json.gz")
    return tuple(json.loads(gzip.decompress(path.read_bytes())) for path in paths)  # type: ignore[return-value]
