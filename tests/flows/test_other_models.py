"""A model of another package goes the whole road without a line of ours: trained, registered, segmenting, scored."""

import json
import os
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.recipes.catalogue import build
from tests.conftest import REPOSITORY
from tests.flows.conftest import Program
from tests.tiny_model import install
from vis_models.config import BadConfig
from vis_models.zoo import config_class


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages with the model in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder)
    return folder


def test_it_is_trained_on_pairs_registered_segments_an_archive_and_is_scored(vis: Program, site: Path, tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    given = {"VIS_STORE": str(tmp_path / "lake"), "PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}"}
    assert "tiny_pairs" in vis("models", "--recipes", **given).stdout
    told = vis("train", "--recipe", "tiny_pairs", "--name", "small", **given).stderr
    assert all(f"train pairs: after {done} iterations val_ap 0" in told for done in (6, 12))
    card = store.read_json(f"{LAYOUT}/models/small/card.json")
    assert (card["model"], card["recipe"]) == ("tiny", "tiny_pairs")
    assert card["metrics"]["best_at"] in (6, 12)
    assert 0 <= card["metrics"]["val_ap"] <= card["metrics"]["val_ap50"]
    best = store.read_bytes(f"{LAYOUT}/runs/small/pairs/result.safetensors")
    assert store.read_bytes(f"{LAYOUT}/models/small/model.safetensors") == best

    vis("world", tmp_path / "films", "--archive", 1, "--frames", 4)
    vis("segment", tmp_path / "films", **given)
    (plan,) = store.plans()
    assert (plan.lineage["model_name"], plan.counts["done"], plan.counts["frames"]) == ("small", 1, 4)
    vis("evaluate", **given)
    figures = vis("query", "SELECT metric, value FROM evaluations WHERE metric = 'AP' AND category IS NULL AND "
                  "video_id IS NULL", "--format", "json", **given).stdout  # fmt: skip
    assert 0 <= json.loads(figures)[0]["value"] <= 1


@pytest.mark.unit
def test_its_names_are_known_where_it_is_installed_and_refused_where_not(site: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadConfig, match="unknown recipe 'tiny_pairs', expected one of"):
        build("tiny_pairs")
    with pytest.raises(BadConfig, match="unknown model 'tiny', expected one of"):
        config_class("tiny")
    monkeypatch.syspath_prepend(site)
    assert build("tiny_pairs", {"config.channels": 3}).config.channels == 3
    with pytest.raises(BadConfig, match="unknown recipe 'tiny_pear', did you mean tiny_pairs"):
        build("tiny_pear")
