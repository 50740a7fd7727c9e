"""What is scored and against what: labels and predictions, from files and from published tables.

Of published tables the masks of one video are in memory at a time. A JSON is read whole, for nobody says in what order
its tracks come; a video's are forgotten once they are scored.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from jobs import tables
from jobs.evaluation import evaluations
from jobs.results_files import read_json, read_results
from jobs.store import Plan, Store
from vis_models.config import BadConfig
from vis_models.data.categories import counterparts
from vis_models.data.dialects import VideoId
from vis_models.data.holdout import HoldOut
from vis_models.metrics.mask_tracks import MaskTrack, Prediction, mean_area_px
from vis_models.metrics.youtube_vis import (
    GroundTruth,
    Listing,
    as_tracks,
    defects,
    defects_of_results,
    results_by_video,
)

if TYPE_CHECKING:
    import pyarrow.dataset as ds

VIDEO_COLUMNS = ["video_id", "status", "n_frames", "height", "width"]
MASK_COLUMNS = ["video_id", "track_id", "frame_idx", "area_px", "height_px", "width_px", "rle"]
Check = Literal["error", "warn"]


@dataclass(frozen=True)
class Predictions:
    """What is scored, and where it came from."""

    provenance: evaluations.Provenance
    by_video: Iterator[tuple[VideoId, list[Prediction]]]
    notes: tuple[str, ...] = ()
    defective: bool = False
    """Has entries that `check` let pass."""


def data_file(store: Store, data: str, holdout: HoldOut | None = None) -> str:
    """The file with the labels: `data` itself, or `val.json` or `gt*.json` in it; `train.json` to hold out of.

    Raises:
        BadConfig: not there, or not to be found in the folder.
    """
    found = _files(store, data)
    if found is None:
        fs, path = store.open_source(data)
        with store.guard(data):
            if not fs.exists(path):
                raise BadConfig(
                    f"{data} does not exist, expected a YouTube-VIS JSON with labels or a folder that holds it"
                )
        return data
    usual = "train.json" if holdout and "train.json" in found else "val.json"
    named = [name for name in found if name == usual] or [
        name for name in found if name.startswith("gt") and name.endswith((".json", ".json.gz"))
    ]
    if len(named) != 1:
        known = ", ".join(sorted(name for name in found if ".json" in name)) or "no JSON at all"
        raise BadConfig(f"{data} holds no {usual} but {known}: name the file with the labels")
    return f"{data.rstrip('/')}/{named[0]}"


def results_file(store: Store, data: str) -> str | None:
    """The `results.json` (plain or .gz) beside the labels where `data` is a folder that holds one."""
    named = [name for name in _files(store, data) or () if name in ("results.json", "results.json.gz")]
    return f"{data.rstrip('/')}/{named[0]}" if named else None


def _files(store: Store, folder: str) -> list[str] | None:
    """Names of what is in a folder; None: it is none."""
    fs, path = store.open_source(folder)
    with store.guard(folder):
        return [name.rsplit("/", 1)[-1] for name in fs.ls(path, detail=False)] if fs.isdir(path) else None


def labels(
    store: Store, path: str, check: Check, holdout: HoldOut | None = None
) -> tuple[GroundTruth, str, tuple[str, ...]]:
    """(labels, sha256 of the file, notes for the reader). Raises BadConfig: no labels, or not sound ones."""
    content, digest = read_json(store, path)
    truth = GroundTruth(content, path)
    notes = truth.notes
    if holdout:
        truth.hold_out(holdout)
        notes += (
            f"only the {len(truth.videos)} of {len(truth.content['videos'])} videos that rule {holdout} holds out are "
            f"scored: split {truth.split}",
        )
    said = _checked(defects(truth), path, check)
    truth.defective = bool(said)
    return truth, digest, (*notes, *said)


def _checked(found: Sequence[str], what: str, check: Check) -> tuple[str, ...]:
    """Notes about defects. Raises BadConfig: there are some, and `check` forbids them."""
    if not found:
        return ()
    count = f"{len(found)} defect{'s' if len(found) > 1 else ''}"
    first = [*found[:5], f"and {len(found) - 5} more"] if len(found) > 5 else found
    if check == "error":
        lines = "\n  ".join(first)
        raise BadConfig(
            f"{what} has {count} that would make the score meaningless:\n  {lines}\n"
            "Mend the file, or score it as the reference does with `--check warn`; nothing was scored."
        )
    return (f"{what} has {count} and was scored as the reference scores it:", *first)


def from_results(store: Store, uri: str, truth: GroundTruth, check: Check) -> Predictions:
    """The tracks of a results file. Raises BadConfig: it does not belong to the labels, or is not sound."""
    entries, digest = read_results(store, uri)
    results, read_as = as_tracks(truth, entries, uri)
    del entries
    grouped = results_by_video(truth, results, uri)
    defects_said = _checked(defects_of_results(truth, results), uri, check)
    notes = (*read_as, *defects_said, *_strange_scores(results))
    del results  # from here on a video is forgotten once it is scored
    by_video = ((video, truth.predictions(grouped.pop(video), uri)) for video in truth.video_ids() if video in grouped)
    return Predictions({"results": uri, "results_sha256": digest}, by_video, notes, bool(defects_said))


def _strange_scores(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    low, high = (end((entry["score"] for entry in results), default=0) for end in (min, max))
    if low < 0 or high > 1:
        yield (
            f"scores go from {low:.4g} to {high:.4g}: AP only ranks them, but the least score of the tracking metrics "
            "means something between 0 and 1"
        )


def from_plan(store: Store, plan_id: str | None, path: str, truth: Listing, given_objects: bool = False) -> Predictions:
    """The tracks of a plan, by default the newest one made from `path`.

    Args:
        given_objects: the tracker was given the objects of the labels (image oracle).

    Raises:
        BadConfig: no such plan, of other videos, or made from other objects.
    """
    standing = tables.choose(store, plan_id)[0] if plan_id else _newest_plan(store, path)
    if given_objects != bool(standing.labels):
        raise BadConfig(
            f"plan {standing.plan_id} holds no predictions, its tracker was given the labelled objects: score it with "
            "`--oracle image`"
            if standing.labels
            else f"plan {standing.plan_id} is made of detections, the image oracle runs the tracker on the labelled "
            "objects: name the model with --model instead"
        )
    lineage = standing.lineage
    provenance: evaluations.Provenance = {name: lineage.get(name) for name in ("run_id", "model_name", "config_hash")}
    provenance |= {"plan_id": standing.plan_id, "model_sha256": standing.model_sha256}
    provenance |= {"tables_commit": lineage.get("code_version")}
    ids = {name: id_ for id_, name in truth.categories.items()}
    pairs = counterparts(tables.categories(standing).values(), ids)
    names = {ours: ids[theirs] for ours, theirs in pairs.items() if theirs is not None}
    opened = tables.open(store, standing.plan_id)
    notes = (*_check_videos(truth, opened["videos"]), *_check_model(pairs, {*ids}, standing, path))
    masks = tables.pages(store, standing, "masks", MASK_COLUMNS)
    return Predictions(provenance, _read_predictions(truth, opened["tracks"], masks, names), notes)


def _newest_plan(store: Store, path: str) -> Plan:
    here = store.address(path)
    made = [standing for standing in store.plans() if not standing.labels and standing.archive == here]
    if not made:
        raise BadConfig(
            f"no published plan was made from {path}: run `vis segment {path} --min-score 0` first, or name a plan"
        )
    return made[-1]


def _check_model(pairs: Mapping[str, str | None], labelled: set[str], standing: Plan, path: str) -> Iterator[str]:
    """Notes about what the model could not give. Raises BadConfig: model and labels have no category in common.

    Args:
        pairs: the labels' name for each category of the model.
        labelled: all names of the labels.
    """
    if not any(pairs.values()):
        raise BadConfig(
            f"plan {standing.plan_id} and {path} share no category: the model knows {sorted(pairs)[:8]}, the labels "
            f"{sorted(labelled)[:8]}. Names must be equal but for case, spaces, _ and -; was the model trained on "
            "another data set?"
        )
    if missing := sorted(labelled - {*pairs.values()}):
        yield f"the model does not know {len(missing)} categories of the labels: {', '.join(missing[:5])}"
    min_score = json.loads(standing.lineage.get("config_json", "{}")).get("min_score", 0)
    if min_score > 0:
        yield f"tracks under a score of {min_score} were not written, AP may be lower than with `--min-score 0`"
    if unlabelled := sorted(ours for ours, theirs in pairs.items() if theirs is None):
        yield f"tracks of {len(unlabelled)} categories without labels are left out: {', '.join(unlabelled[:5])}"


def _check_videos(truth: Listing, videos: "ds.Dataset") -> Iterator[str]:
    """Notes about videos that are not whole. Raises BadConfig: videos of another data set, size or length."""
    rows = videos.to_table(columns=VIDEO_COLUMNS, use_threads=False).to_pylist()
    names = {str(video): video for video in truth.videos}
    left_out = {*map(str, truth.left_out)}
    rows = [row for row in rows if row["video_id"] not in left_out]
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
    truth: Listing, opened: "ds.Dataset", pages: Iterable[pa.RecordBatch], names: Mapping[str, int]
) -> Iterator[tuple[VideoId, list[Prediction]]]:
    """The predicted tracks, video by video, in the order of the files; one of several categories is as many."""
    tracks: dict[tuple[str, int], list[tuple[int, float]]] = {}
    import pyarrow.compute as pc

    columns = ["video_id", "track_id", "category", "score", "other_classes"]
    known = pc.field("category").isin([*names]) | pc.field("other_classes").is_valid()
    for row in opened.to_table(columns=columns, filter=known, use_threads=False).to_pylist():
        said = [(row["category"], row["score"]), *(row["other_classes"] or ())]
        tracks[row["video_id"], row["track_id"]] = [(names[name], score) for name, score in said if name in names]
    left_out = {*map(str, truth.left_out)}
    for video_id, masks in by_video(pages):
        if video_id in left_out:
            continue
        found, own_id = [], truth.id_of(video_id)
        for track_id, track in mask_tracks(masks, truth.length(own_id)).items():
            area = mean_area_px(track.areas_px)
            for category, score in tracks.get((video_id, track_id), ()):
                found.append(Prediction(track.rles, track.areas_px, category, area, score, track_id))
        yield own_id, found


def mask_tracks(masks: pa.Table, frames: int) -> dict[int, MaskTrack]:
    """The tracks of one video from its rows of the table masks, sorted by track; `frames`: length of the video.

    Raises:
        BadConfig: a track has two masks in one frame, or a mask beyond the end of the video.
    """
    ids, frame = masks["track_id"].to_numpy(), masks["frame_idx"].to_numpy()
    _refuse_places(masks, ids, frame, frames)
    areas_px, rles = masks["area_px"].to_numpy(), masks["rle"].to_pylist()
    height, width = masks["height_px"].to_numpy(), masks["width_px"].to_numpy()
    sizes = {(h, w): [h, w] for h, w in set(zip(height.tolist(), width.tolist(), strict=True))}
    coded = [
        {"size": sizes[size], "counts": rle}
        for size, rle in zip(zip(height.tolist(), width.tolist(), strict=True), rles, strict=True)
    ]
    tracks = {}
    bounds = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    for start, end in pairwise(bounds if len(ids) else []):
        track: list[dict[str, Any] | None] = [None] * frames
        for at, rle in zip(frame[start:end].tolist(), coded[start:end], strict=True):
            track[at] = rle
        areas = np.zeros(frames)
        areas[frame[start:end]] = areas_px[start:end]
        tracks[int(ids[start])] = MaskTrack(track, areas)
    return tracks


def _refuse_places(masks: pa.Table, ids: Int[np.ndarray, " N"], frame: Int[np.ndarray, " N"], frames: int) -> None:
    places = np.stack([ids, frame], axis=1)
    unique, counts = np.unique(places, axis=0, return_counts=True)
    for wrong, says in ((unique[counts > 1], "more than one mask"), (places[frame >= frames], "a mask")):
        if len(wrong):
            track, at = wrong[0].tolist()
            raise BadConfig(
                f"video {masks['video_id'][0]}: track {track} has {says} in frame {at} of {frames}, and {len(wrong)} "
                "such places there are in all. Expected one mask a frame at most: were the tables written twice?"
            )


def by_video(masks: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of the table masks, one video at a time: files are sorted by video, and no video is in two of them."""
    import pyarrow.compute as pc

    waiting: list[pa.RecordBatch] = []
    for batch in masks:
        runs = pc.run_end_encode(batch["video_id"])
        ends = runs.run_ends.to_pylist()
        for start, end in zip([0, *ends], ends, strict=False):
            if waiting and waiting[0]["video_id"][0] != batch["video_id"][start]:
                yield waiting[0]["video_id"][0].as_py(), pa.Table.from_batches(waiting)
                waiting = []
            waiting.append(batch.slice(start, end - start))
    if waiting:
        yield waiting[0]["video_id"][0].as_py(), pa.Table.from_batches(waiting)
