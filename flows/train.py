"""`train`: a recipe and its data in, a registered model out, and an event that says so.

One flow for every model; each model has a deployment of its own, such as `train-rgnn` (infra/prefect.yaml).
"""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from flows.events import model_registered
from flows.progress import say, shown
from flows.steps import Address, command, launch, mendable, training_run
from jobs.models import registered
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.forks import take_over
from jobs.training.recipes.catalogue import DEFAULT, DEFAULTS
from jobs.training.runs import asked_for, has_begun, resumable, says_why_it_ends
from jobs.training.train import train as train_recipe


def _run_name() -> str:
    return f"train-{training_run(flow_run.parameters)}"


@flow(name="train", flow_run_name=_run_name)
@mendable
def train(
    recipe: str = DEFAULT,
    data: Address | None = None,
    init: Address | None = None,
    detector: Address | None = None,
    resume: str | None = None,
    origin: str | None = None,
    changes: dict[str, Any] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Train the model of a recipe, stage by stage, and register it. Without parameters it draws the easy world first.

    Args:
        recipe: Name of a complete run; `vis models --recipes` lists them.
        data: Folder or s3:// address of a data set in the YouTube-VIS format; recipes of drawn worlds need none.
        init: Checkpoint to start from (torchvision ResNet, YOLACT, RGNN); random weights without it.
        detector: Registered model whose detector is taken, so that only the tracker is trained.
        resume: Name of an earlier run to continue with its own recipe, data and fields; others are refused beside it
            but the folder to which its data were moved.
        origin: Name of an earlier run from whose newest checkpoint a new one goes on, with `changes` of its stages.
        changes: Fields of the recipe to change, by dotted path, such as {"stages.0.iterations": 500}.
        name: Of the run and of the model that it registers; empty: made from the recipe.
    """
    store = Store.open(Settings())
    given: dict[str, Any] = {"data": data, "init": init, "detector": detector, "changes": changes, "name": name}
    given["recipe"] = None if (resume or origin) and recipe in DEFAULTS else recipe
    job = asked_for(store, resume=resume, origin=origin, **given)
    run_id = training_run(flow_run.parameters)
    before = registered(store)
    try:
        with says_why_it_ends(store, run_id):
            if origin:
                say(take_over(store, origin, resumable(store, origin), job, run_id))
            card = launch(train_recipe, job, run_id=run_id, command=command())
    except (KeyboardInterrupt, SystemExit, TerminationSignal):
        say(f"stopped; `vis train --resume {run_id}` goes on" if has_begun(store, run_id) else "stopped")
        raise
    model = store.uri(f"{LAYOUT}/models/{card.name}")
    if card.name not in before:
        model_registered(card, model)
    figures = "".join(f"| {name} | {value:.3f} |\n" for name, value in card.metrics.items())
    with shown():
        create_markdown_artifact(
            key="train",
            markdown=f"# {card.name}\n\n`{model}`\n\n| at the end of training | |\n|---|---|\n{figures}\n"
            f"recipe {card.recipe}, data {card.data}, commit {card.commit}, sha256 {card.sha256}\n",
            description=f"model {card.name}",
        )
    return {"model": card.name, "uri": model, "metrics": card.metrics}
