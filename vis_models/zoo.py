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
    "idol": Entry("vis_models.idol.config:IdolConfig", "vis_models.idol.model:Idol"),
    "vis_stg": Entry("vis_models.vis_stg.config:VisStgConfig", "vis_models.vis_stg.model:VisStg"),
    "mask_prop": Entry("vis_models.mask_prop.config:MaskPropConfig", "vis_models.mask_prop.model:MaskProp"),
    "linked": Entry("vis_models.trackers.config:LinkedConfig", "vis_models.trackers.linked:Linked"),
}
FORMER = {
    "greedy": "now a tracker of `linked` models, `vis models link FOLDER --tracker greedy` makes one of its folder",
}
"""Models that there are no more, and what to do with their folders."""


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
    if name in FORMER:
        raise BadConfig(f"there is no model {name!r} any more: {FORMER[name]}")
    known = sorted({*MODELS, *installed})
    meant = nearest(name, known)
    hint = f"did you mean {meant}" if meant else f"expected one of {', '.join(known)}"
    raise BadConfig(f"unknown model {name!r}, {hint}")
