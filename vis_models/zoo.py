"""The models of the house by name: each name is a config class and the `VideoModel` it builds."""

from torch import nn

from vis_models.config import Config
from vis_models.greedy import Greedy, GreedyConfig
from vis_models.rgnn import Rgnn, RgnnConfig

MODELS: dict[str, tuple[type[Config], type[nn.Module]]] = {
    "rgnn": (RgnnConfig, Rgnn),
    "greedy": (GreedyConfig, Greedy),
}
