"""`report`: published tables and scores in, one page out."""

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.progress import shown
from flows.steps import command, launch, mendable
from jobs.evaluation import evaluations
from jobs.reporting.report import ReportJob, write_report
from jobs.reporting.run_report import RunReportJob, write_run_report
from jobs.settings import Settings
from jobs.store import Store
from vis_models.config import BadConfig


@flow(name="report")
@mendable
def report(
    plan: str | None = None,
    evaluation: str | None = None,
    videos: Annotated[int, Field(ge=0)] = 3,
    pictures: Annotated[int, Field(gt=0)] = 5,
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.3,
    run: str | None = None,
) -> dict[str, Any]:
    """Write one self-contained HTML page: figures, curves, errors, throughput, the best and worst videos in pictures.

    Args:
        plan: Plan whose tables are shown; empty: that of the evaluation.
        evaluation: Evaluation whose figures are shown; empty: the newest of the plan, if there is one. Where
            neither is named: the newest evaluation of a model or, if it came later, the archive segmented last.
        videos: How many of the best and how many of the worst videos.
        pictures: Frames of each.
        min_score: Tracks under this video score are not drawn; the figures count them.
        run: Training run that the page is about, instead of tables and scores.
    """
    if run:
        if plan or evaluation:
            raise BadConfig(f"a page is about the training run {run}, or about a plan or evaluation: name one of them")
        about = launch(write_run_report, RunReportJob(run=run, command=command()))
        _shown(about.uri, about.figures, f"training run {run}")
        return about.model_dump(mode="json")
    job = ReportJob(
        plan=plan, evaluation=evaluation, videos=videos, pictures=pictures, min_score=min_score, command=command()
    )
    page = launch(write_report, job)
    figures = _figures(page.evaluation_id) if page.evaluation_id else {}
    _shown(page.uri, figures, f"plan {page.plan_id}, evaluation {page.evaluation_id}")
    return page.model_dump(mode="json") | {"figures": figures}


def _figures(evaluation_id: str) -> dict[str, float]:
    return evaluations.summary(evaluations.read(Store.open(Settings()), evaluation_id)[0])


def _shown(uri: str, figures: dict[str, float], subject: str) -> None:
    """As an artifact of the flow run."""
    rows = "".join(f"| {name} | {value:.3f} |\n" for name, value in figures.items())
    with shown():
        create_markdown_artifact(
            key="report",
            markdown=f"# Report\n\n`{uri}`\n\n| figure | value |\n|---|---|\n{rows}",
            description=subject,
        )
