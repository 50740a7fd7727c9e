"""A new run that goes on from the checkpoint of another one, with other fields of its stages.

What the other run has trained as the new one would have is taken over as it is: stages that ended and are the same,
then the newest checkpoint of the stage after them. The new run owns copies, so that the other one may be deleted.
"""

from typing import Any

from jobs.store import Store
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.recipes.changes import changed
from jobs.training.run_files import (
    BEST,
    CURVE,
    DATA,
    DONE,
    LEFT_OUT,
    OPTIMIZER,
    ORIGIN,
    RESULT,
    RUNS,
    TAKEN,
    TYPED,
    WEIGHTS,
    newest_checkpoint,
    stage_folder,
)
from vis_models.config import BadConfig

FIXED = frozenset({"name", "part", "groups", "optimizer", "average"})
"""Fields of a stage that its checkpoint depends on."""


def forked(store: Store, origin: str, before: TrainJob, changes: dict[str, Any]) -> TrainJob:
    """The job `before` of the run `origin` with fields of its stages changed.

    Raises:
        BadConfig: nothing would be left to train; a field that the checkpoint depends on; fewer iterations than it has.
    """
    for path in changes:
        if not path.startswith("stages."):
            raise BadConfig(
                f"--from {origin} goes on from a checkpoint, which another {path} would not fit: only fields of stages "
                "can be changed. Start a new run from its weights instead (--init)"
            )
    job = changed(before, changes)
    for old, new in zip(before.to_train, job.to_train, strict=True):
        for field in sorted(FIXED):
            if getattr(old, field) != getattr(new, field):
                raise BadConfig(
                    f"--from {origin}: the checkpoints of stage {old.name} depend on its {field}, leave it as it is"
                )
    stage, _, iteration = _entry(store, origin, before, job)
    if stage is None:
        raise BadConfig(
            f"--from {origin}: that run has trained all of this. Say what is to be trained further, such as "
            f"--set stages.-1.iterations={2 * job.stages[-1].iterations}"
        )
    if iteration >= stage.iterations:
        raise BadConfig(
            f"--from {origin}: its stage {stage.name} has {iteration} iterations, expected more than that in "
            f"stages.{job.stages.index(stage)}.iterations, got {stage.iterations}"
        )
    return job


def take_over(store: Store, origin: str, before: TrainJob, job: TrainJob, run_id: str) -> str:
    """Copy to a new run what it starts with. Returns that in words."""
    entry, checkpoint, iteration = _entry(store, origin, before, job)
    assert entry is not None  # as `forked` has made sure
    words = []
    for name in (TYPED, LEFT_OUT, DATA):
        _copy(store, f"{RUNS}/{origin}/{name}", f"{RUNS}/{run_id}/{name}")
    for stage in job.to_train[: job.to_train.index(entry)]:
        there, here = stage_folder(origin, stage), stage_folder(run_id, stage)
        done = store.read_json(f"{there}/{DONE}")
        weights = f"{here}/{done['weights'].rpartition('/')[2]}"
        _copy(store, done["weights"], weights)
        _copy(store, f"{there}/{CURVE}", f"{here}/{CURVE}")
        store.write_json(f"{here}/{DONE}", done | {"weights": weights})
        words.append(f"{stage.name} as {origin} ended it")
    if checkpoint:
        there, here = stage_folder(origin, entry), stage_folder(run_id, entry)
        for name in (CURVE, RESULT, BEST):
            _copy(store, f"{there}/{name}", f"{here}/{name}")
        for name in (WEIGHTS, OPTIMIZER):
            _copy(store, f"{checkpoint}/{name}", f"{here}/{ORIGIN}/{name}")
        store.write_json(f"{here}/{ORIGIN}/{TAKEN}", {"run": origin, "iteration": iteration})
        words.append(f"{entry.name} from iteration {iteration} of {origin}")
    return f"takes over {', '.join(words)}" if words else f"{origin} has no checkpoint: starts at the beginning"


def _entry(store: Store, origin: str, before: TrainJob, job: TrainJob) -> tuple[Stage | None, str, int]:
    """The first stage that is left to train, and the checkpoint that it starts from with its iterations."""
    for old, new in zip(before.to_train, job.to_train, strict=True):
        folder = stage_folder(origin, old)
        if old != new or not store.exists(f"{folder}/{DONE}"):
            return new, *(newest_checkpoint(store, folder) or ("", 0))
    return None, "", 0


def _copy(store: Store, there: str, here: str) -> None:
    if store.exists(there):
        store.write_bytes(here, store.read_bytes(there))
