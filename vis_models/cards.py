"""The card of a model folder: what a model is and where it comes from, readable without torch."""

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vis_models.config import BadConfig, Config
from vis_models.data.annotations import Category

WEIGHTS, CARD = "model.safetensors", "card.json"
"""The two files of a model folder."""


class ModelCard(Config):
    """Where a model comes from: enough to repeat it."""

    name: str
    """Name of the registered model: the run that made it."""
    model: str
    """Its name in the zoo."""
    config: dict[str, Any]
    """Of the model's config class."""
    classes: tuple[Category, ...]
    """In the order of the model's outputs; ids are the data set's."""
    recipe: str = ""
    run_id: str = ""
    commit: str = ""
    """Of the code that trained it."""
    data: str = ""
    """Data set and the hash of its annotations."""
    command: str = ""
    created_at: datetime
    metrics: dict[str, float] = Field(default_factory=dict)
    sha256: str = ""
    """Of `model.safetensors`; filled in when saved."""


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder. Raises BadConfig when the folder is not one."""
    path = folder / CARD
    try:
        return ModelCard.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise BadConfig(
            f"{folder} is not a model folder: no {CARD} in it. A model folder holds {WEIGHTS} and {CARD}; "
            "`vis models` lists the registered ones."
        ) from None
    except ValidationError as error:
        raise BadConfig(f"{path} is not a model card: {error.errors()[0]['msg']}. Copy the folder again.") from None
