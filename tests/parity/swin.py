"""Check of the Swin transformer as a backbone: four maps, and gradients of a weighted sum of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from vis_models.layers.backbone_config import SwinConfig
from vis_models.layers.swin import Swin

from .case import NETWORK, SEQUENCE_GRADIENT, Case
from .layouts import swin_shapes
from .weights import checkpoint, noise

MAPS = ("res2", "res3", "res4", "res5")


def backbone(case: Case) -> None:
    width, window = int(case["in.embed_dim"]), int(case["in.window_size"])
    blocks, heads = tuple(case["in.depths"].tolist()), tuple(case["in.num_heads"].tolist())
    model = Swin(SwinConfig(width=width, blocks=blocks, heads=heads, window=window)).eval()
    state = checkpoint(swin_shapes(width, blocks, heads, window), case.overrides)
    model.load_state_dict({key: v for key, v in state.items() if not key.endswith("relative_position_index")})
    images = noise(case["in.input_seed"], case["in.shape"]).requires_grad_()
    total: Tensor = torch.zeros(())
    for number, (name, values) in enumerate(zip(MAPS, model.stages(images), strict=True)):
        case.same(f"out.{name}_shape", torch.tensor(values.shape))
        case.stats(f"out.{name}_stats", values, NETWORK)
        total = total + (values * noise(int(case["in.input_seed"]) + 10 + number, values.shape, 0.05)).sum()
    total.backward()
    case.stats("out.grad_input_stats", images.grad, SEQUENCE_GRADIENT)
    for key in (key for key in case.outputs if key.startswith("out.grad.")):
        name = key.removeprefix("out.grad.").removesuffix("_stats")
        case.stats(key, model.get_parameter(name).grad, SEQUENCE_GRADIENT)


CHECKS: dict[str, Callable[[Case], None]] = {"swin": backbone}
SLOW = ("swin_large",)
