"""Imports go flows -> jobs -> vis_models and never back, and the models stay free of cluster, server and network."""

import ast
import re
import subprocess
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


ROOM = re.compile(r"^\| `(\w+)/` \|([\w, ]*)\| .* \|$", re.MULTILINE)
JOBS = {  # the rooms of jobs/ as the README draws them, and which others each uses beside the hall: the files of jobs/
    room: {*filter(None, uses.replace(" ", "").split(","))}
    for room, uses in ROOM.findall((REPOSITORY / "README.md").read_text())
}


def room_of(module: str) -> str:
    """The room of `jobs.ROOM.FILE`; of `jobs.FILE` the hall."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in JOBS else "hall"


def test_a_room_of_the_jobs_uses_the_hall_and_those_that_it_may():
    jobs = REPOSITORY / "jobs"
    assert {path.parent.name for path in jobs.glob("*/__init__.py")} == {*JOBS}
    used: dict[str, set[str]] = {room: set() for room in (*JOBS, "hall")}
    for path in sorted(jobs.rglob("*.py")):
        here = room_of(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jobs":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                used[here] |= {room_of(name) for name in names} - {here}
    assert used.pop("hall") == set()
    for room, others in used.items():
        assert others - {"hall"} <= JOBS[room], f"{room} uses {others}"
    assert {other for others in used.values() for other in others} - {"hall"} == {*JOBS} - {"reporting", "ablation"}


def test_models_import_nothing_of_cluster_server_or_network():
    allowed = MODELS_NEED | set(sys.stdlib_module_names) | {"vis_models"}
    assert [(str(path), name) for path, name in imports("vis_models") if name not in allowed] == []


def test_jobs_do_not_know_prefect():
    assert [str(path) for path, name in imports("jobs") if name == "prefect"] == []


ONLY = """
import pkgutil, sys

ALLOWED = set(sys.stdlib_module_names) | set(sys.argv[1].split())

class Absent:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ALLOWED or name.startswith("_sysconfigdata"):  # the standard library's, by platform
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Absent(finder) for finder in sys.meta_path]
import vis_models

for module in pkgutil.walk_packages(vis_models.__path__, "vis_models."):
    __import__(module.name)
    print(module.name)
for name in sys.argv[2].split():
    __import__(name)
for name in "ray prefect fsspec typer duckdb rich beartype torchvision".split():
    assert name not in sys.modules
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError(f"{name} is not absent: this test proves nothing")
"""
BROUGHT_ALONG = {
    "torch": {"torchgen", "functorch", "typing_extensions"},
    "jaxtyping": {"wadler_lindig"},
    "pydantic": {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"},
}
"""What needs nothing of its own: it comes with one of those that the models need."""


def test_every_module_of_the_models_imports_where_nothing_else_is_installed():
    """Of the whole house only the models, and what measures them on a GPU, must run where there is no cluster."""
    present = (MODELS_NEED - {"scipy"}).union({"vis_models", "jobs", "tests"}, *BROUGHT_ALONG.values())
    alone = "jobs.training.recipes.catalogue jobs.training.descent tests.bench_gpu"
    done = subprocess.run(
        [sys.executable, "-c", ONLY, " ".join(present), alone], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = sorted((REPOSITORY / "vis_models").rglob("*.py"))
    modules = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in files}
    assert set(done.stdout.split()) == modules - {"vis_models"}
