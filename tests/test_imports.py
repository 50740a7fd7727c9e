"""Imports go flows -> jobs -> vis_models and never back, and the models stay free of cluster, server and network."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import REPOSITORY

pytestmark = pytest.mark.unit

ROOMS = ("flows", "jobs", "vis_models")
MODELS_NEED = {
    "PIL", "av", "jaxtyping", "numpy", "pyarrow", "pycocotools", "pydantic", "safetensors", "scipy", "torch",
}  # fmt: skip


def imports(room: str) -> Iterator[tuple[Path, str]]:
    """(file, first name of the module) of every import below a room, wherever in the file it stands."""
    for path in sorted((REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                yield path, (node.module or "").split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str):
    above = ROOMS[: ROOMS.index(room)]
    assert [(str(path), name) for path, name in imports(room) if name in above] == []


def test_models_import_nothing_of_cluster_server_or_network():
    allowed = MODELS_NEED | set(sys.stdlib_module_names) | {"vis_models"}
    assert [(str(path), name) for path, name in imports("vis_models") if name not in allowed] == []


def test_jobs_do_not_know_prefect():
    assert [str(path) for path, name in imports("jobs") if name == "prefect"] == []
