"""The small set of published numbers: a table beside this file, so that a clone proves parity with nothing beside it.

`python -m tests.parity.published FOLDER` makes it from the large set, FOLDER with `parity/`, `maskrcnn/`, `swin/`
and `vis_eval/`: all inputs of the cases below, and of the numbers that the published implementations gave for them the
short arrays whole and samples of the long ones, by the rule of `case.places`. The column `origin` names the
implementation and its commit.
"""

import gzip
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .case import Case, places
from .weights import rule

FILE = Path(__file__).parent / "published.parquet"
SAMPLES = 12
WHOLE = 64
"""Arrays of so many numbers are kept whole."""
ORIGINS = {
    "yolact": "dbolya/yolact 902073d4",
    "rgnn": "joakimjohnander/RGNNVIS 24a07f8b",
    "lovasz": "bermanmaxim/LovaszSoftmax 7d48792d",
    "resnet50": "torchvision 0.28",
    "box_nms": "torchvision 0.28",
    "roi_align": "torchvision 0.28",
    "maskrcnn": "torchvision 0.28",
    "masktrack": "youtubevos/MaskTrackRCNN 10e5d7de",
    "msda": "wjf5203/VNext db338339",
    "idol": "wjf5203/VNext db338339",
    "swin": "wjf5203/VNext db338339",
    "centernet": "xingyizhou/CenterNet 4c50fd3a",
    "dice": "formulas of DETR and CondInst",
    "fill_rule": "numpy, the rule of weights.py",
    "expected": "youtubevos/cocoapi f3f9948a",
    "tracking": "JonathonLuiten/TrackEval 12c8791b",
    "inputs": "drawn",
}
CASES = (
    *("yolact_box_coding", "yolact_fast_nms", "yolact_forward_550", "yolact_losses"),
    *("rgnn_sequence_small", "rgnn_hard_assigner", "rgnn_detector_480x864"),
    *("lovasz_all_ignored", "lovasz_class_absent", "lovasz_confident_correct", "lovasz_gradient_vector"),
    *("lovasz_hinge", "lovasz_one_pixel", "lovasz_one_pixel_object", "lovasz_single_class", "lovasz_some_ignored"),
    *("box_nms", "fill_rule_samples", "resnet50_features"),
    *("roi_align", "masktrack_match_score", "masktrack_sequence", "masktrack_track_head", "maskrcnn_v1_losses"),
    *("msda_core", "idol_position_encoding", "idol_forward_padded", "swin_small_padded", "dice_losses"),
    *("idol_simota", "idol_criterion", "idol_contrastive", "idol_tracker"),
    *("centernet_targets", "centernet_decode"),
)
EVALUATIONS = ("basic_a", "nulls_a", "quirks_a")
SAMPLED_INPUTS = {"in.priors_full"}
"""Inputs that are only compared with ours."""
NEEDED_WHOLE = {"out.decoded", "out.pos_index"}
"""Published numbers that a check goes on with."""


@cache
def _rows() -> dict[str, list[dict]]:
    rows: dict[str, list[dict]] = {}
    for row in pq.read_table(FILE).to_pylist():
        rows.setdefault(row["case"], []).append(row)
    return rows


def names() -> list[str]:
    """The cases of models and operators."""
    return [name for name in _rows() if not name.startswith("eval_")]


def case(name: str) -> Case:
    """A case of models or operators."""
    arrays, shapes = {}, {}
    for row in _rows()[name]:
        key, shape = row["key"], tuple(row["shape"])
        values = torch.from_numpy(np.frombuffer(row["values"], row["dtype"]).copy())
        if values.numel() == int(np.prod(shape)):
            values = values.reshape(shape)
        else:
            shapes[key] = shape
        if key.startswith("times."):
            key = key.removeprefix("times.")
            values = rule(key, shape) * values
            key = f"set.{key}"
        arrays[key] = values
    return Case(name, arrays, shapes)


def evaluation(name: str, kind: str = "") -> tuple[dict, list, dict]:
    """Labels, results and what the published evaluator says of them."""
    files = {row["key"]: row["values"] for row in _rows()[f"eval_{name}"]}
    labels, results, expected = (json.loads(files[key]) for key in ("gt", "results", f"expected{kind}"))
    return labels, results, expected


def evaluations(kind: str = "") -> list[str]:
    """Names of the cases of the evaluator that have numbers of this kind, as `golden.cases` has it."""
    found = {name.removeprefix("eval_"): {row["key"] for row in rows} for name, rows in _rows().items()}
    return sorted(name for name, keys in found.items() if f"expected{kind}" in keys)


# ---- made from the large set ---------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    of = {name: next((part for part in ("maskrcnn", "swin") if name.startswith(part)), "parity") for name in CASES}
    rows = [row for name, part in of.items() for row in _of_arrays(name, folder / part / f"{name}.npz")]
    rows += [row for name in EVALUATIONS for row in _of_evaluation(name, folder / "vis_eval")]
    schema = {"case": pa.string(), "key": pa.string(), "origin": pa.string(), "dtype": pa.string()}
    schema |= {"shape": pa.list_(pa.int32()), "values": pa.binary()}
    table = pa.Table.from_pylist(rows, pa.schema(list(schema.items())))
    pq.write_table(table, FILE, compression="zstd", compression_level=22, write_statistics=False, use_dictionary=False)


def _of_arrays(name: str, path: Path) -> list[dict]:
    rows = []
    with np.load(path) as arrays:
        for key in arrays.files:
            values = arrays[key]
            shape = values.shape
            sampled = key in SAMPLED_INPUTS or (key.startswith("out.") and key not in NEEDED_WHOLE)
            if key.startswith("set."):  # a multiple of what the rule gives: the factors are few
                key = key.removeprefix("set.")
                values = np.round(values / rule(key, shape).numpy(), 4 if values.size > 1 else 7).astype(np.float32)
                key = f"times.{key}"
            elif sampled and values.size > WHOLE and not key.endswith("_stats"):
                values = values.reshape(-1)[places(values.size, SAMPLES).numpy()]
            rows.append(
                _row(name, key, _origin(name), str(values.dtype), shape, np.ascontiguousarray(values).tobytes())
            )
    return rows


def _of_evaluation(name: str, folder: Path) -> list[dict]:
    parts = {"gt": "inputs", "results": "inputs", "expected": "expected", "expected.tracking": "tracking"}
    files = {"expected.tracking": "tracking.expected"}
    found = {part: folder / f"{name}.{files.get(part, part)}.json.gz" for part in parts}
    content = {part: json.loads(gzip.decompress(path.read_bytes())) for part, path in found.items() if path.exists()}
    return [
        _row(f"eval_{name}", part, ORIGINS[parts[part]], "json", (), json.dumps(value, separators=(",", ":")).encode())
        for part, value in content.items()
    ]


def _origin(name: str) -> str:
    return next(origin for prefix, origin in ORIGINS.items() if name.startswith(prefix))


def _row(case: str, key: str, origin: str, dtype: str, shape: tuple[int, ...], values: bytes) -> dict:
    return {"case": case, "key": key, "origin": origin, "dtype": dtype, "shape": list(shape), "values": values}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    print(f"{FILE}: {len(names())} cases of models and operators, {len(evaluations())} of evaluators")
