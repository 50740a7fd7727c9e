"""`train-rgnn`: a recipe and its data in, a registered model out, and an event that says so."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal

from flows.events import model_registered
from flows.progress import say, shown
from flows.steps import command, launch, mendable, run_name
from jobs.models import find
from jobs.recipes import build
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.train import resumable, train


@flow(name="train-rgnn", flow_run_name="train-{recipe}")
@mendable
def train_rgnn(
    recipe: str = "rgnn_r18_world_easy",
    data: str | None = None,
    init: str | None = None,
    detector: str | None = None,
    resume: str | None = None,
    changes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train RGNN: detector, gate, tracker, a registered model. Without parameters it draws the easy world first.

    Args:
        recipe: Name of a complete run; `vis models --recipes` lists them.
        data: Folder or s3:// address of a data set in the YouTube-VIS format; recipes of drawn worlds need none.
        init: Checkpoint to start from (torchvision ResNet, YOLACT, RGNN); random weights without it.
        detector: Registered model whose detector is taken, so that only the tracker is trained.
        resume: Name of an earlier run to continue with its own recipe and data; the other parameters are not used.
        changes: Fields of the recipe to change, by dotted path, such as {"stages.0.iterations": 500}.
    """
    settings = Settings()
    store = Store.open(settings)
    given = {key: store.address(place) for key, place in {"data": data, "init": init}.items() if place}
    if detector:
        given["detector"] = find(store, detector)
    if resume:
        run_id, job = resume, resumable(settings, resume)
    else:
        run_id, job = run_name(recipe), build(recipe, (changes or {}) | given)
    try:
        card = launch(train, job, run_id=run_id, command=command())
    except (KeyboardInterrupt, SystemExit, TerminationSignal):
        say(f"stopped; `vis train --resume {run_id}` goes on")
        raise
    model = store.uri(f"{LAYOUT}/models/{card.name}")
    model_registered(card, model)
    figures = "".join(f"| {name} | {value:.3f} |\n" for name, value in card.metrics.items())
    with shown():
        create_markdown_artifact(
            key="train-rgnn",
            markdown=f"# {card.name}\n\n`{model}`\n\n| at the end of training | |\n|---|---|\n{figures}\n"
            f"recipe {card.recipe}, data {card.data}, commit {card.commit}, sha256 {card.sha256}\n",
            description=f"model {card.name}",
        )
    return {"model": card.name, "uri": model, "metrics": card.metrics}
