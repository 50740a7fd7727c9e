from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs import models
from jobs.settings import Settings
from jobs.store import Store
from vis_models.checkpoints import ModelCard
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


def register(store: Store, name: str, day: int) -> None:
    card = ModelCard(name=name, model="m", config={}, classes=(), created_at=datetime(2026, 1, day, tzinfo=UTC))
    store.write_bytes(f"vis/v1/models/{name}/card.json", card.model_dump_json().encode())
    store.write_bytes(f"vis/v1/models/{name}/model.safetensors", b"")


def test_the_newest_registered_model_is_found_without_a_name(store: Store):
    register(store, "z_old", 1)
    register(store, "a_new", 2)
    assert list(models.registered(store)) == ["z_old", "a_new"]
    assert models.find(store) == store.uri("vis/v1/models/a_new")
    assert models.find(store, "z_old") == store.uri("vis/v1/models/z_old")


def test_a_folder_is_a_model_too(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    register(store, "m", 1)
    folder = str(tmp_path / "vis/v1/models/m")
    assert models.find(store, folder) == folder


def test_without_a_model_the_remedy_is_named(store: Store):
    with pytest.raises(BadConfig, match=r"no model is registered in .*train one"):
        models.find(store)
    register(store, "m", 1)
    with pytest.raises(BadConfig, match=r"nowhere is neither a registered model \(newest last: m\) nor a folder"):
        models.find(store, "nowhere")
    with pytest.raises(BadConfig, match="neither a registered model"):
        models.find(store, "../../etc")


def test_a_damaged_model_is_named_and_holds_up_no_other(store: Store):
    register(store, "whole", 1)
    register(store, "lost_weights", 2)
    store.fs.rm(store.path("vis/v1/models/lost_weights/model.safetensors"))
    store.write_bytes("vis/v1/models/no_card/card.json", b"{}")
    assert list(models.registered(store)) == ["whole"]
    assert sorted(models.damaged(store)) == ["lost_weights", "no_card"]
    assert models.find(store) == store.uri("vis/v1/models/whole")
    with pytest.raises(BadConfig, match=r"lost_weights cannot be used: .* holds no model.safetensors"):
        models.find(store, "lost_weights")


def test_a_mistyped_model_is_met_with_the_right_name(store: Store):
    register(store, "rgnn-1a2b", 1)
    with pytest.raises(BadConfig, match="no model 'rgnn-1a2', did you mean rgnn-1a2b"):
        models.find(store, "rgnn-1a2")
