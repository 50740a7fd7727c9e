"""`evaluate-youtube-vis`: labelled videos in, AP out, held against the last accepted score."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.events import evaluation_regressed
from flows.progress import of_flow
from flows.steps import command, launch, mendable
from jobs.acceptance import JudgeJob, alarm, judge
from jobs.evaluate import EvaluateJob, data_file, evaluate
from jobs.models import find
from jobs.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.splits import held_out
from jobs.store import Store
from jobs.train import prepare_data, resumable
from vis_models.checkpoints import read_card
from vis_models.data.holdout import HoldOut
from vis_models.metrics.uncertainty import with_interval

REGRESSION_KEY = "evaluate-youtube-vis-regression"


@flow(name="evaluate-youtube-vis", flow_run_name="evaluate-{data}")
@mendable
def evaluate_youtube_vis(
    data: str | None = None, model: str | None = None, results: str | None = None, holdout: str | None = None
) -> dict[str, Any]:
    """Segment labelled videos with every track kept, score them by the YouTube-VIS rules, judge what changed.

    The score is held against the last accepted one of the same labels. A significant regression becomes the event
    `vis.evaluation.regressed` and an artifact.

    Args:
        data: YouTube-VIS JSON with labels, or a folder that holds it as val.json; empty: the validation videos of the
            data set that the model was trained on.
        model: Registered name, model folder or its s3:// address; empty: the model that was registered last.
        results: A results.json (plain or .gz) to score instead; no model runs.
        holdout: Score only the videos that this rule holds out of `data`, or of its train.json: rgnn, or a share such
            as 0.1.
    """
    store = Store.open(Settings())
    rule = HoldOut.named(holdout) if holdout else None
    if data is None:
        data, rule = _training_data(store, model, rule)
    labels = store.address(data_file(store, data, rule))
    if results:
        plan, subject = None, store.address(results)
    else:
        archive = held_out(store, labels, rule) if rule else labels
        tracks = launch(segment, SegmentJob(archive=archive, model=model, min_score=0, command=command()))
        plan, subject = tracks.plan_id, f"model {tracks.model}"
    given = {"plan": plan, "results": subject if results else None}
    done = launch(evaluate, EvaluateJob(data=labels, holdout=rule, command=command(), **given))
    verdict = launch(judge, JudgeJob(evaluation_id=done.evaluation_id, command=command()))
    if verdict.regressed:
        create_markdown_artifact(key=REGRESSION_KEY, markdown=alarm(verdict), description=str(verdict))
        evaluation_regressed(verdict, labels, subject)
    figures = [
        {"figure": name, "value": f"{value:.4f}", "change": f"{done.change[name]:+.4f}" if name in done.change else ""}
        for name, value in done.figures.items()
    ]
    create_table_artifact(key="evaluate-youtube-vis", table=figures, description=f"{labels}, {subject}")
    ap = with_interval(done.figures["AP"], done.error, done.videos)
    notes = "".join(f"- {note}\n" for note in done.notes)
    create_markdown_artifact(
        key="evaluate-youtube-vis-summary",
        markdown=f"# AP {ap}\n\n`{labels}`, {subject}\n\n{verdict}\n\n{notes}\n`{done.uri}`\n",
        description=f"evaluation {done.evaluation_id}",
    )
    return done.model_dump(mode="json") | {
        "data": labels,
        "subject": subject,
        "plan": plan,
        "verdict": str(verdict),
        "regressed": verdict.regressed,
    }


def _training_data(store: Store, model: str | None, rule: HoldOut | None) -> tuple[str, HoldOut | None]:
    """The data set that a model was trained on, and what was held out of it; a drawn one is drawn again if missing.

    Raises:
        BadConfig: the model was not trained in this store.
    """
    card = read_card(store.local_copy(find(store, model)))
    with of_flow("evaluate-youtube-vis") as progress:
        job = resumable(store.settings, card.run_id)
        return prepare_data(job, store.settings, progress).uri, rule or job.hold_out
