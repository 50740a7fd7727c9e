"""Model folders of the house, and published checkpoints in their own layouts.

A model folder is `model.safetensors` and `card.json`; loading one runs no code from outside. Published
checkpoints are renamed key by key; what did not fit is reported.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vis_models.cards import CARD, WEIGHTS, ModelCard, read_card, weights_of
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.rgnn import layouts
from vis_models.rgnn.layouts import OURS
from vis_models.rgnn.model import INITIAL_VARIANCES
from vis_models.tensor_files import read_tensors, require_finite
from vis_models.zoo import config_class, model_class

COUNTER = "num_batches_tracked"
"""Of batch norms: counts that nothing reads, and that older files do not have."""


def save_model(folder: Path, model: nn.Module, card: ModelCard) -> ModelCard:
    """Write a model folder; the card comes back with the digest of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    card = card.model_copy(update={"sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()})
    (folder / CARD).write_text(card.model_dump_json(indent=2))
    return card


def load_model(
    folder: Path, device: torch.device | str = "cpu", slot_recycling: bool = False
) -> tuple[nn.Module, ModelCard]:
    """Build the model of a folder, ready to infer.

    Args:
        slot_recycling: let tracks out of sight give up their slot, in models that have slots: for long videos.

    Raises:
        BadConfig: unknown model, weights that are damaged or of another shape, class list of another length.
    """
    card = read_card(folder)
    config = card.config | ({"slot_recycling": slot_recycling} if "slot_recycling" in card.config else {})
    model: Any = build(card.model, config)
    expected = model.config.classes
    if expected != len(card.classes):
        raise BadConfig(
            f"{folder / CARD}: the config has {expected} classes, the class list {len(card.classes)}. "
            "They must come from one training run: copy the folder again."
        )
    fill(model, folder, card)
    return model.to(device).eval(), card


def fill(model: nn.Module, folder: Path, card: ModelCard, begins: str = "") -> None:
    """Give a model the weights of a model folder whose names begin so, all that it has.

    Raises:
        BadConfig: weights that are damaged, of another model than the card, or of another shape than the model.
    """
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if card.sha256 and digest != card.sha256:
        raise BadConfig(
            f"{folder / WEIGHTS} has sha256 {digest[:12]}..., its card says {card.sha256[:12]}...: "
            "weights and card are not from the same model. Copy the folder again."
        )
    try:
        weights = load_file(folder / WEIGHTS)
        require_finite(folder / WEIGHTS, weights)
        model.load_state_dict({key: value for key, value in weights.items() if key.startswith(begins)})
    except (SafetensorError, RuntimeError) as error:
        why = str(error)[:300]
        raise BadConfig(f"{folder / WEIGHTS} does not fit its card: {why}. Copy the folder again.") from None


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """A model of the zoo with fresh weights. Raises BadConfig for an unknown name or config key."""
    try:
        return model_class(name)(config_class(name).model_validate(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfig(f"config of model {name!r}: {where}: {first['msg']}, got {first['input']!r}") from None


@dataclass
class LoadReport:
    """What became of the keys of a checkpoint that was made elsewhere."""

    layout: str
    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    """Ours, not in the file: they keep their fresh weights."""
    unexpected: list[str] = field(default_factory=list)
    """The file's, not in ours."""
    reshaped: list[str] = field(default_factory=list)
    """Of another shape, as for another class count: they keep their fresh weights."""
    other_classes: list[str] = field(default_factory=list)
    """That say something of each class, and its classes are others: they keep their fresh weights."""

    def __str__(self) -> str:
        said = (
            f"{self.layout} checkpoint: {self.loaded} tensors loaded, {len(self.missing)} of ours not in it, "
            f"{len(self.unexpected)} of it unused, {len(self.reshaped)} of another shape {self.reshaped or ''}"
        ).rstrip()
        if self.other_classes:
            said += f", {len(self.other_classes)} start anew as the classes are others: {self.other_classes[0]} ..."
        return said


def initialise(model: nn.Module, path: Path, classes: tuple[Category, ...] = ()) -> LoadReport:
    """Start a model from a published file, a model folder, or a folder's weights.

    A model with a method `from_published` says itself which layouts it knows. To `Yolact` and `Rgnn` known are
    torchvision's ResNet, YOLACT, and RGNN, its detector alone or all of it. A `Yolact` takes the detector out of any of
    them; an `Rgnn` takes all that there is. A graph network is taken whole or not at all.

    Args:
        classes: of the model, in the order of its outputs. Where those of a model folder are others by name or in
            order, all that depends on classes keeps its fresh weights.

    Raises:
        BadConfig: the file is missing, holds code instead of tensors, no key of a known layout, or weights of a model
            that was built with other switches than this one; a model folder of another detector, or of a graph network
            that knows other classes.
    """
    path = weights_of(path)
    state = read_tensors(path)
    same_kind = _is_of_this_kind(model, path)
    try:
        layout, renamed = (OURS, state) if same_kind else _named(model, state)
    except BadConfig as error:
        raise BadConfig(f"{path}: {error}") from None
    if layout is None and path.with_name(CARD).is_file():
        raise BadConfig(
            f"{path.parent} is a model of another kind, {read_card(path.parent).kind}: take one of this kind"
        )
    if layout is None:
        known = getattr(model, "published", layouts.PUBLISHED)
        raise BadConfig(f"{path}: unknown layout, keys such as {', '.join(sorted(state)[:3])}. Known: {known}.")
    anew: set[str] = set()
    if layout == OURS and (path.parent / CARD).is_file():
        _refuse_other_card(path.parent, model)
        anew = _of_classes(model) if _other_classes(path.parent, classes) else anew
    is_rgnn = hasattr(model, "detector") and not hasattr(model, "from_published")
    if is_rgnn:
        _refuse_other_switches(path, renamed, model)
    elif not same_kind and not hasattr(model, "detector") and not hasattr(model, "network"):
        renamed = {
            key.removeprefix("detector."): tensor for key, tensor in renamed.items() if key.startswith("detector.")
        }
    ours = model.state_dict()
    report = LoadReport(layout, missing=[key for key in ours if key not in renamed and not key.endswith(COUNTER)])
    fitting = {}
    for key, tensor in renamed.items():
        if key not in ours:
            report.unexpected.append(key)
        elif key in anew:
            report.other_classes.append(key)
        elif ours[key].shape != tensor.shape:
            report.reshaped.append(key)
        else:
            fitting[key] = tensor
    if not any("conv" in key or "weight" in key for key in fitting):
        raise BadConfig(f"{path}: no tensor fits this model. {report}")
    if is_rgnn:
        _refuse_a_part(path, renamed, report)
    model.load_state_dict(fitting, strict=False)
    report.loaded = len(fitting)
    return report


def take_detector(detector: nn.Module, folder: Path, classes: tuple[Category, ...]) -> LoadReport:
    """Give a `Yolact` the weights of a model folder's detector, which is as this one is in every respect.

    Args:
        classes: that it is to know, in the order of its outputs; compared by name.

    Raises:
        BadConfig: no model folder, other classes, another config, or weights that leave a gap.
    """
    if what := _other_classes(folder, classes):
        remedy = "Take a model that was trained on these classes, or write the labels with its categories."
        raise BadConfig(f"{folder}: {what}. {remedy}")
    report = initialise(detector, folder, classes)
    if report.missing or report.reshaped:
        raise BadConfig(
            f"{folder}: not the weights of the detector that its card describes, {report}: "
            f"{', '.join((report.missing + report.reshaped)[:3])}. Copy the folder again."
        )
    return report


def _other_classes(folder: Path, classes: tuple[Category, ...]) -> str:
    """How the classes of a model folder differ from these, by name and in order; empty: they do not."""
    theirs, ours = [category.name for category in read_card(folder).classes], [category.name for category in classes]
    if not classes or theirs == ours:
        return ""
    differing = [f"{a} for {b}" for a, b in zip(theirs, ours, strict=False) if a != b]
    what = "order" if sorted(theirs) == sorted(ours) else "list"
    return f"its classes are another {what}: {len(theirs)} for {len(ours)}" + "".join(
        f", {each}" for each in differing[:3]
    )


def _of_classes(model: Any) -> set[str]:
    """Names of the tensors whose shape depends on how many classes there are."""
    with torch.device("meta"):
        other = type(model)(model.config.with_classes(model.config.classes + 1))
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {name for name, tensor in model.state_dict().items() if shapes[name] != tensor.shape}


def _refuse_other_card(folder: Path, model: Any) -> None:
    """Weights that fit say something else under other priors or switches: the card has to say the same. Classes are
    another matter (`_of_classes`)."""
    card = read_card(folder)
    found: Any = config_class(card.model).model_validate(card.config)
    whole = model.config.with_classes(found.classes)
    parts = "detector." if hasattr(found, "detector") else ""
    pairs = [(parts, found.seen, whole.seen)]
    if hasattr(model, "detector"):
        pairs.append(("", found.switches, whole.switches))
    for prefix, got, expected in pairs:
        for name, value in expected.items():
            if name in got and got[name] != value:  # a model without a graph network has no switches of one
                raise BadConfig(
                    f"{folder}: its config has {prefix}{name} {got[name]}, this run {value}. Weights mean the same "
                    f"under the same config only: change it (--set config.{prefix}{name}=...), or take another model."
                )


def _refuse_a_part(path: Path, renamed: dict[str, Tensor], report: LoadReport) -> None:
    """A graph network of which a part is new would pass for a trained one."""
    if not any(not key.startswith("detector.") for key in renamed):
        return  # a detector alone
    odd = {
        "not in it": [key for key in report.missing if key not in INITIAL_VARIANCES],
        "of it unknown here": report.unexpected,
        "of another shape": report.reshaped,
        "of other classes": report.other_classes,
    }
    odd = {why: [key for key in keys if not key.startswith("detector.")] for why, keys in odd.items()}
    if any(odd.values()):
        what = "; ".join(f"{len(keys)} {why}, such as {keys[0]}" for why, keys in odd.items() if keys)
        raise BadConfig(
            f"{path} is an RGNN of other switches, classes or sizes than this model: {what}. Build the model as that "
            "one was; RgnnConfig.released() is what the authors' weights run with."
        )


def _refuse_other_switches(path: Path, renamed: dict[str, Tensor], model: nn.Module) -> None:
    """A graph network of another build would load in part and mean nothing: say which switches it needs."""
    found, expected = layouts.switches(renamed), layouts.switches(model.state_dict())
    wanted = {name: value for name, value in found.items() if expected.get(name, value) != value}
    if wanted:
        got = ", ".join(f"{name}={expected[name]}" for name in wanted)
        switches = ", ".join(f"{name}={value}" for name, value in wanted.items())
        raise BadConfig(
            f"{path} is an RGNN with {switches}, this model has {got}. Build the model with {switches}; "
            "RgnnConfig.released() is what the authors' weights run with."
        )


def _is_of_this_kind(model: Any, weights: Path) -> bool:
    """Whether these are the weights of a model folder of the same model, of another package's, too."""
    beside = weights.with_name(CARD)
    return (
        weights.name == WEIGHTS
        and beside.is_file()
        and config_class(read_card(beside.parent).model) is type(model.config)
    )


def _named(model: Any, state: dict[str, Tensor]) -> tuple[str | None, dict[str, Tensor]]:
    """The layout of a file, and its tensors by our names; by what the model itself says of it, where it does. What
    finds objects is its `detector.`, or its `network.` where all of the model finds and links."""
    if not hasattr(model, "from_published"):
        return layouts.renamed(state) or (None, {})
    if "detector.fpn.inner_blocks.0.0.weight" in state or any(key.startswith("network.") for key in state):
        return OURS, state
    layout, renamed = model.from_published(state) or (None, {})
    own = ("detector.", "track_head.", "network.")
    within = "network." if hasattr(model, "network") else "detector."
    return layout, {key if key.startswith(own) else f"{within}{key}": tensor for key, tensor in renamed.items()}


def weights_hash(model: nn.Module) -> str:
    """A short, stable name for weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
