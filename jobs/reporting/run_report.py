"""What a training run was like, as one page: curves of every stage, what it learned from, its fields and its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import PositiveInt

from jobs import models
from jobs.archives.video import DecodedFrame
from jobs.reporting.check_page import Sample
from jobs.reporting.page import render
from jobs.reporting.painting import colour_of
from jobs.reporting.strips import Layer, Track, hex_of, picture_of
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, code_version, now
from jobs.training.data_sets import prepare_data, read_sets
from jobs.training.recipes.base import Stage, TrainJob
from jobs.training.run_files import RUNS, SPEC, newest_checkpoint, read_curve, stage_folder
from jobs.training.runs import flat, resumable, run_of
from jobs.training.stages import samples_of
from vis_models import masks
from vis_models.config import BadConfig, Config
from vis_models.data.annotations import Category
from vis_models.progress import Progress
from vis_models.types import Clips

FRAMES_SHOWN = 4
"""Of a sample."""


class RunReportJob(Config):
    """What a page about a training run is made of."""

    run: str
    samples: PositiveInt = 3
    """Training samples of each stage that are drawn."""
    command: str = ""
    """What was typed, for the record."""


class RunReport(Config):
    """Where the page is."""

    uri: str
    figures: dict[str, float]
    """At the end of each finished stage."""


@dataclass(frozen=True)
class Chart:
    """One value over the iterations of a stage, in the unit square: x from 0 to the stage's last iteration."""

    name: str
    last: float
    top: float
    """The value at the upper edge; the lower edge is 0, or the least value where that is below."""
    bottom: float
    path: str
    """SVG: a line, and a dot at its end, which is all there is of a single value."""

    @classmethod
    def of(cls, name: str, points: Sequence[dict[str, float]], iterations: int) -> "Chart":
        values = [(point["iteration"], point[name]) for point in points if name in point]
        top, bottom = max(value for _, value in values), min(0.0, *(value for _, value in values))
        height = (top - bottom) or 1.0
        places = [f"{at / iterations:.4f},{1 - (value - bottom) / height:.4f}" for at, value in values]
        return cls(name, values[-1][1], top, bottom, f"M{' L'.join(places)} L{places[-1]}")


def write_run_report(job: RunReportJob, settings: Settings, progress: Progress | None = None) -> RunReport:
    """Write a new page under `vis/v1/reports/`.

    Raises:
        BadConfig: no run of this name, or one of another version.
    """
    store = Store.open(settings)
    run, trained = run_of(store, job.run), resumable(store, job.run)
    stages = [_stage(store, job.run, trained, stage) for stage in trained.to_train]
    trouble = _draw(trained, stages, job, settings, progress or (lambda *_: None))
    card = models.registered(store).get(job.run)
    page = {
        "run": run,
        "card": card,
        "stages": stages,
        "spec": list(flat(store.read_json(f"{RUNS}/{job.run}/{SPEC}"))),
        "trouble": trouble,
        "command": job.command,
        "created_at": now(),
        "commit": code_version(),
    }
    key = f"{LAYOUT}/reports/{job.run}-{now().replace(':', '').replace('.', '')[:21]}.html"
    store.write_bytes(key, render("run_report.html.j2", page, {"value": _value}).encode())
    return RunReport(uri=store.uri(key), figures=run.metrics)


def _stage(store: Store, run_id: str, job: TrainJob, stage: Stage) -> dict[str, Any]:
    """How far a stage came, and its curves: the loss, its terms, scores on held-out videos, learning rate."""
    folder = stage_folder(run_id, stage)
    points = read_curve(store, folder)
    at = newest_checkpoint(store, folder)
    names = list(dict.fromkeys(name for point in points for name in point if name != "iteration"))
    charts = {name: Chart.of(name, points, stage.iterations) for name in names}
    scored = [name for name in names if any(name in point and "loss" not in point for point in points)]
    scored = scored or [name for name in names if name.startswith(("mask_ap", "val_ap"))]
    return {
        "name": stage.name,
        "part": stage.part,
        "iterations": stage.iterations,
        "done": at[1] if at else 0,
        "scores": [charts[name] for name in scored],
        "loss": charts.get("loss"),
        "terms": [charts[name] for name in names if name not in (*scored, "loss")],
        "samples": [],
        "stage": stage,
    }


def _draw(job: TrainJob, stages: list[dict[str, Any]], wanted: RunReportJob, settings: Settings, tell: Progress) -> str:
    """Adds to each stage the first samples that it learns from. Returns why there are none, if that is so."""
    store = Store.open(settings)
    try:
        sets, _ = read_sets(job, prepare_data(job, settings, tell), store, wanted.run)
        for number, each in enumerate(stages):
            clips = samples_of(job, each["stage"], sets.train, sets.extra)
            for n in range(wanted.samples):
                each["samples"].append(_sample(n, clips[n], sets.train.categories))
            tell("draw samples", number + 1, len(stages), {})
    except BadConfig as error:
        return str(error)
    return ""


def _sample(number: int, clip: Clips, categories: Sequence[Category]) -> Sample:
    """A training sample as the model is given it: cut, scaled and coloured, with its objects drawn in."""
    objects = clip.objects
    _, length, slots = objects.visible.shape
    layers = []
    for slot in range(slots):
        if (label := int(objects.labels[0, slot])) < 0:
            continue
        rles = {
            frame: (masks.encode(objects.masks[0, frame, slot][None].numpy())[0], *objects.masks.shape[-2:])
            for frame in range(length)
            if objects.visible[0, frame, slot]
        }
        colour = colour_of(slot)
        layers.append(Layer(Track(str(slot), hex_of(colour), categories[label].name, None, None), colour, rles))
    frames = range(0, length, max(1, -(-length // FRAMES_SHOWN)))
    pictures = [
        picture_of(DecodedFrame(frame, None, clip.frames[0, frame].permute(1, 2, 0).numpy()), layers)
        for frame in frames
    ]
    height, width = clip.frames.shape[-2:]
    plural = ["" if each == 1 else "s" for each in (length, len(layers))]
    says = f"{length} frame{plural[0]} of {width}x{height} px, {len(layers)} object{plural[1]}"
    return Sample(f"sample {number}", says, pictures, [layer.legend for layer in layers])


def _value(number: float) -> str:
    return f"{number:.3g}"
