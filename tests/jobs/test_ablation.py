import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy import stats

from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training import ablation
from jobs.training.ablation import AblationJob, Comparison, RowResult, ablate, labels_of, markdown, read_results
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import RECIPES, build, measured, published_ap
from jobs.training.train import train
from vis_models.checkpoints import ModelCard, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.data.world import CATEGORIES
from vis_models.rgnn.config import ROWS
from vis_models.rgnn.model import Rgnn


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store with one model, whose detector says what random weights say."""
    folder = tmp_path_factory.mktemp("ablation")
    settings = Settings(store=str(folder / "lake"), scratch=folder / "scratch")
    torch.manual_seed(0)
    config = build("rgnn_r18_world_tiny").config
    classes = tuple(Category(id=n, name=name) for n, name in enumerate(CATEGORIES, start=1))
    card = ModelCard(
        name="base", model="rgnn", config=config.model_dump(mode="json"), classes=classes, created_at=datetime.now(UTC)
    )
    save_model(Path(Store.open(settings).path(f"{LAYOUT}/models/base")), Rgnn(config), card)
    return settings


def job(**changes) -> AblationJob:
    fields = {"recipe": "rgnn_r18_world_tiny", "detector": "base", "rows": ("proposed", "no_appearance", "limited")}
    return AblationJob(**fields | {"seeds": (0, 1), "iterations": 2} | changes)


def test_each_row_is_trained_on_the_same_encodings_and_scored_and_a_finished_one_is_kept(
    given: Settings, local_ray: None
):
    first = ablate(job(rows=()), given)
    done = ablate(job(), given)
    assert done.uri == first.uri
    store = Store.open(given)
    folder = f"{LAYOUT}/{done.uri.split(LAYOUT + '/')[1]}"
    results = {(result.row, result.seed): result for result in read_results(store, folder)}
    assert set(results) == {
        ("proposed", 0), ("proposed", 1), ("no_appearance", 0), ("limited", 0), ("limited", 1)
    }  # fmt: skip
    kept = {(result.row, result.seed): result for result in read_results(store, f"{LAYOUT}/{folder.split('/', 2)[2]}")}
    assert kept["proposed", 0].created_at == results["proposed", 0].created_at
    assert len(list((given.scratch / "encodings").iterdir())) == 2  # training and validation, for all rows
    assert {line.split("|")[2].strip() for line in done.table.splitlines()[2:]} == {
        ROWS[name].title for name in ("proposed", "no_appearance", "limited")
    }
    spreads = list(csv.DictReader(store.read_bytes(f"{folder}/videos.csv").decode().splitlines()))
    assert {(s["row"], s["detector"], s["seeds"]) for s in spreads} == {
        ("no_appearance", "base", "1"), ("limited", "base", "2")
    }  # fmt: skip
    assert set(store.read_json(f"{folder}/detector.json")) == {"identity_oracle_ap", "identity_oracle_ap50"}


def test_the_evaluator_gives_the_score_in_the_table_to_the_results_of_a_row(given: Settings, local_ray: None):
    done = ablate(job(rows=("proposed",), seeds=(0,)), given)
    store = Store.open(given)
    folder = f"{LAYOUT}/{done.uri.split(LAYOUT + '/')[1]}"
    said = next(result for result in read_results(store, folder) if result.row == "proposed")
    labels = labels_of(job(), given).name
    results = store.uri(f"{folder}/proposed-0.results.json.gz")
    again = evaluate(EvaluateJob(data=labels, results=results), given)
    assert again.figures["AP"] == pytest.approx(said.ap, abs=1e-12)
    assert json.loads(Path(labels).read_text())["videos"]


def test_a_recipe_without_cached_copies_is_trained_on_clips_that_are_drawn_anew(
    given: Settings, local_ray: None, monkeypatch: pytest.MonkeyPatch
):
    tiny = RECIPES["rgnn_r18_world_tiny"]

    def uncached() -> TrainJob:
        whole = tiny()
        changes = {"cached_copies": 0, "batch_size": 2, "clip_length": 9}  # no other test caches clips of this length
        return whole.model_copy(
            update={"recipe": "uncached", "stages": (whole.stages[0], whole.stages[1].model_copy(update=changes))}
        )

    monkeypatch.setitem(RECIPES, "uncached", uncached)
    encodings = given.scratch / "encodings"
    before = set(encodings.glob("*"))
    ablate(job(recipe="uncached", rows=("proposed",), seeds=(0,), iterations=1), given)
    validation = uncached().world.val_videos
    assert all(len(list(folder.iterdir())) <= validation for folder in set(encodings.glob("*")) - before)


def test_a_tracker_is_trained_alone_on_the_detector_of_another_model(given: Settings, local_ray: None):
    changes = {"detector": "base", "stages.1.iterations": 2}
    card = train(build("rgnn_r18_world_tiny", changes), given, "tracker-alone")
    store = Store.open(given)
    ours, base = (load(store.read_bytes(f"{LAYOUT}/models/{name}/model.safetensors")) for name in (card.name, "base"))
    same = {key for key in base if torch.equal(base[key], ours[key])}
    assert {key for key in base if key.startswith("detector.")} <= same
    assert "match_head.weight" not in same
    assert not store.exists(f"{LAYOUT}/runs/tracker-alone/detector/done.json")


@pytest.mark.unit
def test_rows_are_compared_with_the_proposed_approach_though_nobody_named_it_and_each_is_run_once():
    assert job(rows=("limited", "no_appearance", "limited")).runs == [
        ("proposed", 0), ("limited", 0), ("no_appearance", 0), ("proposed", 1), ("limited", 1)
    ]  # fmt: skip


@pytest.mark.unit
def test_two_ablations_in_one_folder_lose_no_run_of_each_other(tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path)))
    figures = dict.fromkeys(("ap", "ap50", "ap75", "ar10", "loss", "minutes"), 0.5)
    words = dict.fromkeys(("recipe", "detector", "data", "command", "commit"), "x")

    def finished(row: str, seed: int) -> RowResult:
        return RowResult(
            row=row, seed=seed, iterations=2, videos=3, created_at=f"2026-01-0{seed + 1}", **figures, **words
        )

    ablation._add(store, "a", finished("proposed", 0))
    csv_of_one = store.read_bytes("a/results.csv")
    ablation._add(store, "a", finished("limited", 1))
    store.write_bytes("a/results.csv", csv_of_one)  # the other process wrote last, of what it had read before
    assert [(r.row, r.seed) for r in read_results(store, "a")] == [("proposed", 0), ("limited", 1)]
    assert len(ablation._add(store, "a", finished("simple", 2))) == 3
    assert store.read_bytes("a/results.csv").decode().count("\n") == 4


@pytest.mark.unit
def test_a_row_with_a_detector_of_its_own_is_refused(given: Settings):
    with pytest.raises(BadConfig, match=r"'resnet101' changes the detector itself"):
        ablate(job(rows=("resnet101",)), given)


def test_an_unknown_row_is_refused_with_the_known_ones(given: Settings):
    with pytest.raises(BadConfig, match=r"unknown row 'no_luck' of the paper's tables, did you mean "):
        ablate(job(rows=("no_luck",)), given)


@pytest.mark.unit
def test_a_gap_counts_as_reproduced_when_the_wider_of_both_intervals_is_below_zero():
    close, far = (-0.041, -0.040, -0.039), (-0.018, -0.039, -0.063)  # seeds that agree, seeds that do not
    assert Comparison("limited", 3, 0.3, -0.04, 0.02, close).verdict == "reproduced"
    assert Comparison("limited", 3, 0.3, -0.04, 0.06, close).verdict == "not reproduced"
    assert Comparison("limited", 3, 0.3, +0.04, 0.02, close).verdict == "not reproduced"
    assert Comparison("limited", 3, 0.3, -0.04, 0.016, far).verdict == "not reproduced"
    assert Comparison("limited", 1, 0.3, -0.04, 0.02, (-0.04,)).verdict == "reproduced in one run"
    assert Comparison("no_appearance", 1, 0.3, -0.04, 0.02, (-0.04,)).verdict == ""  # published: 0.8 AP below


@pytest.mark.unit
def test_the_spread_of_seeds_is_that_of_students_t_and_one_seed_has_none():
    for seeds in (2, 3, 6, 10):
        differences = tuple(np.random.default_rng(seeds).normal(-0.04, 0.01, seeds))
        low, high = stats.t.interval(0.95, seeds - 1, np.mean(differences), stats.sem(differences))
        said = Comparison("limited", seeds, 0.3, -0.04, 0.01, differences).spread_of_seeds
        assert said == pytest.approx((high - low) / 2, rel=1e-3)
    assert Comparison("limited", 1, 0.3, -0.04, 0.01, (-0.04,)).spread_of_seeds is None


@pytest.mark.unit
def test_the_table_shows_both_spreads_and_says_where_there_was_one_run():
    rows = [
        Comparison("proposed", 3, 0.228, 0.0, 0.0, (0.0, 0.0, 0.0)),
        Comparison("simple", 3, 0.188, -0.04, 0.016, (-0.018, -0.039, -0.063)),
        Comparison("no_gating", 1, 0.203, -0.023, 0.02, (-0.023,)),
    ]
    proposed, simple, no_gating = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(rows, "R", "D").splitlines()[2:]
    )
    assert proposed[3:8] == ["22.8 (3)", "", "", "", ""]
    assert simple[3:8] == ["18.8 (3)", "-4.0", "± 1.6", "± 5.6", "-3.8 not reproduced"]
    assert no_gating[3:8] == ["20.3 (1)", "-2.3", "± 2.0", "one run", ""]


@pytest.mark.unit
def test_every_row_of_the_tables_is_a_recipe_that_changes_one_switch():
    base = build("rgnn_r50_ytvis2019").model_dump()
    for name, row in ROWS.items():
        if not row.changes or name == "resnet101":
            continue
        changed = build(f"rgnn_r50_ytvis2019.{name}").model_dump()
        assert len(row.changes) == 1
        assert changed.pop("recipe") == f"rgnn_r50_ytvis2019.{name}"
        assert {key for key in base["config"] if base["config"][key] != changed["config"][key]} == set(row.changes)
        assert changed["stages"] == base["stages"]


@pytest.mark.unit
def test_published_and_measured_figures_belong_to_recipes_that_exist():
    assert published_ap("rgnn_r50_ytvis2019") == 35.3
    assert published_ap("rgnn_r50_ytvis2019.limited") == 28.6
    assert published_ap("rgnn_r50_ytvis2019.no_gating") is None  # diverges
    assert published_ap("rgnn_r18_world_demo") is None
    for name in RECIPES:
        ours = measured(name)
        assert ours is None or 0 < ours < 1
