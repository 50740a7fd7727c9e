"""All recipes by name, and what is known of each: what its paper reports, what was measured here.

A recipe is a function that returns everything that decides the result; its docstring is what `vis models --recipes`
shows. Those of a paper stand in a file named as the model; recipes of other packages are found by the entry point
`vislake.recipes`. A variant is a recipe rebuilt with fields changed: `vis train --set stages.0.iterations=500`.
"""

import csv
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from jobs.training.recipes import idol, mask_prop, masktrack_rcnn, rgnn, vis_stg
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.changes import changed
from vis_models.config import BadConfig, nearest
from vis_models.idol.rows import ROWS as IDOL_ROWS
from vis_models.mask_prop.rows import ROWS as MASKPROP_ROWS
from vis_models.masktrack_rcnn.rows import ROWS as MASKTRACK_ROWS
from vis_models.rgnn.rows import ROWS as RGNN_ROWS
from vis_models.rows import BASE, Row
from vis_models.vis_stg.rows import ROWS as VISSTG_ROWS

Recipe = Callable[[], TrainJob]

RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe for module in (rgnn, masktrack_rcnn, idol, vis_stg, mask_prop) for recipe in module.RECIPES
}
RECIPES |= {recipe.__name__: recipe for recipe in rgnn.ROW_RECIPES}
_ROWS = {recipe.__name__ for recipe in rgnn.ROW_RECIPES}
DEFAULT = rgnn.rgnn_r18_world_easy.__name__
"""What is trained when nothing is said."""
DEFAULTS = (
    DEFAULT,
    masktrack_rcnn.masktrack_r18_world_easy.__name__,
    idol.idol_r18_world_easy.__name__,
    mask_prop.maskprop_r18_world_easy.__name__,
    vis_stg.visstg_r18_world_easy.__name__,
)
"""What each deployment trains when nothing is said to it (infra/prefect.yaml)."""
PUBLISHED = {
    "masktrack_r50_ytvis2019": 30.3,
    "masktrack_r101_ytvis2019": 31.8,
    "masktrack_r50_ytvis2021": 28.7,
    "masktrack_r50_ovis": 10.8,
    "idol_r50_ytvis2019": 46.4,
    "idol_r101_ytvis2019": 48.2,
    "idol_swinl_ytvis2019": 61.5,
    "idol_r50_ytvis2021": 43.9,
    "idol_r50_ovis": 30.2,
    "maskprop_r50_ytvis2019": 40.0,
    "maskprop_r101_ytvis2019": 42.5,
    "visstg_r50_ytvis2019": 36.5,
}
"""AP in percent of recipes whose model has no table of rows; where each comes from stands in its docstring."""
ROWS: dict[str, Mapping[str, Row]] = {
    "rgnn": RGNN_ROWS,
    "masktrack_rcnn": MASKTRACK_ROWS,
    "idol": IDOL_ROWS,
    "mask_prop": MASKPROP_ROWS,
    "vis_stg": VISSTG_ROWS,
}
"""The tables of each model's paper."""
HARD_WORLDS = {
    "rgnn": "rgnn_r18_world_hard",
    "masktrack_rcnn": "masktrack_r18_world_hard",
    "idol": "idol_r18_world_hard",
    "vis_stg": "visstg_r18_world_hard",
    "mask_prop": "maskprop_r18_world_hard",
}
MEASURED = Path(__file__).parent.with_name("measured.csv")
"""What was measured with a recipe: figures, data, command and commit, one line per run as `vis ablate` writes them."""


def build(recipe: str, changes: dict[str, Any] | None = None) -> TrainJob:
    """A recipe with fields changed, by dotted path: `{"stages.0.iterations": 500}`.

    Raises:
        BadConfig: unknown recipe, unknown field, or a value out of range.
    """
    return changed(_find(recipe)(), changes or {})


def every_recipe() -> dict[str, Recipe]:
    """Ours, then those of other packages."""
    return RECIPES | {entry.name: entry.load() for entry in entry_points(group="vislake.recipes")}


def _find(name: str) -> Recipe:
    known = RECIPES if name in RECIPES else every_recipe()
    if name in known:
        return known[name]
    meant = nearest(name, known)
    whole = ", ".join(each for each in known if each not in _ROWS)
    hint = f"did you mean {meant}" if meant else f"expected one of: {whole}"
    raise BadConfig(f"unknown recipe {name!r}, {hint}; `vis models --recipes` lists all")


def hard_world(model: str) -> str:
    """The recipe of the drawn world in which the rows of a model are compared. Raises BadConfig: it has none."""
    if model not in ROWS:
        raise BadConfig(f"there is no table of rows of a model of the kind {model!r}; of {', '.join(ROWS)} there is")
    return HARD_WORLDS[model]


def rows_of(recipe: str) -> Mapping[str, Row]:
    """The tables of the paper that a recipe is of. Raises BadConfig: unknown recipe, or a paper without tables here."""
    model = build(recipe).model
    if model not in ROWS:
        raise BadConfig(f"the recipe {recipe} is of {model}, whose paper has no table here; {', '.join(ROWS)} have")
    return ROWS[model]


def in_one_table(recipe: str) -> tuple[str, ...]:
    """The rows that can share the weights of one model."""
    return tuple(name for name, row in rows_of(recipe).items() if not _own_weights(recipe, row))


def trained_anew(recipe: str) -> tuple[str, ...]:
    """The fields by which a paper's rows differ in their weights."""
    return tuple(dict.fromkeys(path for row in rows_of(recipe).values() for path in _anew(recipe, row)))


def _anew(recipe: str, row: Row) -> dict[str, Any]:
    """What a row changes of the detector, or of what its weights are trained for."""
    begins = build(recipe).config.trained_anew
    return {path: value for path, value in row.changes.items() if path.startswith(begins)}


def _own_weights(recipe: str, row: Row) -> bool:
    """Whether no weights of another row are those of this one."""
    return bool(row.model or _anew(recipe, row))


def how_trained(recipe: str, name: str) -> str:
    """How to come by the weights of a row that has its own."""
    if kind := rows_of(recipe)[name].model:
        return _how_its_head_is_trained(recipe, kind)
    sets = "".join(f" --set config.{path}={value}" for path, value in _anew(recipe, rows_of(recipe)[name]).items())
    given = "" if rows_of(recipe) is RGNN_ROWS else ", and given as --other MODEL"
    return f"It is trained whole: vis train --recipe {recipe}{sets}{given}"


def _how_its_head_is_trained(recipe: str, kind: str) -> str:
    """Of a row that another kind of model plays: by the recipe of that kind for the same data, if we have one."""
    ours, theirs = (HARD_WORLDS[each].partition("_")[0] for each in (build(recipe).model, kind))
    sibling = named if (named := recipe.replace(ours, theirs, 1)) in RECIPES else HARD_WORLDS[kind]
    wanted, own = (build(each).config.seen for each in (recipe, sibling))
    sets = "".join(f" --set config.detector.{name}={value}" for name, value in wanted.items() if own[name] != value)
    return (
        f"Its head is trained over the same detector: vis train --recipe {sibling} --init DETECTOR{sets} "
        "--set stages.0.part=head, and given as --other MODEL"
    )


def with_row(recipe: str, name: str, changes: dict[str, Any] | None = None, apart: bool = False) -> TrainJob:
    """A recipe with one row of its paper's tables that shares its weights, and more fields changed as in `build`.

    Args:
        apart: the row may have weights of its own.

    Raises:
        BadConfig: unknown recipe or row, or a row with weights of its own.
    """
    rows = rows_of(recipe)
    if name not in rows:
        meant = nearest(name, rows)
        hint = f"did you mean {meant}?" if meant else f"expected one of: {', '.join(rows)}"
        raise BadConfig(f"unknown row {name!r} of the paper's tables, {hint}")
    if _own_weights(recipe, rows[name]) and not apart:
        raise BadConfig(
            f"the row {name!r} changes the weights themselves, and all rows of an ablation share those of one model. "
            f"{how_trained(recipe, name)}"
        )
    switches = {f"config.{path}": value for path, value in rows[name].changes.items()}
    renamed = {"recipe": f"{recipe}.{name}"} if name != BASE else {}
    return build(recipe, switches | renamed | (changes or {}))


def measured(recipe: str) -> float | None:
    """Mean AP over the runs of a recipe that were measured, as a fraction; None: there was none."""
    with MEASURED.open(newline="") as file:
        found = [float(line["ap"]) for line in csv.DictReader(file) if line["recipe"] == recipe]
    return sum(found) / len(found) if found else None


def published_ap(recipe: str) -> float | None:
    """What the paper reports, in percent; None where it says nothing, or that training diverged."""
    if not recipe.startswith("rgnn_"):
        return PUBLISHED.get(recipe)
    if "r101" in recipe:
        return RGNN_ROWS["resnet101"].published_ap
    base, _, row = recipe.partition(".")
    return RGNN_ROWS[row or BASE].published_ap if row or base == "rgnn_r50_ytvis2019" else None
