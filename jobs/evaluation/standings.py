"""Several models on the same films: what each reaches, what it costs, and how far it is from the first."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import pyarrow.compute as pc
from safetensors import safe_open

from jobs import models
from jobs.evaluation import evaluations
from jobs.evaluation.compare import Compared, CompareJob, compare_two
from jobs.evaluation.predictions import Check
from jobs.lake import Lake
from jobs.settings import Settings
from jobs.store import Store
from vis_models.cards import WEIGHTS
from vis_models.config import BadConfig, Config
from vis_models.progress import Progress

FIGURES = ("AP", "AP50", "HOTA", "IDF1", "IDSW")


class Standing(Config):
    """One of them."""

    name: str
    """Of the model, or of the results file."""
    kind: str = ""
    figures: dict[str, float]
    """Some of AP, AP50, HOTA, IDF1 as fractions, and IDSW, the number of identity switches."""
    error: float | None
    """Standard error of AP; None: too few videos."""
    parameters: int | None = None
    """None: the model is not registered here any more."""
    frames_per_s: float | None = None
    """Of one worker, from file to tables, as measured when its plan was made; None: it was not made here."""
    to_first: Compared | None = None
    """AP of the first minus its own, on the same videos; None: it is the first."""


def markdown(found: Sequence[Standing]) -> str:
    """The table, in percent where figures are fractions."""
    head = "| model | kind | AP | AP50 | HOTA | IDF1 | switches | parameters | frames/s | AP minus the first |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for each in found:
        ap = f"{100 * each.figures['AP']:.1f}" + (f" ± {196 * each.error:.1f}" if each.error is not None else "")
        share = [f"{100 * each.figures[name]:.1f}" if name in each.figures else "" for name in ("AP50", "HOTA", "IDF1")]
        switches = f"{each.figures['IDSW']:.0f}" if "IDSW" in each.figures else ""
        size = f"{each.parameters / 1e6:.2f} M" if each.parameters else ""
        speed = f"{each.frames_per_s:.1f}" if each.frames_per_s else ""
        gap = _gap(each.to_first) if each.to_first else ""
        cells = [each.name, each.kind, ap, *share, switches, size, speed, gap]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gap(compared: Compared) -> str:
    """Of the first minus the other, turned round."""
    interval = f" ± {196 * compared.error:.1f}" if compared.error is not None else ""
    return f"{0.0 - 100 * compared.difference:+.1f}{interval} (p {compared.p_value:.3f})"


def standings(
    names: Sequence[str],
    settings: Settings,
    gt: str | None = None,
    check: Check = "error",
    progress: Progress | None = None,
) -> list[Standing]:
    """In the order given; the first is what the others are held against.

    Args:
        names: evaluation ids, or with `gt` results files.
        check: of results files, as in EvaluateJob.

    Raises:
        BadConfig: as `compare_two` does.
    """
    store, found = Store.open(settings), list[Standing]()
    for name in names:
        job = CompareJob(one=names[0], other=name, gt=gt, check=check)
        compared = compare_two(job, settings, progress)
        common = {"error": compared.other.error, "to_first": compared if found else None}
        if gt:
            found.append(Standing(name=Path(name).name, figures={"AP": compared.other.ap}, **common))
        else:
            found.append(_of_evaluation(store, name, common))
    return found


def _of_evaluation(store: Store, name: str, common: dict) -> Standing:
    table, provenance, _ = evaluations.read(store, evaluations.id_of(name))
    every = evaluations.summary(table)
    model, plan = provenance["model_name"], provenance["plan_id"]
    return Standing(
        name=model or name,
        kind=_kind(store, model),
        figures={figure: every[figure] for figure in FIGURES if figure in every},
        parameters=_parameters(store, model) if model else None,
        frames_per_s=_speed(store, plan) if plan else None,
        **common,
    )


def _kind(store: Store, model: str | None) -> str:
    card = models.registered(store).get(model or "")
    return card.kind if card else ""


def _parameters(store: Store, model: str) -> int | None:
    """Of its weights file; running statistics of norms are none."""
    try:
        folder = store.local_copy(models.find(store, model))
    except BadConfig:
        return None
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        counted = (key for key in file.keys() if "running_" not in key and "num_batches" not in key)  # noqa: SIM118
        return sum(prod(file.get_slice(key).get_shape()) for key in counted)


def _speed(store: Store, plan_id: str) -> float | None:
    plan = store.plan(plan_id)
    if plan is None:
        return None
    batches = Lake(store, plan.lake).batches()
    own = batches.filter(pc.equal(batches["plan_id"], plan_id))
    frames, seconds = (pc.sum(own[column]).as_py() or 0 for column in ("frames", "wall_s"))
    return frames / seconds if frames and seconds else None
