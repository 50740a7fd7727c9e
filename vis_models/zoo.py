"""The models of the house by name: where the config class of each lies, and the `VideoModel` that it builds.

Classes are imported when they are asked for: configs need no torch, and a model not the others. Models of other
packages are found by the entry point `vislake.models`, with the same pair of addresses in a variable.
"""

from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any, NamedTuple

from vis_models.config import BadConfig, ModelConfig, nearest


class Entry(NamedTuple):
    """`module:class` each."""

    config: str
    model: str


MODELS = {
    "rgnn": Entry("vis_models.rgnn.config:RgnnConfig", "vis_models.rgnn.model:Rgnn"),
    "masktrack_rcnn": Entry(
        "vis_models.masktrack_rcnn.config:MaskTrackConfig", "vis_models.masktrack_rcnn.model:MaskTrackRcnn"
    ),
    "greedy": Entry("vis_models.greedy:GreedyConfig", "vis_models.greedy:Greedy"),
}


def config_class(name: str) -> type[ModelConfig]:
    """Raises BadConfig: there is no model of this name."""
    return resolve_name(_entry(name).config)


def model_class(name: str) -> Any:
    """Raises BadConfig: there is no model of this name."""
    return resolve_name(_entry(name).model)


def _entry(name: str) -> Entry:
    if name in MODELS:
        return MODELS[name]
    installed = {entry.name: entry for entry in entry_points(group="vislake.models")}
    if name in installed:
        return installed[name].load()
    known = sorted({*MODELS, *installed})
    meant = nearest(name, known)
    hint = f"did you mean {meant}" if meant else f"expected one of {', '.join(known)}"
    raise BadConfig(f"unknown model {name!r}, {hint}")
