"""What a training run writes, by name: under `vis/v1/runs/<run_id>/`, and there in a folder for each stage."""

import json
from typing import Any

from jobs.store import LAYOUT, Store
from jobs.training.recipes.base import Stage

RUNS = f"{LAYOUT}/runs"

SPEC = "spec.json"
"""The job, frozen: a folder without it is no run."""
TYPED = "typed.json"
"""The commands that made it, from the first one on."""
LEFT_OUT = "left_out.json"
"""Frames that could not be read when it began, by data set."""
DATA = "data.json"
"""Digests of every video, to see whether the run goes on with the same ones."""
ENDED = "ended.json"
"""Why it ended before its end, where it could still say so."""

DONE = "done.json"
"""A finished stage: the key of its weights, and its metrics."""
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"
"""The files of a checkpoint. A finished stage has its last weights beside its folders of checkpoints, too."""
RESULT, BEST = "result.safetensors", "best.json"
"""What a stage hands on, where that is not its last weights: their running mean, or the best that were scored."""
CURVE = "curve.jsonl"
ORIGIN, TAKEN = "origin", "taken.json"
"""Folder with the checkpoint of another run from which a stage starts, and the file in it that says which."""
_CHECKPOINTS = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of the checkpoints of a stage."""


def stage_folder(run_id: str, stage: Stage) -> str:
    """Where a stage of a run keeps what it writes, in the store."""
    return f"{RUNS}/{run_id}/{stage.name}"


def newest_checkpoint(store: Store, folder: str) -> tuple[str, int] | None:
    """Key of the folder of a stage's newest checkpoint, and the iterations that it has; None: there is none.

    Before its first own one, that is the one of another run from which it started.
    """
    if store.exists(f"{folder}/{_CHECKPOINTS}"):
        listed: dict[str, Any] | None = store.read_json(f"{folder}/{_CHECKPOINTS}")["latest_checkpoint_result"]
        if listed:
            return f"{folder}/{listed['checkpoint_dir_name']}", int(listed["metrics"]["iteration"])
    if store.exists(f"{folder}/{ORIGIN}/{TAKEN}"):
        return f"{folder}/{ORIGIN}", store.read_json(f"{folder}/{ORIGIN}/{TAKEN}")["iteration"]
    return None


def read_curve(store: Store, folder: str) -> list[dict[str, float]]:
    """The points of a stage in order; none where it has not written any."""
    key = f"{folder}/{CURVE}"
    return [json.loads(line) for line in store.read_bytes(key).splitlines()] if store.exists(key) else []
