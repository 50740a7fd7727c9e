"""Files of tensors: safetensors, what torch writes, pickles of nothing but numpy's arrays. No code in them is run."""

import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vis_models.cards import kind_of_weights, weights_of
from vis_models.config import BadConfig


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, wrappers such as `state_dict` and `module.` taken off.

    Raises:
        BadConfig: no such file, or one that holds something else, with what it is.
    """
    path = weights_of(path)
    with path.open("rb") as file:
        beginning = file.read(64)
    kind = kind_of_weights(str(path), beginning)
    content: Any
    try:
        if kind == "safetensors":
            content = load_file(path)
        elif (content := read_arrays(path)) is None:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways; none of them may run code
        if found := re.search(r"GLOBAL (\S+) was not an allowed global", str(error)):
            raise BadConfig(
                f"{path} cannot be read as a checkpoint of tensors: it was pickled with code ({found[1]}), which is "
                "never run here. Save its tensors alone, where it was made: torch.save(model.state_dict(), PATH)."
            ) from None
        if "Weights only load failed" in str(error):  # its text advises to run the code that is in the file
            raise BadConfig(
                f"{path} cannot be read as a checkpoint of tensors: a pickle of something else, and code in it is "
                "never run here. Save tensors alone, where it was made: torch.save(model.state_dict(), PATH)."
            ) from None
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BadConfig(
            f"{path} cannot be read as a checkpoint of tensors: {why}. It may be cut off: copy it again."
        ) from None
    for wrapper in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise BadConfig(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors by name")
    tensors = {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(content)[:3]) or "nothing"
        raise BadConfig(f"{path} holds no tensors, only {keys}: save the model's state_dict()")
    require_finite(path, tensors)
    return tensors


class _ArraysOnly(pickle.Unpickler):
    """Of all that a pickle can ask for, what an array of numbers is made of."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
        ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict"),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(path: Path) -> Any:
    """What a plain pickle of numpy arrays holds, as tensors: the files of detectron2's model zoo. None: it is none."""
    with path.open("rb") as file:
        if file.read(2) == b"PK":  # as torch writes since its version 1.6
            return None
        file.seek(0)
        try:
            content = _ArraysOnly(file, encoding="latin1").load()
        except Exception:  # damaged, or another kind of file: `torch.load` says which
            return None
    return _tensors_of(content) if isinstance(content, dict) else None


def _tensors_of(content: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: _tensors_of(value)
        if isinstance(value, dict)
        else torch.from_numpy(value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        else value
        for key, value in content.items()
    }


def require_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    broken = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise BadConfig(
            f"{path}: {len(broken)} of {len(tensors)} tensors hold numbers that are none, such as {broken[0]}: "
            "a training that failed, or a damaged file. Take an earlier checkpoint, or copy it again."
        )
