"""The registered models of a store: which there are, and where the folder of one lies."""

from pathlib import Path

from pydantic import ValidationError

from jobs.store import LAYOUT, Store
from vis_models.cards import CARD, WEIGHTS, ModelCard
from vis_models.config import BadConfig, nearest


def registered(store: Store) -> dict[str, ModelCard]:
    """Name -> card of every registered model, oldest first; without the damaged ones."""
    return _read(store)[0]


def damaged(store: Store) -> dict[str, str]:
    """Name -> what is wrong with it, of every model that cannot be used."""
    return _read(store)[1]


def _read(store: Store) -> tuple[dict[str, ModelCard], dict[str, str]]:
    cards: dict[str, ModelCard] = {}
    wrong: dict[str, str] = {}
    keys = set(store.list(f"{LAYOUT}/models"))
    for key in sorted(key for key in keys if key.endswith(f"/{CARD}")):
        folder, name = key.rpartition("/")[0], key.split("/")[-2]
        try:
            cards[name] = ModelCard.model_validate_json(store.read_bytes(key))
        except ValidationError as error:
            wrong[name] = f"{store.uri(key)} is no model card: {error.errors()[0]['msg']}"
        if f"{folder}/{WEIGHTS}" not in keys:
            cards.pop(name, None)
            wrong.setdefault(name, f"{store.uri(folder)} holds no {WEIGHTS}")
    return dict(sorted(cards.items(), key=lambda item: (item[1].created_at, item[0]))), wrong


def find(store: Store, model: str | None = None) -> str:
    """Address of a model folder: `model` is a registered name, a folder or an `s3://` address; None the newest.

    Raises:
        BadConfig: no model was registered, or none of this name.
    """
    known = registered(store)
    if model is None and known:
        model = list(known)[-1]
    if model in known:
        return store.uri(f"{LAYOUT}/models/{model}")
    if model is None:
        raise BadConfig(f"no model is registered in {store.uri('')}: train one (`vis train`), or name a model folder")
    fs, path = store.open_source(model)
    with store.guard(model):
        if fs.isfile(f"{path}/{CARD}"):
            return store.address(model)
    if model in (wrong := damaged(store)):
        raise BadConfig(f"the registered model {model} cannot be used: {wrong[model]}")
    if meant := nearest(model, known):
        raise BadConfig(f"no model {model!r}, did you mean {meant}; `vis models` lists all")
    names = ", ".join(list(known)[-5:]) or "none"
    raise BadConfig(f"{model} is neither a registered model (newest last: {names}) nor a folder with {CARD}")


def put(store: Store, name: str, folder: Path) -> None:
    """Register the model of a folder; the card last: a folder without one is no model."""
    for file in (WEIGHTS, CARD):
        store.write_bytes(f"{LAYOUT}/models/{name}/{file}", (folder / file).read_bytes())


def find_to_score(store: Store, model: str | None) -> str:
    """`find`; where there is none, the error also says what else could be meant."""
    try:
        return find(store, model)
    except BadConfig as error:
        raise BadConfig(
            f"{error}. To score the results of another program, name them: --results, or `results`"
        ) from None
