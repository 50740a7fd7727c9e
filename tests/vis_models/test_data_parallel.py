"""Two workers are one: the same gradients and statistics as one worker on both their batches, whatever these show.

Two processes on the gloo backend, started once for all that is asked of them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jobs.training.descent import Losses
from vis_models.configs import ROWS
from vis_models.rgnn import Rgnn
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


def part_of(model: Rgnn, part: str) -> nn.Module:
    if part == "whole":
        return model
    model.detector.requires_grad_(True)
    return model.detector.train()


def unequally_bright() -> Clips:
    """Four clips, each twice as bright as the one before."""
    clips = moving_squares(clips=4, length=3)
    gain = torch.tensor([0.125, 0.25, 0.5, 1.0])[:, None, None, None, None]
    return replace(clips, frames=(clips.frames * gain).to(torch.uint8))


def without_objects(clips: Clips) -> Clips:
    objects = clips.objects
    nothing = replace(objects, masks=objects.masks & False, visible=objects.visible & False)
    return replace(clips, objects=nothing)


def share(clips: Clips, rank: int) -> Clips:
    rows = slice(2 * rank, 2 * rank + 2)
    return Clips(clips.frames[rows], clips.objects[rows])


def learned(module: nn.Module, part: nn.Module, batch: Clips, steps: int = 1) -> dict[str, Tensor]:
    """Gradients of the last step, and the buffers after it."""
    for _ in range(steps):
        part.zero_grad()
        torch.manual_seed(0)
        torch.stack(list(module(batch).values())).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in part.named_parameters() if p.requires_grad}
    return gradients | {name: buffer for name, buffer in part.named_buffers() if "running" in name}


def same(rank: int, part: str) -> dict[str, Tensor]:
    trained = part_of(model_of(), part)
    module = DistributedDataParallel(Losses(trained, trained.loss))
    return learned(module, trained, share(unequally_bright(), rank))


def one_sees_nothing(rank: int, part: str) -> dict[str, Tensor]:
    trained = part_of(model_of(), part)
    module = DistributedDataParallel(Losses(trained, trained.loss))
    batch = share(unequally_bright(), rank)
    return learned(module, trained, without_objects(batch) if rank else batch, STEPS)


def row(rank: int, name: str) -> dict[str, Tensor]:
    model = model_of(name)
    clip = moving_squares(clips=1, length=2)
    return learned(DistributedDataParallel(Losses(model, model.loss)), model, clip, STEPS)


TASKS: dict[str, tuple[Callable[..., Any], str]] = {
    **{f"same {part}": (same, part) for part in ("detector", "whole")},
    **{f"nothing {part}": (one_sees_nothing, part) for part in ("detector", "whole")},
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


@pytest.mark.parametrize("part", ["detector", "whole"])
def test_two_workers_with_two_clips_learn_what_one_learns_from_the_four(answers: dict[str, list[Any]], part: str):
    trained = part_of(model_of(), part)
    alone = learned(Losses(trained, trained.loss), trained, unequally_bright())
    for worker in answers[f"same {part}"]:
        assert worker.keys() == alone.keys()
        errors = [float((worker[name] - value).norm() / value.norm().clamp(min=1e-6)) for name, value in alone.items()]
        print(sorted(zip(errors, alone, strict=True))[-10:], sorted(errors)[len(errors) // 2])
        assert max(errors) < 0.03


@pytest.mark.parametrize("part", ["detector", "whole"])
def test_a_worker_whose_images_show_nothing_does_not_hold_up_the_other(answers: dict[str, list[Any]], part: str):
    both = answers[f"nothing {part}"]
    assert all(isinstance(said, dict) for said in both), both
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.parametrize("name", [name for name in ROWS if name != "resnet101"])
def test_every_row_of_the_tables_trains_on_two_workers(answers: dict[str, list[Any]], name: str):
    for said in answers[f"row {name}"]:
        assert isinstance(said, dict), said
        assert not [parameter for parameter, gradient in said.items() if gradient is None]
