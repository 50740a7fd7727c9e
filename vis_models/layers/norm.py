"""Batch norm that means the same on any number of workers: the statistics are those of the global batch.

Source: Ioffe, Szegedy, "Batch normalization", ICML 2015. torch's `SyncBatchNorm` does this on GPUs alone; this one is
plain PyTorch and runs on every backend of `torch.distributed`, gloo on CPUs included. One worker, or a norm in
evaluation mode, is torch's own layer. Parameters and buffers have torch's names, so weights load as they are.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vis_models.losses import worker_count


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all workers, which must be equally large."""

    def forward(self, input: Float[Tensor, "F K _ _"]) -> Float[Tensor, "F K _ _"]:
        workers = worker_count()
        if not self.training or workers == 1:
            return super().forward(input)
        assert self.momentum is not None  # a plain mean over all batches is not used here
        x = input.float()
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        means = _gathered(mean, workers)
        mean = means.mean(0)
        variance = (_gathered(variance, workers) + (means - mean) ** 2).mean(0)
        with torch.no_grad():
            values = workers * x.numel() / len(mean)
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * values / (values - 1), self.momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * (variance + self.eps).rsqrt()
        y = x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        return y.to(input.dtype)


def freeze(module: nn.Module) -> None:
    """Let every norm inside keep its statistics, scale and shift as they are."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval().requires_grad_(False)


def _gathered(own: Float[Tensor, " K"], workers: int) -> Float[Tensor, "workers K"]:
    """Every worker's values in the order of their ranks; a gradient finds its way back to each of them."""
    row = torch.arange(workers, device=own.device) == torch.distributed.get_rank()
    return _Sum.apply(own * row[:, None])


class _Sum(torch.autograd.Function):
    """The sum over all workers; as every worker's loss depends on it, its gradient is a sum over them, too."""

    @staticmethod
    def forward(ctx: object, own: Tensor) -> Tensor:
        total = own.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total
