"""A crew on Ray Train."""

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.exceptions import RayTaskError
from ray.train.torch import TorchTrainer, get_device, prepare_model

from jobs.cluster import listening
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.crew import Hear, Lost, Place, Task
from jobs.workers import Workers, ray_to_join


def prepare(settings: Settings) -> None:
    """What Ray Train reads in the environment when it is started."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how long the end of a stage goes unnoticed
    if not ray_to_join(settings)[0]:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away


class OnRay:
    """The workers of the Ray that this process is connected to."""

    def __init__(self, workers: Workers, store: Store, folder: str) -> None:
        """`folder`: in the store, where Ray Train keeps its notes."""
        self.workers, self._store, self._folder = workers, store, folder

    def run(self, task: Task, name: str, hear: Hear) -> None:
        with listening(hear) as board:
            try:
                self._trainer(partial(_work, task, self.workers, board), name).fit()
            except ray.train.TrainingFailedError as error:
                raise Lost(why_lost(error)) from error

    def _trainer(self, work: Callable[[], None], name: str) -> TorchTrainer:
        on_gpu = self.workers.device == "cuda"
        return TorchTrainer(
            work,
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.workers.count,
                use_gpu=on_gpu,
                resources_per_worker={"CPU": self.workers.cpus} | ({"GPU": 1} if on_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=self._store.path(self._folder),
                storage_filesystem=self._store.arrow,
                failure_config=ray.train.FailureConfig(max_failures=0),  # of Ray's; `train` knows what to try again
            ),
        )

    def try_out(self, task: Task) -> None:
        def alone() -> None:
            task(Place(self.workers, torch.device(self.workers.device), lambda note: None))

        gpu = self.workers.device == "cuda"
        try:
            ray.get(ray.remote(num_cpus=0 if gpu else 1, num_gpus=int(gpu), max_calls=1)(alone).remote())
        except RayTaskError as error:
            raise error.cause from None


def _work(task: Task, workers: Workers, board: Any) -> None:
    context = ray.train.get_context()
    rank = context.get_world_rank()

    def say(note: dict[str, Any]) -> None:
        if rank == 0:
            board.write.remote(note)

    task(
        Place(
            workers,
            get_device(),
            say,
            rank,
            context.get_local_rank(),
            context.get_local_world_size(),
            partial(prepare_model, parallel_strategy="ddp" if workers.count > 1 else None),
        )
    )


def why_lost(error: ray.train.TrainingFailedError) -> str:
    """In words, how a process or a machine was lost. Raises what our own code raised, if that is what happened."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        if not _of_surroundings(failure):
            raise failure from error
    reasons = {str(rank): failure for rank, failure in failures.items()} or {"all": error}
    return "; ".join(
        f"{rank}: {type(each).__name__}: {str(each).splitlines()[0][:200]}" for rank, each in reasons.items()
    )


def _of_surroundings(failure: BaseException) -> bool:
    """Did Ray raise it, or the network between the workers, which breaks when one of them is gone?"""
    from_ray = type(failure).__module__.startswith("ray.") and not isinstance(failure, RayTaskError)
    gone = isinstance(failure, torch.distributed.DistError)
    return from_ray or gone or (isinstance(failure, RuntimeError) and bool(re.search(r"\bgloo\b|NCCL", str(failure))))
