"""From a model folder to a folder of the same detector with a tracker of rules: nothing is trained."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vis_models.cards import CARD, ModelCard, read_card
from vis_models.checkpoints import build, fill, save_model
from vis_models.config import BadConfig
from vis_models.rgnn.config import RgnnConfig
from vis_models.trackers.config import LinkedConfig
from vis_models.zoo import config_class


def link(source: Path, target: Path, tracker: dict[str, Any], name: str = "", command: str = "") -> ModelCard:
    """Write the model folder `target`: the detector of `source` and this tracker.

    Args:
        tracker: fields of its config, its name among them.

    Raises:
        BadConfig: no model folder, or of a model without a detector of its own; a field of the tracker is wrong.
    """
    card = read_card(source)
    detector = detector_of(source, card)
    try:
        config = LinkedConfig.model_validate({"detector": detector.model_dump(), "tracker": tracker})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfig(f"{where}: {first['msg']}, got {first['input']!r}") from None
    model = build("linked", config.model_dump(mode="json"))
    fill(model, source, card, begins="detector.")
    new = {
        "name": name or f"{card.name}-{config.tracker.name}",
        "model": "linked",
        "config": config.model_dump(mode="json"),
        "command": command,
        "created_at": datetime.now(UTC),
        "metrics": {},
    }
    return save_model(target, model, card.model_copy(update=new))


def detector_of(source: Path, card: ModelCard) -> Any:
    """The config of a model's detector. Raises BadConfig: it has none that stands alone."""
    if card.model == "greedy":  # as it was: RGNN's config and weights, and fields of its rules
        fields = {key: value for key, value in card.config.items() if key in RgnnConfig.model_fields}
        return RgnnConfig.model_validate(fields).as_detector
    config: Any = config_class(card.model).model_validate(card.config)
    if not hasattr(config, "as_detector"):
        raise BadConfig(
            f"{source / CARD}: a model of the kind {card.model!r} has no detector that another tracker could take. "
            "Expected one with a detector of its own, such as rgnn."
        )
    return config.as_detector
