"""The tables of the RGNN paper, made again: every row on the same detector and the same cached encodings.

A row is a recipe with one switch changed (`recipes/rgnn.py`), of which only the tracker is trained. The detector's
outputs are computed once, for training and for validation, so that a row costs minutes on one core and as many rows run
side by side as there are cores. Each finished row is kept at once; running the same ablation again goes on, and two
that run side by side lose nothing of each other.
"""

import csv
import gzip
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import stdev
from typing import Any

import ray
import torch
from pydantic import NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from jobs.cluster import TICKETS_PER_CORE, cluster, listening
from jobs.models import find
from jobs.settings import Settings
from jobs.store import LAYOUT, Store, code_version, now
from jobs.training.data_sets import prepare_data, read_data
from jobs.training.descent import descend, optimizer_of
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import with_row
from jobs.training.stages import gate_of, starting_model
from jobs.training.train import check_gate
from jobs.training.validation import Encode, play
from jobs.training.watch import Stopwatch, say
from jobs.training.worker import encodings_folder
from vis_models.cards import WEIGHTS
from vis_models.checkpoints import build, initialise
from vis_models.config import Config, config_hash
from vis_models.data.annotations import AnnotatedVideo, VideoSet, as_youtube_vis
from vis_models.data.clips import ClipSet, collate
from vis_models.data.encoded import UNCHANGED, EncodedClips, encode_copies
from vis_models.data.readable import unreadable_frames, without
from vis_models.data.sampling import Consecutive
from vis_models.metrics.average_precision import accumulate
from vis_models.metrics.detector import detected_masks, frame_mask_ap, identity_oracle
from vis_models.metrics.scenes import scenes
from vis_models.metrics.track_matching import Matches, match_video
from vis_models.metrics.uncertainty import Outcome, outcomes, paired_difference
from vis_models.metrics.youtube_vis import GroundTruth, results_by_video
from vis_models.progress import Progress
from vis_models.rgnn.config import ROWS

BASE = "proposed"
LARGE_GAP = 3.0
"""Rows whose published AP is so much below the proposed approach are run with every seed; the others with the first."""
RUN = ".run.json"
"""Ending of the file of a finished run."""
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles for 1, 2, ... degrees of freedom; more take the last, which is a little too wide for them."""


class AblationJob(Config):
    """Which rows, on what."""

    recipe: str = "rgnn_r18_world_hard"
    detector: str
    """Registered model whose detector every row shares."""
    rows: tuple[str, ...] = tuple(name for name in ROWS if name != "resnet101")
    """Names of `ROWS` in `vis_models/rgnn/config.py`; another backbone is another detector and so not among them. The
    proposed approach, with which each is compared, is among them without being named."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    iterations: PositiveInt | None = None
    """Of each row; None: as the recipe says."""

    @field_validator("rows")
    @classmethod
    def _with_what_each_is_compared(cls, rows: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((BASE, *rows)))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(row, seed), first seeds first; the base is there for every seed that another row has."""
        gap = {name: (ROWS[BASE].published_ap or 0) - (ROWS[name].published_ap or 0) for name in self.rows}
        repeated = [name for name in self.rows if name == BASE or (gap[name] >= LARGE_GAP and ROWS[name].published_ap)]
        return [(row, self.seeds[0]) for row in self.rows] + [(r, s) for s in self.seeds[1:] for r in repeated]


class RowResult(Config):
    """One line of the CSV."""

    row: str
    seed: int
    ap: float
    """Of the validation videos, as a fraction, as all figures here."""
    ap50: float
    ap75: float
    ar10: float
    loss: float
    """Mean of the last tenth of the iterations; NaN where it diverged."""
    iterations: int
    minutes: float
    """Of training, on one core."""
    recipe: str
    detector: str
    data: str
    videos: int
    command: str
    commit: str
    created_at: str


@dataclass(frozen=True)
class Comparison:
    """A row against the proposed approach, on the same videos and seeds."""

    row: str
    seeds: int
    ap: float
    difference: float
    """AP of the row minus AP of the proposed approach, mean over seeds."""
    spread_of_videos: float | None
    """Half the 95 % interval, had other videos been drawn; it knows nothing of the luck of a training run. None: not
    known."""
    by_seed: tuple[float, ...] = ()
    """The difference of each seed."""
    elsewhere: bool = False
    """Run on another detector than the other rows of the table; the difference is to the approach on that one."""

    @property
    def published_gap(self) -> float | None:
        published, base = ROWS[self.row].published_ap, ROWS[BASE].published_ap
        return None if published is None or base is None else published - base

    @property
    def spread_of_seeds(self) -> float | None:
        """Half the 95 % interval, had other seeds been trained: Student's t of the seeds' differences; None for one."""
        freedom = len(self.by_seed) - 1
        if freedom < 1:
            return None
        return STUDENT_T[min(freedom, len(STUDENT_T)) - 1] * stdev(self.by_seed) / sqrt(len(self.by_seed))

    @property
    def verdict(self) -> str:
        """Whether the sign of a published gap of 3 AP or more came out, by the wider spread; empty for smaller gaps,
        and where the spread of the videos is not known."""
        gap = self.published_gap
        if gap is None or abs(gap) < LARGE_GAP or self.spread_of_videos is None:
            return ""
        spread = max(self.spread_of_videos, self.spread_of_seeds or 0.0)
        said = "reproduced" if self.difference + spread < 0 else "not reproduced"
        return said if self.spread_of_seeds is not None else f"{said} in one run"


class Ablation(Config):
    """What came out."""

    uri: str
    """Folder with `results.csv`, `videos.csv`, `table.md`, `detector.json` and a results file of every run."""
    table: str
    """Markdown."""


def ablate(job: AblationJob, settings: Settings, progress: Progress | None = None, command: str = "") -> Ablation:
    """Train and score every row that has no result yet.

    Raises:
        BadConfig: an unknown row or recipe, or no such model.
    """
    report = progress or (lambda *_: None)
    for row in job.rows:
        with_row(job.recipe, row)
    store = Store.open(settings)
    base = _recipe(job, BASE, job.seeds[0])
    folder = f"{LAYOUT}/ablations/{job.recipe}-{config_hash(job.model_dump(mode='json', exclude={'rows', 'seeds'}))}"
    data = prepare_data(base, settings, report)
    train_set, val_set = read_data(base, data, store)
    train_set = without(train_set, [one.file_name for one in unreadable_frames(train_set, base.unreadable_share)])
    unreadable_frames(val_set, 0.0)  # every row is scored on the same frames
    with cluster(settings):
        shared, model = _encode(job, base, settings, store, train_set, val_set, report)
        if not store.exists(f"{folder}/detector.json"):
            if (gate := gate_of(base)) and gate.gate_ap50:
                check_gate(base, gate, frame_mask_ap(model.detector, val_set, gate.gate_frames))
            store.write_json(f"{folder}/detector.json", _detector_figures(shared))
        results = read_results(store, folder)
        waiting = [run for run in job.runs if run not in {(result.row, result.seed) for result in results}]
        report("ablation", len(results), len(job.runs), {})
        for row, seed, figures, predictions in _run_rows(job, shared, settings, waiting, report):
            result = RowResult(
                row=row,
                seed=seed,
                recipe=_recipe(job, row, seed).recipe,
                detector=job.detector,
                data=data.name,
                videos=len(val_set.videos),
                command=command,
                commit=code_version(),
                created_at=now(),
                **figures,
            )
            store.write_bytes(f"{folder}/{row}-{seed}.results.json.gz", gzip.compress(json.dumps(predictions).encode()))
            results = _add(store, folder, result)
            report("ablation", len(results), len(job.runs), {row: f"AP {result.ap:.3f}"})
    comparisons = compare(store, folder, labels_of(job, settings))
    table = markdown(comparisons, job.recipe, job.detector)
    store.write_bytes(f"{folder}/table.md", table.encode())
    store.write_bytes(f"{folder}/videos.csv", _spreads(comparisons, job.detector).encode())
    return Ablation(uri=store.uri(folder), table=table)


def _run_rows(
    job: AblationJob, shared: "Shared", settings: Settings, waiting: list[tuple[str, int]], report: Progress
) -> Iterator[tuple[str, int, dict[str, Any], list[dict[str, Any]]]]:
    """Rows as they finish, as many side by side as there are cores: row, seed, figures, results."""
    place = ray.put(shared)
    run = ray.remote(num_cpus=TICKETS_PER_CORE if settings.ray_address is None else 1)(run_row)
    with listening(lambda note: report(note["run"], note["done"], note["of"], {"loss": note["loss"]})) as board:
        tasks = {run.remote(_recipe(job, row, seed), place, board): (row, seed) for row, seed in waiting}
        while tasks:
            (finished,), _ = ray.wait(list(tasks), num_returns=1)
            yield *tasks.pop(finished), *ray.get(finished)


def compare(store: Store, folder: str, truth: GroundTruth, replicates: int = 200) -> list[Comparison]:
    """Every row of an ablation against the proposed approach.

    Args:
        replicates: how often the videos are drawn again for the intervals.
    """
    results = {(result.row, result.seed): result for result in read_results(store, folder)}
    found = {run: outcomes(_matches(truth, _predictions(store, folder, *run))) for run in results}
    rows = sorted({row for row, _ in results}, key=list(ROWS).index)
    return [_compare(row, results, found, replicates) for row in rows]


def _compare(
    row: str,
    results: dict[tuple[str, int], RowResult],
    found: dict[tuple[str, int], list[dict[int, Outcome]]],
    replicates: int,
) -> Comparison:
    seeds = sorted(seed for name, seed in results if name == row and (BASE, seed) in results)
    mean = sum(results[row, seed].ap for seed in seeds) / len(seeds)
    pairs = [(found[row, seed], found[BASE, seed]) for seed in seeds]
    difference, error = paired_difference(pairs, replicates) if row != BASE else (0.0, 0.0)
    by_seed = tuple(results[row, seed].ap - results[BASE, seed].ap for seed in seeds)
    return Comparison(row, len(seeds), mean, difference, 1.96 * error, by_seed)


def markdown(comparisons: list[Comparison], recipe: str, detector: str) -> str:
    """The table: paper AP, our AP, the difference with both its intervals, and the command of each row."""
    lines = [
        "| table | row | paper AP | our AP (seeds) | minus proposed | 95 %, videos | 95 %, seeds | the paper's gap "
        "| `vis train ...` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in comparisons:
        row = ROWS[each.row]
        paper = "diverges" if row.published_ap is None else f"{row.published_ap:.1f}"
        gap = " | | " if each.row == BASE else _gap(each)
        verdict = f"{each.published_gap:+.1f} {each.verdict}".strip() if each.published_gap else ""
        name = recipe if each.row == BASE else f"{recipe}.{each.row}"
        seeds = f"({each.seeds}) \\*" if each.elsewhere else f"({each.seeds})"
        lines.append(
            f"| {row.table} | {row.title} | {paper} | {100 * each.ap:.1f} {seeds} | {gap} | {verdict} "
            f"| `--recipe {name} --detector {detector}` |"
        )
    return "\n".join(lines) + "\n"


def _gap(each: Comparison) -> str:
    """Three cells: the difference, its spread over videos and over seeds, in points of AP."""
    seeds = "one run" if each.spread_of_seeds is None else f"± {100 * each.spread_of_seeds:.1f}"
    videos = "" if each.spread_of_videos is None else f"± {100 * each.spread_of_videos:.1f}"
    return f"{100 * each.difference:+.1f} | {videos} | {seeds}"


def _spreads(comparisons: list[Comparison], detector: str) -> str:
    """What only the results files know, as CSV: how far each difference spreads over videos."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "detector", "seeds", "spread_of_videos"])
    writer.writerows(
        [each.row, detector, each.seeds, round(each.spread_of_videos, 5)]
        for each in comparisons
        if each.row != BASE and each.spread_of_videos is not None
    )
    return text.getvalue()


def labels_of(job: AblationJob, settings: Settings) -> GroundTruth:
    """The validation labels that the rows were scored against."""
    base, store = _recipe(job, BASE, job.seeds[0]), Store.open(settings)
    _, val_set = read_data(base, prepare_data(base, settings, lambda *_: None), store)
    return _truth(val_set)


def read_results(store: Store, folder: str) -> list[RowResult]:
    """The lines of the CSV and of the runs that it lacks, in the order in which they were finished."""
    key, found = f"{folder}/results.csv", []
    if store.exists(key):
        found = [RowResult.model_validate(line) for line in csv.DictReader(io.StringIO(store.read_bytes(key).decode()))]
    runs = [RowResult.model_validate(store.read_json(key)) for key in store.list(folder) if key.endswith(RUN)]
    whole = {(result.row, result.seed): result for result in [*found, *runs]}
    return sorted(whole.values(), key=lambda result: result.created_at)


def _add(store: Store, folder: str, result: RowResult) -> list[RowResult]:
    """Keep a finished run as a file of its own, which another ablation of the same folder does not touch, and write the
    CSV anew. All results, those that others finished meanwhile among them, come back."""
    store.write_json(f"{folder}/{result.row}-{result.seed}{RUN}", result.model_dump())
    results = read_results(store, folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(RowResult.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.model_dump() for result in results)
    store.write_bytes(f"{folder}/results.csv", text.getvalue().encode())
    return results


def _recipe(job: AblationJob, row: str, seed: int) -> TrainJob:
    made = with_row(job.recipe, row, {"seed": seed, "detector": job.detector})
    if job.iterations:
        stages = [stage.model_copy(update={"iterations": job.iterations}) for stage in made.stages]
        made = made.model_copy(update={"stages": tuple(stages)})
    return made


# ---- the shared half -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shared:
    """What every row starts from."""

    detector: Path
    """Weights."""
    image_size: tuple[int, int]
    """(height, width) of the detector's input."""
    classes: int
    train: EncodedClips | ClipSet
    """Encoded copies where the recipe asks for them, else clips that are drawn and encoded anew each time."""
    val: EncodedClips
    val_set: VideoSet
    videos: list[AnnotatedVideo]
    """Of validation, in the order of `val`."""


def _encode(
    job: AblationJob,
    base: TrainJob,
    settings: Settings,
    store: Store,
    train_set: VideoSet,
    val_set: VideoSet,
    report: Progress,
) -> tuple["Shared", Any]:
    """The detector's outputs for the training copies and the validation videos, computed where they are missing, and
    the model that gave them.

    Raises:
        BadConfig: the detector is of another config or of other classes.
    """
    model: Any = starting_model(base, train_set, store)[0].eval()
    size, stage = base.config.frame_px, base.stages[-1]
    assert size is not None  # the rows are RGNN's

    def encode(part: str, clips: ClipSet, copies: int) -> EncodedClips:
        folder = encodings_folder(settings, model, clips)
        tell = lambda done, total: report(f"encode {part}", done, total, {})  # noqa: E731
        return encode_copies(clips, copies, model.encoded, model.encode_clips, folder, (0, 1), tell)

    clips = ClipSet(train_set, stage.samples, size, stage.augmentation, 0)
    train = encode("train", clips, stage.cached_copies) if stage.cached_copies else clips
    val_clips = ClipSet(val_set, Consecutive(), size, UNCHANGED, 0)
    val = encode("val", val_clips, 1)
    detector = store.local_copy(find(store, job.detector)) / WEIGHTS
    return Shared(detector, size, len(train_set.categories), train, val, val_set, val_clips.usable), model


def _model(job: TrainJob, detector: Path, classes: int) -> Any:
    model: Any = build(job.model, job.config.with_classes(classes).model_dump(mode="json"))
    initialise(model.detector, detector)
    return model.eval()


def _detector_figures(shared: Shared) -> dict[str, float]:
    """What these detections allow: AP of the tracks whose identity is taken from the truth."""
    results = []
    ids = [category.id for category in shared.val_set.categories]
    for n, video in enumerate(shared.videos):
        results += identity_oracle(video, _detections(shared, n, (video.height, video.width)), ids)
    summary = _score(shared, results)
    return {"identity_oracle_ap": summary["AP"], "identity_oracle_ap50": summary["AP50"]}


def _detections(shared: Shared, n: int, size_px: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks and class probabilities of the detections in each frame of the n-th validation video."""
    rows: Any = shared.val.whole(n)[0]
    for boxes_px, logits, masks, valid in zip(
        rows.boxes_px, rows.class_logits, rows.mask_logits, rows.valid, strict=True
    ):
        found = detected_masks(boxes_px[valid], masks[valid], size_px, shared.image_size)
        yield found, logits[valid].softmax(-1)[:, 1:]


# ---- one row -------------------------------------------------------------------------------------------------------


def run_row(job: TrainJob, shared: Shared, board: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train one row on one core, then let it track the validation videos. Returns its figures and its results."""
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    model = _model(job, shared.detector, shared.classes)
    stage, started, losses = job.stages[-1], time.perf_counter(), []
    numbers = [range(n * stage.batch_size, (n + 1) * stage.batch_size) for n in range(stage.iterations)]
    batches: Iterator[tuple]
    if isinstance(shared.train, EncodedClips):
        cached = replace(shared.train, length=stage.clip_length, seed=job.seed)
        batches, loss = (cached.batch(each) for each in numbers), model.encoded_loss
    else:
        clips = replace(shared.train, sampling=stage.samples, seed=job.seed)
        batches, loss = ((collate([clips[n] for n in each]),) for each in numbers), model.loss
    model.train()
    watch = Stopwatch()
    for done, terms in descend(stage, (job.seed, 0), loss, optimizer_of(stage, model), batches):
        losses.append(float(torch.stack(list(terms.values())).sum()))
        if watch.due() or done == stage.iterations:
            run = f"{job.recipe} seed {job.seed}"
            say(board, 0, {"run": run, "done": done, "of": stage.iterations, "loss": losses[-1]})
    minutes = (time.perf_counter() - started) / 60
    results = list(track(model.eval(), shared))
    summary = _score(shared, results)
    last = losses[-max(len(losses) // 10, 1) :]
    figures = {"ap": summary["AP"], "ap50": summary["AP50"], "ap75": summary["AP75"], "ar10": summary["AR10"]}
    figures |= {"loss": sum(last) / len(last), "iterations": stage.iterations, "minutes": round(minutes, 2)}
    return figures, results


def track(model: Any, shared: Shared) -> Iterator[dict[str, Any]]:
    """The model's tracks in the encoded validation videos, as entries of a results file."""
    numbers = {video.video_id: n for n, video in enumerate(shared.videos)}

    def frames_of(batch: list[AnnotatedVideo]) -> Encode:
        rows: list[Any] = [shared.val.whole(numbers[video.video_id])[0] for video in batch]
        return lambda frame: type(rows[0]).join([row[[frame]] for row in rows])

    return play(model, shared.videos, shared.val_set.categories, frames_of)


def _score(shared: Shared, results: list[dict[str, Any]]) -> dict[str, float]:
    truth = _truth(shared.val_set)
    return accumulate(_matches(truth, results), [*truth.categories]).summary()


def _truth(val_set: VideoSet) -> GroundTruth:
    return GroundTruth(as_youtube_vis(val_set), val_set.source)


def _matches(truth: GroundTruth, results: list[dict[str, Any]]) -> list[dict[int, Matches]]:
    """The matches of every video of the labels."""
    grouped, categories = results_by_video(truth, results, "results"), [*truth.categories]
    return [
        match_video(scenes(truth.predictions(grouped.get(video, [])), truth.truths(video), categories))
        for video in truth.video_ids()
    ]


def _predictions(store: Store, folder: str, row: str, seed: int) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(store.read_bytes(f"{folder}/{row}-{seed}.results.json.gz")))
