"""Tables -> metrics: score the published tables of a plan, or any results file, against labels.

Streams: the masks of one video are in memory at a time. What is written is described in `evaluations.py`.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import Field

from jobs import evaluations, oracles, tables
from jobs.settings import Settings
from jobs.store import Snapshot, Store, code_version, now
from jobs.tracking import TrackingScore, write_switches
from vis_models.metrics.average_precision import RULES, accumulate
from vis_models.metrics.track_iou import MaskTrack
from vis_models.metrics.track_matching import ANY, Matches, Prediction, match_video, mean_area_px
from vis_models.metrics.youtube_vis import GroundTruth, defects, results_by_video
from vis_models.types import BadConfig, Config

MASK_COLUMNS = ["video_id", "track_id", "frame_idx", "area_px", "height_px", "width_px", "rle"]
Progress = Callable[[str, int, int, dict[str, Any]], None]


class EvaluateJob(Config):
    """What is scored against what."""

    data: str
    """YouTube-VIS JSON with labels (plain or .gz), or a folder that holds it as `val.json`."""
    plan: str | None = None
    """Plan whose published tables are scored; by default the newest one made from `data`."""
    results: str | None = None
    """A results.json (plain or .gz) to score instead of tables."""
    class_agnostic: bool = False
    """Ignore the category of objects and predictions."""
    tracking_min_score: float = Field(0.3, ge=0, le=1)
    """Tracks under this video score take no part in HOTA, MOTA and IDF1, which know no scores. AP counts them all."""
    oracle: oracles.Oracle | None = None
    """Score the tracks with one thing made perfect, see `oracles.MEANS`."""
    command: str = ""
    """What was typed, for the record."""


class Evaluation(Config):
    """The outcome: where it was written, its figures, and those of the evaluation of this data set before it."""

    evaluation_id: str
    uri: str
    figures: dict[str, float]
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl as fractions; -1: nothing to find."""
    tracking: dict[str, float]
    """HOTA, DetA, AssA, DetRe, DetPr, AssRe, AssPr, LocA, OWTA, MOTA, MOTP, IDF1, IDR, IDP as fractions (MOTA may be
    negative), FP_per_frame, the counts IDSW, Frag, MT, PT, ML, all pooled over the categories; `..._class_mean`;
    `tracking_min_score`."""
    switches_uri: str
    """A Parquet file with a row for each identity switch."""
    before_id: str | None
    """None: this is the first evaluation of the data set."""
    change: dict[str, float]
    """Of each figure since then."""
    notes: tuple[str, ...]
    """What a reader must know to read the figures right."""


@dataclass(frozen=True)
class Predictions:
    """What is scored, and where it came from."""

    provenance: evaluations.Provenance
    by_video: Iterator[tuple[int, list[Prediction]]]
    notes: tuple[str, ...] = ()


def evaluate(job: EvaluateJob, settings: Settings, progress: Progress | None = None) -> Evaluation:
    """Score, write one file, compare with the evaluation before.

    Raises:
        BadConfig: no labels, no such plan, or predictions that do not belong to the data set.
    """
    store = Store.open(settings)
    path = data_file(store, job.data)
    content, digest = read_json(store, path)
    truth = GroundTruth(content, path)
    _refuse(defects(truth), path)
    predictions = _from_results(store, job.results, truth) if job.results else _from_plan(store, job.plan, path, truth)
    tracking = TrackingScore(truth, job.tracking_min_score, job.class_agnostic)
    if job.oracle:
        predictions = _with_oracle(predictions, job.oracle, truth, job.tracking_min_score)
    matches = _match(truth, predictions.by_video, tracking, progress)
    score = accumulate([matches[v] for v in truth.video_ids()], [ANY] if job.class_agnostic else [*truth.categories])
    created_at, rules = now(), RULES + (", class-agnostic" if job.class_agnostic else "")
    rules += f", {job.oracle} oracle" if job.oracle else ""
    evaluation_id = evaluations.new_id(created_at)
    provenance = dict.fromkeys(evaluations.PROVENANCE) | {
        "evaluation_id": evaluation_id,
        "created_at": created_at,
        "data": path,
        "data_sha256": digest,
        "rules": rules,
        "commit": code_version(),
        "command": job.command or None,
        **predictions.provenance,
    }
    rows = evaluations.rows(score, {} if job.class_agnostic else truth.categories, matches)
    switches_uri = write_switches(store, evaluation_id, tracking.switches)
    uri = evaluations.write(store, provenance, predictions.notes, chain(rows, tracking.rows()))
    before = evaluations.find(store, before=evaluation_id, data_sha256=digest, rules=rules)
    figures = score.summary()
    return Evaluation(
        evaluation_id=evaluation_id,
        uri=uri,
        figures=figures,
        tracking=tracking.figures(),
        switches_uri=switches_uri,
        before_id=before,
        change=change(figures, evaluations.summary(evaluations.read(store, before)[0])) if before else {},
        notes=predictions.notes,
    )


def _with_oracle(found: Predictions, oracle: oracles.Oracle, truth: GroundTruth, min_score: float) -> Predictions:
    note = f"{oracle} oracle, no score of a model: {oracles.MEANS[oracle]}"
    return replace(found, by_video=oracles.apply(oracle, truth, found.by_video, min_score), notes=(note, *found.notes))


def change(figures: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was gained, of the figures that both have."""
    return {name: value - before[name] for name, value in figures.items() if value >= 0 and before.get(name, -1) >= 0}


def _match(
    truth: GroundTruth,
    predictions: Iterator[tuple[int, list[Prediction]]],
    tracking: TrackingScore,
    progress: Progress | None,
) -> dict[int, dict[int, Matches]]:
    """The matches of every video; videos without predictions have them too, all their objects are missed.

    `tracking` counts the same videos.
    """
    categories, matches = [*truth.categories], {}
    for video, tracks in predictions:
        truths = truth.truths(video)
        matches[video] = match_video(tracks, truths, categories, tracking.class_agnostic)
        tracking.add(video, tracks, truths)
        if progress:
            progress("evaluate", len(matches), len(truth.videos), {})
    for video in set(truth.videos) - set(matches):
        truths = truth.truths(video)
        matches[video] = match_video([], truths, categories, tracking.class_agnostic)
        tracking.add(video, [], truths)
    return matches


# Where the labels and predictions come from


def data_file(store: Store, data: str) -> str:
    """The file with the labels: `data` itself, or `val.json` in it. Raises BadConfig: a folder without one."""
    fs, path = store.open_source(data)
    with store.guard(data):
        if not fs.isdir(path):
            return data
        found = [name.rsplit("/", 1)[-1] for name in fs.ls(path, detail=False)]
    if "val.json" not in found:
        known = ", ".join(sorted(name for name in found if ".json" in name)) or "no JSON at all"
        raise BadConfig(f"{data} holds no val.json but {known}: name the file with the labels")
    return f"{data.rstrip('/')}/val.json"


def read_json(store: Store, uri: str) -> tuple[Any, str]:
    """(content, sha256 of the file) of a JSON, plain or gzip. Raises BadConfig: not there, or not JSON."""
    fs, path = store.open_source(uri)
    try:
        with store.guard(uri):
            raw = fs.cat_file(path)
        return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw), hashlib.sha256(raw).hexdigest()
    except FileNotFoundError:
        raise BadConfig(f"{uri} does not exist, expected a JSON file (plain or .gz)") from None
    except (ValueError, EOFError, OSError) as error:
        raise BadConfig(f"{uri} is not a whole JSON file: {error}. Copy it again.") from error


def _refuse(found: Sequence[str], what: str) -> None:
    if found:
        first = "\n  ".join(found[:5])
        raise BadConfig(
            f"{what} has {len(found)} defects that would make the score meaningless, the first are\n  {first}\n"
            "Mend the file; nothing was scored."
        )


def _from_results(store: Store, uri: str, truth: GroundTruth) -> Predictions:
    results, digest = read_json(store, uri)
    if not isinstance(results, list):
        raise BadConfig(f"{uri} holds a {type(results).__name__}, expected a list with one entry per track")
    grouped = results_by_video(truth, results, uri)
    _refuse(defects(truth, results), uri)
    by_video = ((video, truth.predictions(grouped[video])) for video in truth.video_ids() if video in grouped)
    return Predictions({"results": uri, "results_sha256": digest}, by_video)


def _from_plan(store: Store, plan_id: str | None, path: str, truth: GroundTruth) -> Predictions:
    snapshot = tables.choose(store, plan_id)[0] if plan_id else _newest_plan(store, path)
    lineage = snapshot.lineage
    provenance: evaluations.Provenance = {name: lineage.get(name) for name in ("run_id", "model_name", "config_hash")}
    provenance |= {"plan_id": snapshot.plan_id, "model_sha256": snapshot.model_sha256}
    provenance |= {"tables_commit": lineage.get("code_version")}
    names = {name: id_ for id_, name in truth.categories.items()}
    opened = tables.open(store, snapshot.plan_id)
    notes = (*_check_videos(truth, opened["videos"]), *_check_model(names, snapshot, path))
    return Predictions(provenance, _read_predictions(truth, opened, names), notes)


def _newest_plan(store: Store, path: str) -> Snapshot:
    here = store.open_source(path)[1]
    made = [snapshot for snapshot in store.snapshots() if store.open_source(snapshot.archive)[1] == here]
    if not made:
        raise BadConfig(
            f"no published plan was made from {path}: run `vis segment {path} --min-score 0` first, or name a plan"
        )
    return made[-1]


def _check_model(names: Mapping[str, int], snapshot: Snapshot, path: str) -> Iterator[str]:
    """Notes about what the model could not give. Raises BadConfig: model and labels have no category in common."""
    known = set(tables.categories(snapshot).values())
    if not known & set(names):
        raise BadConfig(
            f"plan {snapshot.plan_id} and {path} share no category: the model knows {sorted(known)[:8]}, "
            f"the labels {sorted(names)[:8]}. Names must be equal; was the model trained on another data set?"
        )
    if missing := sorted(set(names) - known):
        yield f"the model does not know {len(missing)} categories of the labels: {', '.join(missing[:5])}"
    min_score = json.loads(snapshot.lineage.get("config_json", "{}")).get("min_score", 0)
    if min_score > 0:
        yield f"tracks under a score of {min_score} were not written, AP may be lower than with `--min-score 0`"
    if unlabelled := sorted(known - set(names)):
        yield f"tracks of {len(unlabelled)} categories without labels are left out: {', '.join(unlabelled[:5])}"


def _check_videos(truth: GroundTruth, videos: ds.Dataset) -> Iterator[str]:
    """Notes about videos that are not whole. Raises BadConfig: videos of another data set, size or length."""
    rows = videos.to_table(columns=["video_id", "status", "n_frames", "height", "width"]).to_pylist()
    names = {str(video): video for video in truth.videos}
    strangers = sorted(row["video_id"] for row in rows if row["video_id"] not in names)
    if strangers:
        raise BadConfig(
            f"{len(strangers)} videos of the plan are not in {truth.name}, the first are {strangers[:5]}; expected ids "
            f"such as {truth.video_ids()[:3]}. Segment the JSON file itself, not its folder of frames."
        )
    for row in rows:
        video, length = truth.videos[names[row["video_id"]]], truth.length(names[row["video_id"]])
        expected, got = (video["height"], video["width"], length), (row["height"], row["width"], row["n_frames"])
        if row["status"] == "done" and got != expected:
            raise BadConfig(
                f"video {row['video_id']} of the plan has (height, width, frames) {got}, {truth.name} says {expected}. "
                "Was the plan made from another data set?"
            )
    if hurt := [row["video_id"] for row in rows if row["status"] != "done"]:
        yield f"{len(hurt)} videos were not read to their end, what they lack counts as missed: {', '.join(hurt[:5])}"
    if absent := sorted(names.keys() - {row["video_id"] for row in rows}):
        yield f"{len(absent)} videos are not in the plan, their objects count as missed: {', '.join(absent[:5])}"


def _read_predictions(
    truth: GroundTruth, opened: Mapping[str, ds.Dataset], names: Mapping[str, int]
) -> Iterator[tuple[int, list[Prediction]]]:
    """The predicted tracks, video by video, in the order of the files."""
    tracks: dict[tuple[str, int], tuple[int, float]] = {}
    columns = ["video_id", "track_id", "category", "score"]
    for row in opened["tracks"].to_table(columns=columns, filter=pc.field("category").isin([*names])).to_pylist():
        tracks[row["video_id"], row["track_id"]] = names[row["category"]], row["score"]
    for video_id, masks in by_video(opened["masks"]):
        found = []
        for track_id, track in mask_tracks(masks, truth.length(int(video_id))).items():
            if (video_id, track_id) in tracks:
                category, score = tracks[video_id, track_id]
                area = mean_area_px(track.areas_px)
                found.append(Prediction(track.rles, track.areas_px, category, area, score, track_id))
        yield int(video_id), found


def mask_tracks(masks: pa.Table, frames: int) -> dict[int, MaskTrack]:
    """The tracks of one video from its rows of the table masks, sorted by track; `frames`: length of the video."""
    tracks = {}
    for track_id, rows in groupby(masks.to_pylist(), key=lambda row: row["track_id"]):
        rles: list[dict[str, Any] | None] = [None] * frames
        areas = np.zeros(frames)
        for row in rows:
            rles[row["frame_idx"]] = {"size": [row["height_px"], row["width_px"]], "counts": row["rle"]}
            areas[row["frame_idx"]] = row["area_px"]
        tracks[track_id] = MaskTrack(rles, areas)
    return tracks


def by_video(masks: ds.Dataset) -> Iterator[tuple[str, pa.Table]]:
    """The rows of the table masks, one video at a time: files are sorted by video, and no video is in two of them."""
    waiting: list[pa.RecordBatch] = []
    for batch in masks.to_batches(columns=MASK_COLUMNS, batch_size=16_384, batch_readahead=1, fragment_readahead=1):
        runs = pc.run_end_encode(batch["video_id"])
        ends = runs.run_ends.to_pylist()
        for start, end in zip([0, *ends], ends, strict=False):
            if waiting and waiting[0]["video_id"][0] != batch["video_id"][start]:
                yield waiting[0]["video_id"][0].as_py(), pa.Table.from_batches(waiting)
                waiting = []
            waiting.append(batch.slice(start, end - start))
    if waiting:
        yield waiting[0]["video_id"][0].as_py(), pa.Table.from_batches(waiting)
