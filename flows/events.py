"""What happens here that others may wait for: events of the Prefect server, for triggers and automations.

    vis.model.registered        `train-rgnn` registered a model; `evaluate-youtube-vis` waits for it
    vis.evaluation.regressed    `evaluate-youtube-vis` found a score worse than the accepted one, beyond chance

The API that one `vis` command starts for itself takes them too, and nobody hears.
"""

from typing import Any

from prefect.events import emit_event

from jobs.evaluation.acceptance import VIDEOS_SHOWN, Verdict
from vis_models.cards import ModelCard

REGISTERED = "vis.model.registered"
REGRESSED = "vis.evaluation.regressed"


def model_registered(card: ModelCard, uri: str) -> None:
    payload = {"model": card.name, "uri": uri, "sha256": card.sha256, "recipe": card.recipe, "metrics": card.metrics}
    _emit(REGISTERED, f"vis.model.{card.name}", card.name, payload)


def evaluation_regressed(verdict: Verdict, data: str, subject: str) -> None:
    """`subject`: the model or results file that was scored."""
    payload = {"data": data, "subject": subject, "text": str(verdict), **verdict.model_dump(mode="json")}
    changed = payload["compared"]["changed"]
    payload["compared"] |= {"changed": changed[:VIDEOS_SHOWN], "videos_changed": len(changed)}  # a server takes 1.5 MB
    _emit(REGRESSED, f"vis.evaluation.{verdict.evaluation_id}", subject, payload)


def _emit(event: str, resource: str, name: str, payload: dict[str, Any]) -> None:
    emit_event(event, {"prefect.resource.id": resource, "prefect.resource.name": name}, payload=payload)
