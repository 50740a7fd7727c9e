"""Metrics -> one page with numbers, curves, and the best and worst videos.

The page is one HTML file that can be mailed and archived.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import Field, PositiveInt

from jobs import tables
from jobs.evaluation import evaluations, outcomes, switches
from jobs.evaluation.compare import Compared, CompareJob, compare_two
from jobs.evaluation.evaluate import change
from jobs.evaluation.tracking import MIN_SCORE
from jobs.reporting import query
from jobs.reporting.page import render
from jobs.reporting.strips import Strip, draw_strips
from jobs.results_files import read_json
from jobs.settings import Settings
from jobs.store import LAYOUT, Plan, Store, code_version, now
from vis_models.config import BadConfig, Config
from vis_models.metrics.uncertainty import with_interval
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.progress import Progress

FOLDER = f"{LAYOUT}/reports"
ERRORS_SHOWN = 100
SWITCHES_SHOWN = 10
CHANGES_SHOWN = 10
MEAN = "_class_mean"
STAGES = ("decode", "encode", "step", "rle", "write")


class ReportJob(Config):
    """What a page is made of."""

    plan: str | None = None
    """Plan whose tables are shown; by default that of `evaluation`."""
    evaluation: str | None = None
    """Evaluation whose figures are shown; by default the newest of `plan`, if there is one. Where neither is named: the
    newest evaluation of a model or, if it was published since, the archive that was segmented last."""
    videos: int = Field(3, ge=0)
    """How many of the best and how many of the worst videos."""
    pictures: PositiveInt = 5
    """Frames of each."""
    min_score: float = Field(0.3, ge=0, le=1)
    """Tracks under this video score are not drawn; the figures count them."""
    command: str = ""
    """What was typed, for the record."""


class Report(Config):
    """Where the page is, and what it is about."""

    uri: str
    plan_id: str | None
    evaluation_id: str | None


def write_report(job: ReportJob, settings: Settings, progress: Progress | None = None) -> Report:
    """Write a new page under `vis/v1/reports/`.

    Raises:
        BadConfig: nothing was published or scored, or not this plan or evaluation.
    """
    store = Store.open(settings)
    standing, evaluation_id = _subject(store, job)
    scores = _scores(store, evaluation_id) if evaluation_id else None
    page: dict[str, Any] = {"scores": scores, "created_at": now(), "commit": code_version(), "job": job}
    page["plan"] = _plan(store, standing) if standing else None
    page["provenance"] = _provenance(scores, page["plan"]) | (_server(store, standing) if standing else {})
    truth = _labels(store, scores["provenance"]) if scores else None
    page["labels_drawn"] = truth is not None
    page["groups"] = _groups(store, standing, scores, truth, job, progress) if standing else []
    key = f"{FOLDER}/{evaluations.new_id(page['created_at'])}.html"
    store.write_bytes(key, _render(page).encode())
    return Report(uri=store.uri(key), plan_id=standing.plan_id if standing else None, evaluation_id=evaluation_id)


def _subject(store: Store, job: ReportJob) -> tuple[Plan | None, str | None]:
    """The plan and the evaluation that a page is about; one of them may be missing."""
    if job.evaluation:
        named = evaluations.id_of(job.evaluation)
        scored = evaluations.read(store, named)[1]["plan_id"]
        if job.plan not in (None, scored):
            raise BadConfig(f"evaluation {job.evaluation} scored plan {scored}, not {job.plan}: name one of the two")
        return (tables.choose(store, scored)[0] if scored else None), named
    if not job.plan and (newest := evaluations.find(store)):
        provenance = evaluations.read(store, newest)[1]
        archives = [standing for standing in store.plans() if standing.purpose == "archive"]
        if not archives or archives[-1].created_at < str(provenance["created_at"]):
            scored = provenance["plan_id"]
            return (tables.choose(store, scored)[0] if scored else None), newest
    standing = tables.choose(store, job.plan or "latest")[0]
    return standing, evaluations.find(store, plan_id=standing.plan_id)


# The figures


def _scores(store: Store, evaluation_id: str) -> dict[str, Any]:
    """An evaluation, and how it differs from the one before."""
    rows, provenance, notes = evaluations.read(store, evaluation_id)
    same = {name: provenance[name] for name in ("data_sha256", "rules", "oracle")}
    before_id = evaluations.find(store, before=evaluation_id, **same)
    before = evaluations.read(store, before_id) if before_id else None
    figures = dict.fromkeys(evaluations.FIGURES, -1.0) | evaluations.summary(rows)
    earlier = _by(before[0], "category") if before else {}
    curves = _curves(rows)
    return {
        "provenance": provenance,
        "notes": notes,
        "figures": figures,
        "change": change(figures, evaluations.summary(before[0])) if before else {},
        "before": before[1] if before else None,
        "interval": with_interval(figures["AP"], figures.get("AP_error")),
        "compared": _compared(store, evaluation_id, before_id),
        "changes_shown": CHANGES_SHOWN,
        "curve": curves[None],
        "categories": [
            {"name": name, "figures": found, "change": change(found, earlier.get(name, {})), "curve": curves[name]}
            for name, found in sorted(_by(rows, "category").items(), key=lambda item: (-item[1].get("AP", -1), item[0]))
            if "AP" in found
        ],
        "videos": _by(rows, "video_id"),
        "tracking": _tracking(store, rows, evaluation_id),
    }


def _compared(store: Store, evaluation_id: str, before_id: str | None) -> Compared | None:
    """None where there is nothing before, or it kept no matches."""
    if before_id is None or not outcomes.kept(store, before_id) or not outcomes.kept(store, evaluation_id):
        return None
    return compare_two(CompareJob(one=evaluation_id, other=before_id), store.settings)


def _tracking(store: Store, rows: pa.Table, evaluation_id: str) -> dict[str, Any] | None:
    """What the page says about identities; None for an evaluation of the days before tracking metrics."""
    figures = evaluations.summary(rows)
    if MIN_SCORE not in figures:
        return None
    means = {name.removesuffix(MEAN): value for name, value in figures.items() if name.endswith(MEAN)}
    categories = {name: found for name, found in _by(rows, "category").items() if "HOTA" in found}
    return {
        "min_score": figures[MIN_SCORE],
        "pooled": figures,
        "mean": means,
        "categories": sorted(categories.items(), key=lambda item: (-item[1]["HOTA"], item[0])),
        "switches": switches.worst(store, evaluation_id, SWITCHES_SHOWN),
    }


def _by(rows: pa.Table, column: str) -> dict[str, dict[str, float]]:
    """The figures of each category or video."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows.filter(pc.field(column).is_valid() & pc.field("recall").is_null()).to_pylist():
        found[row[column]][row["metric"]] = row["value"]
    return found


def _curves(rows: pa.Table) -> dict[str | None, str]:
    """Precision over recall at IoU 0.5 of each category (None: mean of all) as an SVG path in the unit square."""
    points: dict[str | None, list[str]] = defaultdict(list)
    points[None] = []
    for row in rows.filter(pc.field("recall").is_valid()).sort_by("recall").to_pylist():
        points[row["category"]].append(f"{row['recall']:.2f},{1 - max(row['value'], 0):.4f}")
    return {category: "M" + " L".join(found) if found else "" for category, found in points.items()}


# The tables


def _plan(store: Store, standing: Plan) -> dict[str, Any]:
    """What was segmented, by which model, how fast, and what went wrong."""
    errors = tables.open(store, standing.plan_id)["errors"]
    busy_s = {stage: standing.seconds.get(stage, 0.0) for stage in STAGES}
    return {
        "standing": standing,
        "card": standing.card,
        "classes": query.run("objects-per-class", store, standing.plan_id).to_pylist(),
        "error_codes": query.run("errors-by-code", store, standing.plan_id).to_pylist(),
        "errors": errors.head(ERRORS_SHOWN, columns=["video_id", "code", "detail"]).to_pylist(),
        "error_count": errors.count_rows(),
        "busy_s": sum(busy_s.values()),
        "shares": {stage: seconds / (sum(busy_s.values()) or 1) for stage, seconds in busy_s.items()},
        "videos": sum(standing.counts.get(status, 0) for status in ("done", "partial", "failed")),
    }


def _provenance(
    scores: Mapping[str, Any] | None, plan: Mapping[str, Any] | None
) -> dict[str, list[tuple[str, str | None]]]:
    """Where the numbers come from: (label, value) under headings; values that nobody recorded are None."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    if plan:
        card, standing, lineage = plan["card"], plan["standing"], plan["standing"].lineage
        found["Model"] = [
            ("name", card["name"]),
            ("weights, sha256", standing.model_sha256),
            ("recipe", card["recipe"]),
            ("training run", card["run_id"]),
            ("training commit", card["commit"]),
            ("training data", card["data"]),
            ("command", card["command"]),
        ]
        found["Segmentation"] = [
            ("archive", standing.archive),
            ("plan", standing.plan_id),
            ("run", lineage.get("run_id")),
            ("config, hash", lineage.get("config_hash")),
            ("config", _settings(lineage.get("config_json"))),
            ("commit", lineage.get("code_version")),
            ("command", lineage.get("command")),
        ]
    if scores:
        origin = scores["provenance"]
        found["Evaluation"] = [
            ("labels", origin["data"]),
            ("labels, sha256", origin["data_sha256"]),
            ("held-out part of split", origin.get("split")),
            ("results", origin["results"]),
            ("results, sha256", origin["results_sha256"]),
            ("rules", origin["rules"]),
            ("evaluation", origin["evaluation_id"]),
            ("commit", origin["commit"]),
            ("command", origin["command"]),
        ]
    return {heading: [(label, value) for label, value in rows if value] for heading, rows in found.items()}


def _server(store: Store, standing: Plan) -> dict[str, list[tuple[str, str | None]]]:
    """What benchmarks' servers said about the model."""
    said: list[tuple[str, str | None]] = [
        (_words(figures), f"{origin['data']}, recorded {origin['created_at']}")
        for origin, figures in evaluations.server_scores(store, standing.model_sha256)
    ]
    return {"The benchmark's server": said} if said else {}


def _words(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _settings(config_json: str | None) -> str | None:
    """What is set in a config, in short."""
    config = json.loads(config_json or "{}")
    skipped = ("archive", "model", "command")
    return ", ".join(f"{key} {value}" for key, value in config.items() if key not in skipped and value is not None)


# The videos


def _groups(
    store: Store,
    standing: Plan,
    scores: Mapping[str, Any] | None,
    truth: GroundTruth | None,
    job: ReportJob,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Videos under headings, each a strip and its own figures."""
    opened = tables.open(store, standing.plan_id)
    chosen = _choose(opened["videos"], scores["videos"] if scores else None, job.videos)
    total = sum(len(videos) for videos in chosen.values())
    groups, done = [], 0
    for heading, videos in chosen.items():
        strips: list[tuple[Strip, Mapping[str, float] | None]] = []
        for strip in draw_strips(
            store, standing.plan_id, opened, videos, truth, pictures=job.pictures, min_score=job.min_score
        ):
            strips.append((strip, scores["videos"][strip.video_id] if scores else None))
            done += 1
            if progress:
                progress("draw videos", done, total, {})
        groups.append({"heading": heading, "strips": strips})
    return groups


def _choose(
    videos: ds.Dataset, scores: Mapping[str, Mapping[str, float]] | None, count: int
) -> dict[str, Sequence[str]]:
    """Heading -> ids of videos that have a frame."""
    rows = videos.to_table(columns=["video_id", "n_tracks"], filter=pc.field("n_frames") > 0).to_pylist()
    if scores is None:
        ranked = sorted(rows, key=lambda row: (-row["n_tracks"], row["video_id"]))
        return {"Videos with the most objects": [row["video_id"] for row in ranked[: 2 * count]]} if ranked else {}
    scored = [row["video_id"] for row in rows if scores.get(row["video_id"], {}).get("AP", -1) >= 0]
    ranked = sorted(scored, key=lambda video: (*(-scores[video][name] for name in ("AP", "AP50", "objects")), video))
    best, rest = ranked[:count], ranked[count:]
    worst = rest[len(rest) - count :][::-1] if len(rest) > count else rest[::-1]
    return {heading: chosen for heading, chosen in {"Best videos": best, "Worst videos": worst}.items() if chosen}


def _labels(store: Store, provenance: evaluations.Provenance) -> GroundTruth | None:
    """The labels that were scored against, if they are still what they were."""
    try:
        content, digest = read_json(store, str(provenance["data"]))
    except BadConfig:
        return None
    if digest != provenance["data_sha256"] or not content.get("annotations"):  # what a server scored has no labels
        return None
    return GroundTruth(content, str(provenance["data"]))


# The page


def _render(page: Mapping[str, Any]) -> str:
    filters = {
        "figure": _figure,
        "signed": _signed,
        "signed_figure": _signed_figure,
        "pm": _plus_minus,
        "with_error": _with_error,
    }
    return render("report.html.j2", page, filters)


def _figure(value: float) -> str:
    return f"{value:.3f}" if value >= 0 else "–"


def _signed(value: float) -> str:
    return "=" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", "−")


def _plus_minus(text: str) -> str:
    return text.replace(" +- ", " ± ")


def _with_error(value: float, error: float | None) -> str:
    """A difference and its 95 % interval."""
    return _signed(value) if error is None else f"{_signed(value)} ± {1.96 * error:.3f}"


def _signed_figure(value: float) -> str:
    """Of a figure that may be negative."""
    return f"{value:.3f}".replace("-", "−")
