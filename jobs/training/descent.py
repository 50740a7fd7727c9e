"""Gradient descent on one device, as a stage wants it: batches that are ready in time, learning rate, iteration.

No cluster in here: `jobs/training/train.py` runs it on the workers of Ray Train, `make bench-gpu` without any.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from jobs.training.recipes.base import Stage
from vis_models.config import BadConfig
from vis_models.data.clips import collate
from vis_models.losses import worker_count
from vis_models.types import Clips


class Samples(Protocol):
    """A `ClipSet` or a `Mixture`: sample n of a run, one clip."""

    def __getitem__(self, n: int) -> Clips: ...


def load_batches(
    samples: Samples, numbers: Sequence[list[int]], device: torch.device, processes: int
) -> Iterator[Clips]:
    """Batches on the device, in order.

    Args:
        numbers: the samples of each batch.
        processes: that prepare batches ahead, two each; 0 prepares them here, in a thread, one ahead. On a GPU they
            come through pinned memory, so that the copy runs beside the computation.
    """
    loader: DataLoader[Any] = DataLoader(
        samples,  # type: ignore[arg-type]  # any object with __getitem__ will do beside a batch sampler
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=processes,
        multiprocessing_context="forkserver" if processes else None,  # this process may run threads, of Ray for example
        pin_memory=device.type == "cuda",
    )
    batches = iter(loader) if processes else _one_ahead(iter(loader))
    return (clips.to(device) for clips in batches)


def _one_ahead(batches: Iterator[Clips]) -> Iterator[Clips]:
    """The next batch is prepared while this one is used: decoding and torch leave Python's lock to each other."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = thread.submit(next, batches, None)
        while batch := coming.result():
            coming = thread.submit(next, batches, None)
            yield batch


def optimizer_of(stage: Stage, part: nn.Module) -> torch.optim.Optimizer:
    """What the stage asks for, over the parameters that are not frozen.

    Raises:
        BadConfig: a group of parameters that the part does not have.
    """
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}[
        stage.optimizer
    ]
    rest: dict[str, Any] = {"params": [], "rate": 1.0, "weight_decay": stage.weight_decay}
    groups: list[dict[str, Any]] = [
        {
            "params": [],
            "rate": group.rate,
            "weight_decay": stage.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in stage.groups
    ]
    for name, parameter in part.named_parameters():
        if parameter.requires_grad:
            fit = (own for group, own in zip(stage.groups, groups, strict=True) if name.startswith(group.begins))
            next(fit, rest)["params"].append(parameter)
    for group, own in zip(stage.groups, groups, strict=True):
        if not own["params"]:
            known = sorted({name.partition(".")[0] for name, p in part.named_parameters() if p.requires_grad})
            raise BadConfig(
                f"stage {stage.name}: no trained parameter of its part begins with {' or '.join(group.begins)} "
                f"(groups); they begin with {', '.join(known)}"
            )
    return kind([own for own in (*groups, rest) if own["params"]], lr=stage.learning_rate, fused=True)


def learning_rate(stage: Stage, iteration: int) -> float:
    """Of one iteration: warm-up, then constant, in drops, or along a cosine."""
    if iteration < stage.warm_up:
        rise = (iteration + 1) / stage.warm_up
        return stage.learning_rate * (stage.warm_up_from + (1 - stage.warm_up_from) * rise)
    share = iteration / stage.iterations
    if stage.cosine:
        past = (iteration - stage.warm_up) / max(stage.iterations - stage.warm_up, 1)
        return stage.learning_rate * (1 + math.cos(math.pi * past)) / 2
    return stage.learning_rate / stage.drop_factor ** sum(share >= drop for drop in stage.drops)


class Losses(nn.Module):
    """A loss as a module's `forward`, which is what data-parallel training wraps."""

    def __init__(self, part: nn.Module, loss: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.part = part
        self.loss = loss

    def forward(self, *batch: Any) -> dict[str, Tensor]:
        return self.loss(*batch)


def descend(
    stage: Stage,
    seed: tuple[int, ...],
    module: Any,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple],
    first: int = 0,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Gradient descent, one iteration a turn: how many are done, and the loss terms of the last one.

    Args:
        seed: with the iteration it decides the dropout, which is the same again after a resume.
        module: takes a batch, returns loss terms.
        batches: `stage.accumulate` of them make an iteration.
        first: iterations that were done before.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = trained[0].device.type
    parts = iter(batches)
    for iteration in count(first):
        for group in optimizer.param_groups:
            group["lr"] = group.get("rate", 1.0) * learning_rate(stage, iteration)  # none in older checkpoints
        torch.manual_seed(hash((*seed, iteration)))
        means: dict[str, Tensor] = {}
        for batch in islice(parts, stage.accumulate):
            if not means:
                optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=stage.precision == "bf16"):
                terms: dict[str, Tensor] = module(*batch)
            (torch.stack(list(terms.values())).sum() / stage.accumulate).backward()
            means = {name: means.get(name, 0) + term.detach() / stage.accumulate for name, term in terms.items()}
        if not means:
            return
        if stage.clip_gradient:
            nn.utils.clip_grad_norm_(trained, stage.clip_gradient)
        optimizer.step()
        yield iteration + 1, means


class RunningMean:
    """A running mean of a part's weights (Polyak, Juditsky, "Acceleration of stochastic approximation", 1992, with the
    exponential decay that is usual today). Buffers, such as those of batch norms, are taken as they are."""

    def __init__(self, part: nn.Module, decay: float) -> None:
        self.part, self.decay = part, decay
        self.mean = {name: p.detach().clone() for name, p in part.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """After iteration `done`. The first iterations count more than the decay says, or they would weigh for long."""
        decay = min(self.decay, done / (done + 10))
        for name, parameter in self.part.named_parameters():
            if name in self.mean:
                self.mean[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The part with the mean for its weights, for as long as this lasts."""
        own = {name: p for name, p in self.part.named_parameters() if name in self.mean}
        last = {name: p.detach().clone() for name, p in own.items()}
        try:
            _copy(self.mean, own)
            yield
        finally:
            _copy(last, own)


@torch.no_grad()
def _copy(values: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


class LossTerms:
    """What the terms of the loss were, noted on the device in every iteration and read when asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.first_broken: Tensor | None = None
        """The iteration in which each term was no finite number for the first time, -1 where it always was one."""
        self.sums: Tensor | None = None
        """Of each term over the last `count` iterations, in double precision."""
        self.count = 0

    def see(self, done: int, terms: dict[str, Tensor]) -> None:
        values = torch.stack(list(terms.values())).detach()
        if self.first_broken is None:
            self.names, self.first_broken = list(terms), torch.full_like(values, -1, dtype=torch.long)
        self.first_broken = self.first_broken.where((self.first_broken >= 0) | values.isfinite(), done)
        self.sums = values.double() if self.sums is None else self.sums.to(values.device) + values.double()
        self.count += 1

    def require_finite(self, stage: Stage) -> None:
        """Raises BadConfig when a term has broken."""
        first = [] if self.first_broken is None else self.first_broken.tolist()
        broken = {name: at for name, at in zip(self.names, first, strict=True) if at >= 0}
        if broken:
            at = min(broken.values())
            names = ", ".join(name for name in broken if broken[name] == at)
            raise diverged(stage, f"no finite number came out of the loss term {names} in iteration {at}")

    def share(self) -> None:
        """Of several workers each goes on with the mean over all of them; all must call it in the same iteration."""
        if self.sums is not None and worker_count() > 1:
            torch.distributed.all_reduce(self.sums)
            self.sums /= worker_count()

    def so_far(self) -> float:
        """The mean of their sum over the iterations since `means` was called last, of this worker alone."""
        assert self.sums is not None, "no iteration was seen"
        return float(self.sums.sum()) / self.count

    def means(self) -> dict[str, float]:
        """Of each term over the iterations since the last call, over all workers, and their sum as `loss`."""
        self.share()
        assert self.sums is not None, "no iteration was seen"
        values = (self.sums / self.count).tolist()
        self.sums, self.count = None, 0
        return {"loss": sum(values)} | dict(zip(self.names, values, strict=True))


def diverged(stage: Stage, what: str) -> BadConfig:
    """What to say when training has left the finite numbers: trying again would end in the same place."""
    return BadConfig(
        f"stage {stage.name} diverged: {what}. Nothing of it was saved; a checkpoint that is there is from before. "
        f"Start anew with other fields of the stage (--set): a lower learning_rate (now {stage.learning_rate:g}), a "
        'limit on the gradient (clip_gradient), or precision="fp32".'
    )


def compile_fusible(model: Any) -> None:
    """Let `torch.compile` fuse the parts of a model that see one shape and decide nothing.

    Losses, matching and suppression choose by value, which a compiler cannot follow. What it cannot compile for any
    other reason runs as it is. Names of parameters stay.
    """
    torch._dynamo.config.suppress_errors = True
    for part in model.fusible():
        part.compile()
