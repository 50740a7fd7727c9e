"""A registered model that is trained already: the detector of another one, and a tracker that has nothing to learn."""

import posixpath
import tempfile
from pathlib import Path
from typing import Any

from jobs import models
from jobs.store import Store
from jobs.training.recipes.base import fit_name
from vis_models.cards import ModelCard
from vis_models.config import BadConfig, nearest
from vis_models.trackers.config import TRACKERS


def link(
    store: Store,
    model: str,
    tracker: str,
    name: str | None = None,
    fields: dict[str, Any] | None = None,
    typed: str = "",
) -> ModelCard:
    """Put the detector of a model and a tracker together, and register both under one name.

    Args:
        model: a registered name, a folder or an `s3://` address.
        fields: of the tracker's config, to be changed.
        name: of the new model; None: those of both.
        typed: the command.

    Raises:
        BadConfig: no such model, tracker or field; a model without a detector of its own; a name that is taken.
    """
    require_tracker(tracker)
    name = free_name(store, name or f"{posixpath.basename(model.rstrip('/'))}-{tracker}")
    source = store.local_copy(models.find(store, model))
    from vis_models.trackers import linking  # brings torch

    with tempfile.TemporaryDirectory() as scratch:
        card = linking.link(source, Path(scratch), {**(fields or {}), "name": tracker}, name, typed)
        models.put(store, name, Path(scratch))
    return card


def require_tracker(tracker: str) -> None:
    """Raises BadConfig: there is none of this name."""
    if tracker not in TRACKERS:
        meant = nearest(tracker, TRACKERS)
        hint = f"did you mean {meant}" if meant else f"expected one of {', '.join(TRACKERS)}"
        raise BadConfig(f"unknown tracker {tracker!r}, {hint}")


def free_name(store: Store, name: str) -> str:
    """`name`. Raises BadConfig: it cannot be one, or a registered model has it."""
    try:
        fit_name(name)
    except ValueError as error:
        raise BadConfig(f"--name: {error}") from None
    if name in models.registered(store):
        raise BadConfig(f"--name {name}: a registered model has it already, take another")
    return name
