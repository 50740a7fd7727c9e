"""What a training run writes, by name: under `vis/v1/runs/<run_id>/`, and there in a folder for each stage."""

import json
from pathlib import Path
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
NEWEST = "newest.json"
"""The newest checkpoint of a stage: the name of its folder, its iteration, what was known of it."""
KEPT_CHECKPOINTS = 2
_BEFORE = "checkpoint_manager_snapshot.json"
"""What stood in its place when Ray Train kept the checkpoints."""


def stage_folder(run_id: str, stage: Stage) -> str:
    """Where a stage of a run keeps what it writes, in the store."""
    return f"{RUNS}/{run_id}/{stage.name}"


def write_checkpoint(store: Store, folder: str, iteration: int, files: Path, metrics: dict[str, float]) -> None:
    """Bring the files of a checkpoint to the store, then say that it is the newest; of older ones the last is kept."""
    name = f"checkpoint_{iteration:08}"
    for file in files.iterdir():
        store.write_bytes(f"{folder}/{name}/{file.name}", file.read_bytes())
    store.write_json(f"{folder}/{NEWEST}", {"folder": name, "iteration": iteration, "metrics": metrics})
    inside = (key.removeprefix(f"{folder}/").partition("/") for key in store.list(folder))
    there = {first for first, slash, _ in inside if slash and first.startswith("checkpoint_")}
    others = list(there - {name})
    others.sort(key=lambda each: (each.removeprefix("checkpoint_").isdigit(), each))  # Ray Train named them by time
    for old in others[: 1 - KEPT_CHECKPOINTS]:
        store.fs.rm(store.path(f"{folder}/{old}"), recursive=True)


def last_metrics(store: Store, folder: str) -> dict[str, float]:
    """What was known of a stage at its newest checkpoint."""
    return store.read_json(f"{folder}/{NEWEST}")["metrics"]


def newest_checkpoint(store: Store, folder: str) -> tuple[str, int] | None:
    """Key of the folder of a stage's newest checkpoint, and the iterations that it has; None: there is none.

    Before its first own one, that is the one of another run from which it started.
    """
    if store.exists(f"{folder}/{NEWEST}"):
        newest = store.read_json(f"{folder}/{NEWEST}")
        return f"{folder}/{newest['folder']}", newest["iteration"]
    if store.exists(f"{folder}/{_BEFORE}"):
        listed: dict[str, Any] | None = store.read_json(f"{folder}/{_BEFORE}")["latest_checkpoint_result"]
        if listed:
            return f"{folder}/{listed['checkpoint_dir_name']}", int(listed["metrics"]["iteration"])
    if store.exists(f"{folder}/{ORIGIN}/{TAKEN}"):
        return f"{folder}/{ORIGIN}", store.read_json(f"{folder}/{ORIGIN}/{TAKEN}")["iteration"]
    return None


def read_curve(store: Store, folder: str) -> list[dict[str, float]]:
    """The points of a stage in order; none where it has not written any."""
    key = f"{folder}/{CURVE}"
    return [json.loads(line) for line in store.read_bytes(key).splitlines()] if store.exists(key) else []
