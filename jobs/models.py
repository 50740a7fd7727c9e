"""The registered models of a store: which there are, and where the folder of one lies."""

from jobs.store import LAYOUT, Store
from vis_models.cards import CARD, ModelCard
from vis_models.config import BadConfig


def registered(store: Store) -> dict[str, ModelCard]:
    """Name -> card of every registered model, oldest first."""
    keys = [key for key in store.list(f"{LAYOUT}/models") if key.endswith(f"/{CARD}")]
    cards = {key.split("/")[-2]: ModelCard.model_validate_json(store.read_bytes(key)) for key in keys}
    return dict(sorted(cards.items(), key=lambda item: (item[1].created_at, item[0])))


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
    names = ", ".join(list(known)[-5:]) or "none"
    raise BadConfig(f"{model} is neither a registered model (newest last: {names}) nor a folder with {CARD}")
