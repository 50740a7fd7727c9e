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
    source: str = ""
    """Of a published checkpoint: where its file is from, and its digest."""
    licence: str = ""
    """Under which its authors publish it."""
    sha256: str = ""
    """Of `model.safetensors`; filled in when saved."""

    @property
    def kind(self) -> str:
        """In words: of a detector and a tracker that were put together both names."""
        parts = [self.config.get(part) for part in ("detector", "tracker")]
        names = [part["name"] for part in parts if isinstance(part, dict) and "name" in part]
        return " + ".join(names) if len(names) == len(parts) else self.model


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


def weights_of(path: Path) -> Path:
    """The file of weights at a path, which may be a model folder. Raises BadConfig: there is none."""
    if path.is_dir():
        if not (path / WEIGHTS).is_file():
            raise BadConfig(
                f"{path} is a folder without {WEIGHTS}: name a model folder, or a .pth or .safetensors file"
            )
        return path / WEIGHTS
    if not path.is_file():
        raise BadConfig(f"no checkpoint at {path}: give the path of a .pth or .safetensors file, or of a model folder")
    return path


NO_CHECKPOINTS = {
    "empty": "copy or download it again",
    "a pointer of Git LFS": "fetch the file itself (git lfs pull)",
    "a web page": "the download was refused; open its address in a browser",
    "text": "give a .pth or .safetensors file",
    "a picture or film": "give a .pth or .safetensors file",
}
"""What is taken for a checkpoint by mistake, and what to do."""


def kind_of_weights(name: str, beginning: bytes) -> str:
    """`safetensors` or `pickle`, by the first 64 bytes of a file and not by its name.

    Raises:
        BadConfig: it is something else that is taken for a checkpoint by mistake.
    """
    kind = _kind(beginning)
    if kind in NO_CHECKPOINTS:
        raise BadConfig(f"{name} is {kind}, expected a checkpoint of tensors: {NO_CHECKPOINTS[kind]}")
    return kind


def _kind(beginning: bytes) -> str:
    """`safetensors`, a key of `NO_CHECKPOINTS`, else `pickle`."""
    if not beginning:
        return "empty"
    if beginning[8:9] == b"{":
        return "safetensors"
    if beginning.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF")) or beginning[4:8] == b"ftyp":
        return "a picture or film"
    if beginning.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS"
    if beginning.lstrip()[:1] == b"<":
        return "a web page"
    is_text = all(byte in b"\t\n\r\f" or byte >= 32 for byte in beginning) and not beginning.startswith(b"PK")
    return "text" if is_text else "pickle"
