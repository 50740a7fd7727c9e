"""`evaluate-youtube-vis`: labelled videos in, AP out, held against the last accepted score."""

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field, PositiveInt

from flows.events import evaluation_regressed
from flows.progress import of_flow, shown
from flows.steps import Address, command, launch, mendable
from jobs.evaluation.acceptance import JudgeJob, alarm, judge
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.evaluation.oracles import Oracle
from jobs.evaluation.predictions import Check, data_file
from jobs.evaluation.predictions import labels as read_labels
from jobs.evaluation.splits import held_out
from jobs.models import find, find_to_score
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store
from jobs.training.data_sets import prepare_data
from jobs.training.runs import resumable
from vis_models.cards import read_card
from vis_models.config import BadConfig
from vis_models.data.holdout import HoldOut
from vis_models.metrics.track_matching import Crowd
from vis_models.metrics.uncertainty import with_interval

REGRESSION_KEY = "evaluate-youtube-vis-regression"
TRACKING_SHOWN = ("HOTA", "DetA", "AssA", "IDF1", "MOTA", "IDSW", "Frag", "MT", "ML", "tracking_min_score")


def _run_name() -> str:
    given = flow_run.parameters
    return f"evaluate-{given['data'] or given['model'] or 'newest-model'}"


@flow(name="evaluate-youtube-vis", flow_run_name=_run_name)
@mendable
def evaluate_youtube_vis(
    data: Address | None = None,
    model: Address | None = None,
    results: Address | None = None,
    plan: str | None = None,
    holdout: str | None = None,
    class_agnostic: bool = False,
    limit: PositiveInt = 100,
    crowd: Crowd = "many",
    check: Check = "error",
    oracle: Oracle | None = None,
    tracking_min_score: Annotated[float, Field(ge=0, le=1)] = 0.3,
    accept: bool = False,
) -> dict[str, Any]:
    """Segment labelled videos with every track kept, score them by the YouTube-VIS rules, judge what changed.

    The score is held against the last accepted one of the same labels. A significant regression becomes the event
    `vis.evaluation.regressed` and an artifact.

    Args:
        data: YouTube-VIS JSON with labels, or a folder that holds it as val.json; empty: the validation videos of the
            data set that the model was trained on.
        model: Registered name, model folder or its s3:// address; empty: the model that was registered last.
        results: A results.json (plain or .gz) to score instead; no model runs.
        plan: The published tables to score instead; no model runs.
        holdout: Score only the videos that this rule holds out of `data`, or of its train.json: rgnn, or a share such
            as 0.1.
        class_agnostic: Ignore the category of objects and predictions.
        limit: How many predictions of a video and category take part.
        crowd: How often a crowd track may be matched: many, once; drop: it is left out.
        check: error refuses entries that make the score meaningless, warn scores them as the reference does.
        oracle: Score the tracks with one thing made perfect: identity, frame, clip or image; empty: as they are.
        tracking_min_score: Tracks under this video score take no part in HOTA, MOTA and IDF1, which know no scores.
        accept: Hold later scores against this one, whatever it is.
    """
    if oracle and accept:
        raise BadConfig(f"the score of the {oracle} oracle is none of the model: it cannot be accepted")
    store = Store.open(Settings())
    rule = HoldOut.named(holdout) if holdout else None
    if data is None and not results and not plan:
        data, rule = _training_data(store, model, rule)
    if data is None:
        raise BadConfig(f"{results or plan} is scored against labels: name them (`data`, --gt)")
    if len(chosen := [each for each in (model, results, plan) if each]) > 1:
        raise BadConfig(f"{' and '.join(chosen)}: a model, a results file or a plan is scored, name one of them")
    labels = store.address(data_file(store, data, rule))
    if results:
        results = subject = store.address(results)
    elif plan:
        subject = f"plan {plan}"
    else:
        read_labels(store, labels, check, rule)  # before a model works for nothing
        find_to_score(store, model)
        archive = held_out(store, labels, rule) if rule else labels
        given = labels if oracle == "image" else None
        how = {"min_score": 0, "labels": given, "purpose": "evaluation", "command": command()}
        tracks = launch(segment, SegmentJob(archive=archive, model=model, **how))
        plan, subject = tracks.plan_id, f"model {tracks.model}"
    job = EvaluateJob(
        data=labels,
        plan=plan,
        results=results,
        holdout=rule,
        class_agnostic=class_agnostic,
        limit=limit,
        crowd=crowd,
        check=check,
        oracle=oracle,
        tracking_min_score=tracking_min_score,
        command=command(),
    )
    done = launch(evaluate, job)
    said = JudgeJob(evaluation_id=done.evaluation_id, accept=accept, command=command())
    verdict = None if oracle else launch(judge, said)
    if verdict and verdict.regressed:
        evaluation_regressed(verdict, labels, subject)
        with shown():
            create_markdown_artifact(key=REGRESSION_KEY, markdown=alarm(verdict), description=str(verdict))
    figures = [
        {
            "figure": name,
            "value": f"{value:.4f}" if value >= 0 else "nothing to find",
            "since the evaluation before": f"{done.change[name]:+.4f}" if name in done.change else "",
        }
        for name, value in done.figures.items()
    ]
    figures += [{"figure": name, "value": f"{done.tracking[name]:.4g}"} for name in TRACKING_SHOWN]
    ap = with_interval(done.figures["AP"], done.error)
    notes = "".join(f"- {note}\n" for note in done.notes)
    with shown():
        create_table_artifact(key="evaluate-youtube-vis", table=figures, description=f"{labels}, {subject}")
        create_markdown_artifact(
            key="evaluate-youtube-vis-summary",
            markdown=f"# AP {ap}\n\n`{labels}`, {subject}\n\n{verdict or ''}\n\n{notes}\n`{done.uri}`\n",
            description=f"evaluation {done.evaluation_id}",
        )
    return done.model_dump(mode="json") | {
        "data": labels,
        "subject": subject,
        "plan": plan,
        "verdict": verdict and str(verdict),
        "regressed": bool(verdict and verdict.regressed),
    }


def _training_data(store: Store, model: str | None, rule: HoldOut | None) -> tuple[str, HoldOut | None]:
    """The data set that a model was trained on, and what was held out of it; a drawn one is drawn again if missing.

    Raises:
        BadConfig: the model was not trained in this store, or on videos that `rule` holds out.
    """
    card = read_card(store.local_copy(find(store, model)))
    with of_flow("evaluate-youtube-vis") as progress:
        job = resumable(store, card.run_id)
        if rule and rule != job.hold_out:
            held = f"held out {job.hold_out}" if job.hold_out else "held out nothing"
            raise BadConfig(
                f"{card.name} was trained on videos that the rule {rule} holds out, its training {held}: leave the "
                "rule away, or name the data to score"
            )
        return prepare_data(job, store.settings, progress).uri, rule or job.hold_out
