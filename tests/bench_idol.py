"""Where the time of IDOL's network goes: one frame of 384x640, fp32, R50 (`python -m tests.bench_idol`, a minute).

CPU time on one thread, which other processes hardly change, and wall time on all cores; the least of some runs each.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vis_models.idol.config import IdolConfig
from vis_models.idol.network import IdolNetwork
from vis_models.layers.deformable import DeformableAttention, deformable_attention, gathered_attention

SIZE_PX = (384, 640)
KEPT = 10
"""Queries whose masks are made, as of a frame with ten objects."""
Clock = Callable[[], float]


@torch.no_grad()
def frame(network: IdolNetwork, size_px: tuple[int, int], clock: Clock, runs: int) -> dict[str, float]:
    """Seconds of a frame and of its parts, of the fastest run."""
    attention = [module for module in network.modules() if isinstance(module, DeformableAttention)]
    watched: dict[str, list[nn.Module]] = {
        "backbone": [network.backbone],
        "encoder": list(network.transformer.encoder.layers),
        "decoder": list(network.transformer.decoder.layers),
        "mask branch": [network.mask_head],
        "deformable attention": list(attention),
    }
    best: dict[str, float] = {}
    for _ in range(runs):
        took, hooks = dict.fromkeys(watched, 0.0), []
        for name, modules in watched.items():
            for module in modules:
                hooks += _timed(module, name, took, clock)
        began = clock()
        output = network(torch.randn(1, 3, *size_px), torch.tensor([size_px]))
        took["masks of ten"] = -clock()
        network.masks(output, -1, torch.zeros(KEPT, dtype=torch.long), torch.arange(KEPT))
        took["masks of ten"] += clock()
        took["frame"] = clock() - began
        for hook in hooks:
            hook.remove()
        best = took if not best or took["frame"] < best["frame"] else best
    return best


@torch.no_grad()
def cores(config: IdolConfig, queries: int, size_px: tuple[int, int], clock: Clock, runs: int) -> dict[str, float]:
    """Seconds of the definition and of the gather of rows, without projections; no queries: one of each cell."""
    strides = [config.backbone.stride * 2**level for level in range(config.levels)]
    sizes = [(size_px[0] // stride, size_px[1] // stride) for stride in strides]
    cells = [height * width for height, width in sizes]
    values = torch.randn(1, sum(cells), config.heads, config.channels // config.heads)
    shape = (1, queries or sum(cells), config.heads, config.levels, config.points)
    points = torch.rand(*shape[:2], 1, 1, 1, 2) + 0.05 * torch.randn(*shape, 2)
    weights = torch.rand(shape).flatten(3).softmax(-1).view(shape)

    def defined() -> Tensor:
        parts = zip(values.split(cells, 1), sizes, strict=True)
        levels = [part.unflatten(1, size).permute(0, 3, 4, 1, 2) for part, size in parts]
        return deformable_attention(levels, points, weights)

    def gathered() -> Tensor:
        return gathered_attention(values, sizes, points, weights)

    best = {"defined": float("inf"), "gathered": float("inf")}
    for _ in range(runs):
        for name, way in (("defined", defined), ("gathered", gathered)):
            began = clock()
            way()
            best[name] = min(best[name], clock() - began)
    return best


def _timed(module: nn.Module, name: str, took: dict[str, float], clock: Clock) -> list:
    def begin(*_: object) -> None:
        took[name] -= clock()

    def end(*_: object) -> None:
        took[name] += clock()

    return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]


def main(runs: int = 8) -> None:
    config, available = IdolConfig.paper(), torch.get_num_threads()
    network = IdolNetwork(config).eval()
    clocks: dict[str, tuple[Clock, int]] = {
        "CPU time, 1 thread": (time.process_time, 1),
        f"wall time, {available} threads": (time.perf_counter, available),
    }
    for label, (clock, threads) in clocks.items():
        torch.set_num_threads(threads)
        took = frame(network, SIZE_PX, clock, runs)
        print(f"\nIDOL R50, {SIZE_PX[0]}x{SIZE_PX[1]}, fp32, {label}")
        for name, seconds in took.items():
            print(f"  {name:22}{seconds * 1000:8.0f} ms{seconds / took['frame']:8.0%}")
        for place, queries in (("encoder", 0), ("decoder", config.queries)):
            both = cores(config, queries, SIZE_PX, clock, runs)
            times = f"{both['defined'] * 1000:8.1f} ms defined{both['gathered'] * 1000:8.1f} ms gathered"
            print(f"  attention of a layer, {place}{times}{both['defined'] / both['gathered']:8.1f} times")
    torch.set_num_threads(available)


if __name__ == "__main__":
    main()
