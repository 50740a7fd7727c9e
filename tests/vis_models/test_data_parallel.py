"""Every row of the paper's tables trains on two workers: two processes on the gloo backend, started once for all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jobs.training.descent import Losses
from vis_models.rgnn.model import Rgnn
from vis_models.rgnn.rows import ROWS
from vis_models.types import Clips

from .drawn import moving_squares, small_config

WORKERS = 2
STEPS = 2
"""DistributedDataParallel complains about a parameter without gradient when the next step begins."""


def model_of(row: str = "proposed") -> Rgnn:
    """A row's model with the same random weights everywhere, which start and continue tracks."""
    torch.manual_seed(1)
    model = Rgnn(small_config(init_train_logit=-3.0, min_score=0.0, nms_iou=1.0, **ROWS[row].changes))
    torch.nn.init.constant_(model.match_head.bias if row != "limited" else model.limited.match_head.bias, 0.5)
    return model.train()


def learned(module: nn.Module, part: nn.Module, batch: Clips, steps: int = 1) -> dict[str, Tensor]:
    """Gradients of the last step, and the buffers after it."""
    for _ in range(steps):
        part.zero_grad()
        torch.manual_seed(0)
        torch.stack(list(module(batch).values())).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in part.named_parameters() if p.requires_grad}
    return gradients | {name: buffer for name, buffer in part.named_buffers() if "running" in name}


def row(rank: int, name: str) -> dict[str, Tensor]:
    model = model_of(name)
    clip = moving_squares(clips=1, length=2)
    return learned(DistributedDataParallel(Losses(model, model.loss)), model, clip, STEPS)


TASKS: dict[str, tuple[Callable[..., Any], str]] = {
    **{f"row {name}": (row, name) for name in ROWS if name != "resnet101"},
}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    for task, (function, argument) in TASKS.items():
        try:
            answer: Any = function(rank, argument)
        except RuntimeError as error:
            answer = str(error)
        torch.save(answer, folder / f"{task} {rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What every worker says to every task: gradients and statistics, or why it could not go on."""
    folder = tmp_path_factory.mktemp("parallel")
    torch.multiprocessing.spawn(work, (folder,), WORKERS)
    return {task: [torch.load(folder / f"{task} {rank}.pt") for rank in range(WORKERS)] for task in TASKS}


@pytest.mark.parametrize("name", [name for name in ROWS if name != "resnet101"])
def test_every_row_of_the_tables_trains_on_two_workers(answers: dict[str, list[Any]], name: str):
    for said in answers[f"row {name}"]:
        assert isinstance(said, dict), said
        assert not [parameter for parameter, gradient in said.items() if gradient is None]
