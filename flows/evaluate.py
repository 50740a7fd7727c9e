"""`evaluate-youtube-vis`: labelled videos in, AP out, compared with the evaluation before."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.progress import of_flow
from flows.steps import command, launch, mendable
from jobs.evaluate import EvaluateJob, data_file, evaluate
from jobs.models import find
from jobs.oracles import Oracle
from jobs.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store
from jobs.train import prepare_data, resumable
from vis_models.checkpoints import read_card


@flow(name="evaluate-youtube-vis", flow_run_name="evaluate-{data}")
@mendable
def evaluate_youtube_vis(
    data: str | None = None, model: str | None = None, oracle: Oracle | None = None, tracking_min_score: float = 0.3
) -> dict[str, Any]:
    """Segment the labelled videos with every track kept, score them by the YouTube-VIS rules, write one file.

    Args:
        data: YouTube-VIS JSON with labels, or a folder that holds it as val.json; empty: the validation videos of the
            data set that the model was trained on.
        model: Registered name, model folder or its s3:// address; empty: the model that was registered last.
        oracle: Score the tracks with one thing made perfect: identity, frame, clip or image; empty: as they are.
        tracking_min_score: Tracks under this video score take no part in HOTA, MOTA and IDF1, which know no scores.
    """
    store = Store.open(Settings())
    labels = store.address(data_file(store, data or _training_data(store, model)))
    tracks = launch(segment, SegmentJob(archive=labels, model=model, min_score=0, command=command()))
    job = EvaluateJob(
        data=labels,
        plan=tracks.plan_id,
        oracle=oracle,
        tracking_min_score=tracking_min_score,
        command=command(),
    )
    done = launch(evaluate, job)
    figures = [
        {"figure": name, "value": f"{value:.4f}", "change": f"{done.change[name]:+.4f}" if name in done.change else ""}
        for name, value in done.figures.items()
    ]
    figures += [{"figure": name, "value": f"{value:.4f}", "change": ""} for name, value in done.tracking.items()]
    create_table_artifact(key="evaluate-youtube-vis", table=figures, description=f"{labels}, model {tracks.model}")
    notes = "".join(f"- {note}\n" for note in done.notes)
    compared = f"compared with `{done.before_id}`" if done.before_id else "the first evaluation of this data set"
    create_markdown_artifact(
        key="evaluate-youtube-vis-summary",
        markdown=f"# AP {done.figures['AP']:.3f}\n\n`{labels}`, model {tracks.model}, {compared}\n\n{notes}\n"
        f"`{done.uri}`\n",
        description=f"evaluation {done.evaluation_id}",
    )
    return done.model_dump(mode="json") | {"data": labels, "model": tracks.model, "plan": tracks.plan_id}


def _training_data(store: Store, model: str | None) -> str:
    """The data set that a model was trained on; a drawn one is drawn again where it is missing.

    Raises:
        BadConfig: the model was not trained in this store.
    """
    card = read_card(store.local_copy(find(store, model)))
    with of_flow("evaluate-youtube-vis") as progress:
        return prepare_data(resumable(store.settings, card.run_id), store.settings, progress).uri
