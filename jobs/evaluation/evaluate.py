"""Tables -> metrics: score the published tables of a plan, or any results file, against labels.

What is written is described in `evaluations.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from pydantic import Field, PositiveInt

from jobs.evaluation import evaluations, oracles, outcomes, switches
from jobs.evaluation.figures import rows as figures_of
from jobs.evaluation.predictions import Check, Predictions, data_file, from_plan, from_results, labels
from jobs.evaluation.tracking import TrackingScore
from jobs.settings import Settings
from jobs.store import Store, code_version, now
from vis_models.config import BadConfig, Config
from vis_models.data.dialects import VideoId
from vis_models.data.holdout import HoldOut
from vis_models.metrics.average_precision import RULES, accumulate
from vis_models.metrics.mask_tracks import Prediction
from vis_models.metrics.scenes import ANY, scenes
from vis_models.metrics.track_matching import Conventions, Crowd, Matches, match_video
from vis_models.metrics.uncertainty import outcomes as outcomes_of
from vis_models.metrics.uncertainty import standard_error
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.progress import Progress


class EvaluateJob(Config):
    """What is scored against what."""

    data: str
    """YouTube-VIS JSON with labels (plain or .gz), or a folder that holds it as `val.json`."""
    plan: str | None = None
    """Plan whose published tables are scored; by default the newest one made from `data`."""
    results: str | None = None
    """A results.json (plain or .gz) to score instead of tables."""
    holdout: HoldOut | None = None
    """Score only the videos of `data` that this rule holds out."""
    class_agnostic: bool = False
    """Ignore the category of objects and predictions."""
    limit: PositiveInt = 100
    """How many predictions of a video and category take part."""
    crowd: Crowd = "many"
    """How often a crowd track may be matched; drop: it is left out."""
    check: Check = "error"
    """Entries that make the score meaningless stop the evaluation, or are scored as the reference does and noted."""
    tracking_min_score: float = Field(0.3, ge=0, le=1)
    """Tracks under this video score take no part in HOTA, MOTA and IDF1, which know no scores. AP counts them all."""
    oracle: oracles.Oracle | None = None
    """Score the tracks with one thing made perfect, see `oracles.MEANS`."""
    command: str = ""
    """What was typed, for the record."""

    @property
    def conventions(self) -> Conventions:
        return Conventions(self.limit, self.crowd)

    @property
    def rules(self) -> str:
        """Whose numbers these are, and every choice that is not theirs."""
        held = f"hold-out {self.holdout}" if self.holdout else ""
        oracle = f"{self.oracle} oracle" if self.oracle else ""
        agnostic = evaluations.AGNOSTIC if self.class_agnostic else ""
        return ", ".join(filter(None, (RULES, agnostic, str(self.conventions), held, oracle)))


class Evaluation(Config):
    """The outcome: where it was written, its figures, and those of the evaluation of this data set before it."""

    evaluation_id: str
    uri: str
    figures: dict[str, float]
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl as fractions; -1: nothing to find."""
    error: float | None
    """Standard error of AP, as a fraction; None: there are too few videos."""
    tracking: dict[str, float]
    """HOTA, DetA, AssA, DetRe, DetPr, AssRe, AssPr, LocA, OWTA, MOTA, MOTP, IDF1, IDR, IDP as fractions (MOTA may be
    negative), FP_per_frame, the counts IDSW, Frag, MT, PT, ML, all pooled over the categories; `..._class_mean`;
    `tracking_min_score`."""
    switches_uri: str
    """A Parquet file with a row for each identity switch."""
    videos: int
    rules: str
    before_id: str | None
    """None: this is the first evaluation of the data set."""
    change: dict[str, float]
    """Of each figure since then."""
    notes: tuple[str, ...]
    """What a reader must know to read the figures right."""


def evaluate(job: EvaluateJob, settings: Settings, progress: Progress | None = None) -> Evaluation:
    """Score, write one file, compare with the evaluation before.

    Raises:
        BadConfig: no labels, no such plan, or predictions that do not belong to the data set.
    """
    if job.plan and job.results:
        raise BadConfig(f"plan {job.plan} and {job.results}: one of them is scored, name one")
    store = Store.open(settings)
    store.check_writable()
    path = data_file(store, job.data, job.holdout)
    truth, digest, notes = labels(store, path, job.check, job.holdout)
    if job.results:
        if job.oracle == "image":
            raise BadConfig(
                "the image oracle runs a model's tracker on the labelled objects: name a model, not results"
            )
        predictions = from_results(store, job.results, truth, job.check)
    else:
        predictions = from_plan(store, job.plan, path, truth, given_objects=job.oracle == "image")
    if job.oracle:
        predictions = _with_oracle(predictions, job.oracle, truth)
    tracking = TrackingScore(truth, job.tracking_min_score)
    matches = _match(truth, predictions.by_video, job, tracking, progress)
    in_order = [matches[v] for v in truth.video_ids()]
    score = accumulate(in_order, [ANY] if job.class_agnostic else [*truth.categories], job.conventions)
    found = dict(zip(map(str, truth.video_ids()), outcomes_of(in_order), strict=True))
    error = standard_error([*found.values()])
    rules = f"{job.rules}, with defects" if truth.defective or predictions.defective else job.rules
    created_at, notes = now(), (*notes, *predictions.notes, *_nothing(in_order), *_crowds(truth))
    evaluation_id = evaluations.new_id(created_at)
    provenance = dict.fromkeys(evaluations.PROVENANCE) | {
        "evaluation_id": evaluation_id,
        "created_at": created_at,
        "data": path,
        "data_sha256": digest,
        "split": truth.split,
        "rules": rules,
        "oracle": job.oracle,
        "commit": code_version(),
        "command": job.command or None,
        **predictions.provenance,
    }
    rows = figures_of(score, {} if job.class_agnostic else truth.categories, matches)
    outcomes.write(store, evaluation_id, found)
    switches_uri = switches.write(store, evaluation_id, tracking.switches)
    spread = [] if error is None else [{"metric": "AP_error", "value": error}]
    uri = evaluations.write(store, provenance, notes, chain(rows, spread, tracking.rows()))
    before = evaluations.find(store, before=evaluation_id, data_sha256=digest, rules=rules, oracle=job.oracle)
    figures = score.summary()
    return Evaluation(
        evaluation_id=evaluation_id,
        uri=uri,
        figures=figures,
        error=error,
        tracking=tracking.figures(),
        switches_uri=switches_uri,
        videos=len(matches),
        rules=rules,
        before_id=before,
        change=change(figures, evaluations.summary(evaluations.read(store, before)[0])) if before else {},
        notes=notes,
    )


def _nothing(videos: Sequence[Mapping[int, Matches]]) -> Iterator[str]:
    """A word where a score of 0 or -1 has a simple reason."""
    found = [matches for video in videos for matches in video.values()]
    if not any(matches.objects[0] for matches in found):
        yield "the labels have no object that counts, only crowds: AP is -1, for there is nothing to find"
    elif not any(len(matches.scores) for matches in found):
        yield "there is no track at all, so every object is missed"
    shown = [each for each in videos if any(matches.objects[0] for matches in each.values())]
    silent = sum(not any(len(matches.scores) for matches in each.values()) for each in shown)
    if 0 < silent < len(shown):
        yield f"{silent} of {len(shown)} videos with objects have no track, their objects count as missed"


def _crowds(truth: GroundTruth) -> Iterator[str]:
    crowds = sum(bool(each["iscrowd"]) for objects in truth.annotations.values() for each in objects)
    if crowds:
        yield f"{crowds} of the labelled objects are crowds: HOTA, IDF1 and MOTA are figures of the others"


def _with_oracle(found: Predictions, oracle: oracles.Oracle, truth: GroundTruth) -> Predictions:
    note = f"{oracle} oracle, no score of a model: {oracles.MEANS[oracle]}"
    links = found.by_video if oracle == "image" else oracles.true_links(oracle, truth, found.by_video)
    return replace(found, by_video=links, notes=(note, *found.notes))


def change(figures: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was gained, of the figures that both have."""
    return {name: value - before[name] for name, value in figures.items() if value >= 0 and before.get(name, -1) >= 0}


def _match(
    truth: GroundTruth,
    predictions: Iterator[tuple[VideoId, list[Prediction]]],
    job: EvaluateJob,
    tracking: TrackingScore,
    progress: Progress | None,
) -> dict[VideoId, dict[int, Matches]]:
    """The matches of every video; `tracking` counts the same ones. In videos without predictions all is missed."""
    matches: dict[VideoId, dict[int, Matches]] = {}

    def add(video: VideoId, tracks: list[Prediction]) -> None:
        shown = scenes(tracks, truth.truths(video), [*truth.categories], job.class_agnostic)
        matches[video] = match_video(shown, job.conventions)
        tracking.add(video, shown)

    for video, tracks in predictions:
        assert video not in matches, f"the tables hold video {video} twice"
        add(video, tracks)
        if progress:
            progress("evaluate", len(matches), len(truth.videos), {})
    for video in set(truth.videos) - set(matches):
        add(video, [])
    return matches
