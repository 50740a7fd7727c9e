"""A registered model from a published checkpoint: a file at hand, or one that is fetched by its name."""

import tempfile
from pathlib import Path

from jobs import models
from jobs.store import Store
from jobs.training.fetching import fetch, published, sha256_of
from jobs.training.linking import free_name, require_tracker
from vis_models.cards import ModelCard
from vis_models.config import BadConfig
from vis_models.progress import Progress


def import_file(
    store: Store,
    file: str,
    classes: str,
    name: str | None = None,
    tracker: str | None = None,
    partly: bool = False,
    typed: str = "",
    source: str = "",
    licence: str = "",
) -> tuple[ModelCard, str]:
    """Register the model of a checkpoint. Returns its card and what was loaded, in words.

    Args:
        file: a path or an `s3://` address.
        classes, tracker, partly: as `vis_models.published.import_weights` says.

    Raises:
        BadConfig: no such file, a name that is taken, and what `import_weights` refuses.
    """
    if tracker is not None:
        require_tracker(tracker)
    name = free_name(store, name or Path(file).name.partition(".")[0])
    path = store.local_copy(file)
    if not path.is_file():
        raise BadConfig(f"no checkpoint at {file}: give the path of a .pth or .safetensors file")
    from vis_models.published import import_weights  # brings torch

    with tempfile.TemporaryDirectory() as scratch:
        card, report = import_weights(
            path,
            Path(scratch),
            classes,
            name=name,
            tracker=tracker,
            partly=partly,
            command=typed,
            source=source or f"{path.name}, sha256 {sha256_of(path)[:16]}",
            licence=licence,
        )
        models.put(store, name, Path(scratch))
    return card, str(report)


def fetch_model(
    store: Store,
    published_name: str,
    name: str | None = None,
    tracker: str | None = None,
    typed: str = "",
    progress: Progress | None = None,
) -> tuple[Path, ModelCard | None, str]:
    """Fetch a listed checkpoint and register its model. Returns (file, card; None of a backbone, what there is to say).

    Raises:
        BadConfig: as `fetch` and `import_file` say.
    """
    wanted = published(published_name)
    found = fetch(published_name, store.settings, progress)
    known = "as its name says" if found.checked else "which its authors do not say: it is kept as that of this file"
    said = f"{wanted.about}; {wanted.licence}; sha256 {found.sha256[:16]}..., {known}"
    if not wanted.classes:
        return found.path, None, said
    source = f"{wanted.url}, sha256 {found.sha256[:16]}"
    own = None if "MaskTrack" in wanted.about else "iou"
    card, report = import_file(
        store, str(found.path), wanted.classes, name or published_name, tracker or own, False, typed, source,
        wanted.licence,
    )  # fmt: skip
    return found.path, card, f"{said}\n            {report}"
