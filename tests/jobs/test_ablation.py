import csv
import json
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy import stats

from jobs.ablation import played as rows_that_are_played
from jobs.ablation import results as kept_results
from jobs.ablation.ablate import AblationJob, ablate, labels_of
from jobs.ablation.played import truly_linked
from jobs.ablation.results import RowResult, figures_of, predictions_of, read_results
from jobs.ablation.table import Comparison, markdown
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.evaluation.standings import standings
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.linking import link
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import RECIPES, build, how_trained, measured, published_ap
from jobs.training.train import train
from vis_models import masks as mask_ops
from vis_models.checkpoints import ModelCard, initialise, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category, as_youtube_vis, read_youtube_vis
from vis_models.data.world import CATEGORIES, WorldConfig, write_youtube_vis
from vis_models.idol.model import Idol
from vis_models.idol.rows import ROWS as IDOL_ROWS
from vis_models.mask_prop.model import MaskProp
from vis_models.mask_prop.rows import ROWS as MASKPROP_ROWS
from vis_models.masktrack_rcnn.model import MaskTrackRcnn
from vis_models.masktrack_rcnn.rows import ROWS as MASKTRACK_ROWS
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.rgnn.model import Rgnn
from vis_models.rgnn.rows import ROWS
from vis_models.rows import BASE


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


def compared(name: str, *figures) -> Comparison:
    return Comparison(name, ROWS[name], ROWS["proposed"], *figures)


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

    kept_results._add(store, "a", finished("proposed", 0))
    csv_of_one = store.read_bytes("a/results.csv")
    kept_results._add(store, "a", finished("limited", 1))
    store.write_bytes("a/results.csv", csv_of_one)  # the other process wrote last, of what it had read before
    assert [(r.row, r.seed) for r in read_results(store, "a")] == [("proposed", 0), ("limited", 1)]
    assert len(kept_results._add(store, "a", finished("simple", 2))) == 3
    assert store.read_bytes("a/results.csv").decode().count("\n") == 4


@pytest.mark.unit
def test_a_row_with_a_detector_of_its_own_is_refused(given: Settings):
    with pytest.raises(BadConfig, match=r"'resnet101' changes the weights themselves"):
        ablate(job(rows=("resnet101",)), given)


def test_an_unknown_row_is_refused_with_the_known_ones(given: Settings):
    with pytest.raises(BadConfig, match=r"unknown row 'no_luck' of the paper's tables, did you mean "):
        ablate(job(rows=("no_luck",)), given)


@pytest.mark.unit
def test_a_gap_counts_as_reproduced_when_the_wider_of_both_intervals_is_below_zero():
    close, far = (-0.041, -0.040, -0.039), (-0.018, -0.039, -0.063)  # seeds that agree, seeds that do not
    assert compared("limited", 3, 0.3, -0.04, 0.02, close).verdict == "reproduced"
    assert compared("limited", 3, 0.3, -0.04, 0.06, close).verdict == "not reproduced"
    assert compared("limited", 3, 0.3, +0.04, 0.02, close).verdict == "not reproduced"
    assert compared("limited", 3, 0.3, -0.04, 0.016, far).verdict == "not reproduced"
    assert compared("limited", 1, 0.3, -0.04, 0.02, (-0.04,)).verdict == "reproduced in one run"
    assert compared("no_appearance", 1, 0.3, -0.04, 0.02, (-0.04,)).verdict == ""  # published: 0.8 AP below


@pytest.mark.unit
def test_the_spread_of_seeds_is_that_of_students_t_and_one_seed_has_none():
    for seeds in (2, 3, 6, 10):
        differences = tuple(np.random.default_rng(seeds).normal(-0.04, 0.01, seeds))
        low, high = stats.t.interval(0.95, seeds - 1, np.mean(differences), stats.sem(differences))
        said = compared("limited", seeds, 0.3, -0.04, 0.01, differences).spread_of_seeds
        assert said == pytest.approx((high - low) / 2, rel=1e-3)
    assert compared("limited", 1, 0.3, -0.04, 0.01, (-0.04,)).spread_of_seeds is None


@pytest.mark.unit
def test_the_table_shows_both_spreads_and_says_where_there_was_one_run():
    rows = [
        compared("proposed", 3, 0.228, 0.0, 0.0, (0.0, 0.0, 0.0)),
        compared("simple", 3, 0.188, -0.04, 0.016, (-0.018, -0.039, -0.063)),
        compared("no_gating", 1, 0.203, -0.023, 0.02, (-0.023,)),
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


# ---- rows for which nothing is trained -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store with a MaskTrack R-CNN of random weights that finds something everywhere."""
    folder = tmp_path_factory.mktemp("played")
    settings = Settings(store=str(folder / "lake"), scratch=folder / "scratch", workers=1, cpus_per_worker=1)
    torch.manual_seed(0)
    whole = build("masktrack_r18_world_tiny").config
    config = whole.model_copy(update={"detector": whole.detector.model_copy(update={"min_score": 0.0})})
    classes = tuple(Category(id=n, name=name) for n, name in enumerate(CATEGORIES, start=1))
    card = ModelCard(
        name="base",
        model="masktrack_rcnn",
        config=config.model_dump(mode="json"),
        classes=classes,
        created_at=datetime.now(UTC),
    )
    save_model(Path(Store.open(settings).path(f"{LAYOUT}/models/base")), MaskTrackRcnn(config), card)
    return settings


def of_masktrack(**changes) -> AblationJob:
    return AblationJob(**{"recipe": "masktrack_r18_world_tiny", "detector": "base"} | changes)


def test_every_row_of_masktrack_is_played_on_the_same_detections_and_an_interrupted_table_goes_on(
    played: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rows_that_are_played, "GROUP", 2)  # of 4 films
    groups = []

    def stop_in_the_second(task: str, done: int, total: int, figures: dict) -> None:
        if task == "play":
            groups.append(done)
            if len(groups) == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(of_masktrack(), played, stop_in_the_second)
    store, folder = Store.open(played), of_masktrack().folder
    first = store.read_bytes(f"{folder}/played/0.json.gz")
    done = ablate(of_masktrack(), played, stop_in_the_second)
    assert groups == [2, 2, 4]
    assert store.read_bytes(f"{folder}/played/0.json.gz") == first
    results = {result.row: result for result in read_results(store, folder)}
    assert set(results) == set(MASKTRACK_ROWS)
    assert results["image_oracle"].ap50 == 1.0  # its objects are the labels, and nothing here is crowded
    assert results["image_oracle"].ap > 0.9
    assert results["identity_oracle"].ap >= max(results[name].ap for name in MASKTRACK_ROWS if "oracle" not in name)
    titles = [line.split("|")[2].strip() for line in done.table.splitlines()[2:]]
    assert titles == [row.title for row in MASKTRACK_ROWS.values()]


def test_every_row_of_maskprop_is_played_and_one_without_refinement_looks_at_the_frames_itself(tmp_path: Path):
    write_youtube_vis(WorldConfig(height=96, width=160), tmp_path, 1, 2)
    labels = read_youtube_vis(tmp_path / "val.json")
    torch.manual_seed(0)
    whole = build("maskprop_r18_world_tiny").config
    model = MaskProp(whole.model_copy(update={"detector": whole.detector.model_copy(update={"min_score": 0.0})})).eval()
    torch.nn.init.constant_(model.refinement.change.bias, 3.0)  # larger masks
    rows = {name: row for name, row in MASKPROP_ROWS.items() if row.tracker is row.model is None}
    players = rows_that_are_played.Players(model, rows, rows_that_are_played.truth_of(labels), list(labels.categories))
    found = players.play(labels.videos)
    assert set(found) == set(rows)
    areas = {name: _area(found[name]) for name in (BASE, "no_refinement")}
    assert areas[BASE] > 1.2 * areas["no_refinement"] > 0
    alone = MaskProp(model.config.model_copy(update={"refinement": None})).eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    kept = {name: [entry["segmentations"] for entry in found[name]] for name in found}
    (same,) = (
        rows_that_are_played.Players(alone, {"proposed": rows[BASE]}, players.truth, list(labels.categories))
        .play(labels.videos)
        .values()
    )
    assert [entry["segmentations"] for entry in same] == kept["no_refinement"]
    assert kept["clip_3"] != kept[BASE]


def _area(entries: list) -> int:
    codes = [rle["counts"].encode() for entry in entries for rle in entry["segmentations"] if rle]
    return int(mask_ops.measure_px(codes)[0].sum())


def test_a_row_gives_what_its_own_model_gives_when_films_are_segmented(played: Settings):
    rows = {"proposed": "base", "iou_tracker": "base-iou"}
    ablate(of_masktrack(rows=tuple(rows)), played)
    store = Store.open(played)
    said = {result.row: result.ap for result in read_results(store, of_masktrack().folder)}
    link(store, "base", "iou", "base-iou")
    labels = labels_of(of_masktrack(), played).name
    scored = []
    for row, model in rows.items():
        job = SegmentJob(archive=labels, model=model, min_score=0, purpose="evaluation")
        done = segment(job, played)
        scored.append(evaluate(EvaluateJob(data=labels, plan=done.plan_id), played))
        assert scored[-1].figures["AP"] == pytest.approx(said[row], abs=1e-9), row

    found = standings([each.evaluation_id for each in scored], played)
    assert [(each.name, each.kind) for each in found] == [("base", "masktrack_rcnn"), ("base-iou", "mask_rcnn + iou")]
    whole = MaskTrackRcnn(build("masktrack_r18_world_tiny").config)
    assert found[0].parameters == sum(parameter.numel() for parameter in whole.parameters())
    assert found[1].parameters == sum(parameter.numel() for parameter in whole.detector.parameters())
    assert all(each.frames_per_s > 0 for each in found)


def registered(settings: Settings, name: str, model: torch.nn.Module, kind: str) -> None:
    classes = tuple(Category(id=n, name=each) for n, each in enumerate(CATEGORIES, start=1))
    config = model.config.model_dump(mode="json")  # type: ignore[operator, union-attr]
    card = ModelCard(name=name, model=kind, config=config, classes=classes, created_at=datetime.now(UTC))
    save_model(Path(Store.open(settings).path(f"{LAYOUT}/models/{name}")), model, card)


def registered_idol(settings: Settings, name: str, weights: Idol | None = None, **changes: Any) -> Idol:
    """An IDOL of random weights, or of those of another one, that finds something everywhere."""
    everything = {"min_score": 0.0, "new_score": 0.0, "class_score": 0.0}
    model = Idol(build("idol_r18_world_tiny").config.model_copy(update=everything | changes))
    if weights:
        model.load_state_dict(model.state_dict() | weights.state_dict())
    registered(settings, name, model, "idol")
    return model


def test_a_row_of_other_weights_is_played_by_the_model_that_was_trained_so(played: Settings):
    torch.manual_seed(1)
    whole = registered_idol(played, "whole")
    registered_idol(played, "twin", whole, embed_loss="id")
    registered_idol(played, "other", embed_loss="id")
    rows, said = ("ot_embedding", "id_temporal"), {}
    for name in ("twin", "other"):
        job = AblationJob(recipe="idol_r18_world_tiny", detector="whole", others=(name,), rows=rows)
        done = ablate(job, played)
        said[name] = [predictions_of(Store.open(played), job.folder, row, 0) for row in ("proposed", "id_temporal")]
    assert said["twin"][1] == said["twin"][0] == said["other"][0] != said["other"][1]
    assert [line.split("|")[2].strip() for line in done.table.splitlines()[2:]] == [
        IDOL_ROWS[name].title for name in ("proposed", "id_temporal", "ot_embedding")
    ]

    lacking = "row 'iou_multicue' is .* embed_loss=contrastive, select=iou, unlike those of whole, twin"
    with pytest.raises(BadConfig, match=f"{lacking}.*config.select=iou, and given as --other"):
        ablate(AblationJob(recipe="idol_r18_world_tiny", detector="whole", others=("twin",)), played)


def test_a_row_is_played_by_the_head_of_another_kind_of_model_over_the_same_detector_and_over_no_other(
    played: Settings,
):
    torch.manual_seed(2)
    tiny = build("maskprop_r18_world_tiny").config
    whole = MaskProp(tiny.model_copy(update={"detector": tiny.detector.model_copy(update={"min_score": 0.0})}))
    head = MaskTrackRcnn(
        build("masktrack_r18_world_tiny").config.model_copy(update={"detector": whole.config.detector})
    )
    registered(played, "stranger", head, "masktrack_rcnn")
    head.detector.load_state_dict(whole.detector.state_dict())
    surer = head.config.detector.model_copy(update={"min_score": 0.4})
    other = MaskTrackRcnn(head.config.model_copy(update={"detector": surer}))
    other.load_state_dict(head.state_dict())
    registered(played, "surer", other, "masktrack_rcnn")
    registered(played, "carries", whole, "mask_prop")
    registered(played, "looks", head, "masktrack_rcnn")
    ask = partial(AblationJob, recipe="maskprop_r18_world_tiny", detector="carries", rows=("masktrack",))
    job = ask(others=("stranger", "surer", "looks"))
    ablate(job, played)
    done = ablate(job.model_copy(update={"rows": ("masktrack", "iou_tracker")}), played)  # goes on
    titles = [MASKPROP_ROWS[name].title for name in (BASE, "masktrack", "iou_tracker")]
    assert [line.split("|")[2].strip() for line in done.table.splitlines()[2:]] == titles
    said = {name: predictions_of(Store.open(played), job.folder, name, 0) for name in (BASE, "masktrack")}
    assert said[BASE] != said["masktrack"]

    how = r"--set config\.detector\.min_score=0\.4 --set stages\.0\.part=head"
    with pytest.raises(BadConfig, match=f"'masktrack' changes the weights themselves.*masktrack_r18_world_tiny.*{how}"):
        ablate(ask(), played)
    for others in (("stranger",), ("surer",)):
        lacking = f"over the detector of carries, as none of carries, {others[0]} is. Its head is trained.*--row"
        with pytest.raises(BadConfig, match=lacking):
            ablate(ask(others=others), played)
    with pytest.raises(BadConfig, match="looks is of the kind 'masktrack_rcnn', the recipe maskprop_r18_world_tiny of"):
        ablate(ask(detector="looks", others=("carries",)), played)


def test_the_head_of_a_row_is_trained_as_it_is_said_from_a_model_of_the_other_kind(played: Settings, tmp_path: Path):
    whole = build("maskprop_r18_world_tiny")
    registered(played, "carries", MaskProp(whole.config), "mask_prop")
    said = how_trained("maskprop_r18_world_tiny", "masktrack").split()
    sets = dict(said[n + 1].strip(",").split("=") for n, word in enumerate(said) if word == "--set")
    head = build(said[said.index("--recipe") + 1], sets)
    folder = Path(Store.open(played).path(f"{LAYOUT}/models/carries"))
    model = MaskTrackRcnn(head.config)
    classes = tuple(Category(id=n, name=each) for n, each in enumerate(CATEGORIES, start=1))
    report = initialise(model, folder, classes)
    assert all(key.startswith("track_head.") for key in report.missing)
    assert report.loaded == len(model.detector.state_dict())
    assert head.stages[0].part == "head"


@pytest.mark.unit
def test_what_the_labels_cut_into_pieces_is_whole_again_under_their_identities(tmp_path: Path):
    write_youtube_vis(WorldConfig(height=48, width=64, frames=6), tmp_path, 0, 2)
    videos = read_youtube_vis(tmp_path / "val.json")
    truth, pieces = GroundTruth(as_youtube_vis(videos), "labels"), []
    for labelled in as_youtube_vis(videos)["annotations"]:
        for part in (slice(0, 3), slice(3, 6)):
            masks = [rle if n in range(*part.indices(6)) else None for n, rle in enumerate(labelled["segmentations"])]
            piece = {name: labelled[name] for name in ("video_id", "category_id")} | {"segmentations": masks}
            pieces += [piece | {"score": 0.5}] if any(masks) else []
    whole = [entry for video in videos.videos for entry in truly_linked(truth, video, pieces)]
    assert figures_of(videos, pieces)["ap"] < figures_of(videos, whole)["ap"] == pytest.approx(1.0)
    assert json.loads(json.dumps(whole)) == whole  # as they are kept


@pytest.mark.unit
def test_a_model_of_another_kind_than_the_recipe_s_is_refused(given: Settings, played: Settings):
    with pytest.raises(BadConfig, match=r"base is of the kind 'rgnn', the recipe masktrack_r18_world_tiny of 'mask"):
        ablate(of_masktrack(rows=()), given)


@pytest.mark.unit
def test_a_published_gap_upwards_counts_as_reproduced_when_the_interval_is_above_zero():
    row, base = MASKTRACK_ROWS["image_oracle"], MASKTRACK_ROWS["proposed"]
    assert Comparison("image_oracle", row, base, 1, 0.8, 0.4, 0.05, (0.4,)).verdict == "reproduced in one run"
    assert Comparison("image_oracle", row, base, 1, 0.3, -0.1, 0.05, (-0.1,)).verdict == "not reproduced in one run"


@pytest.mark.unit
def test_a_row_says_what_its_paper_reports_on_ovis_too():
    row, base = IDOL_ROWS["ot_embedding"], IDOL_ROWS["proposed"]
    table = markdown([Comparison("ot_embedding", row, base, 1, 0.1, -0.01, 0.02, (-0.01,))], "R", "D", trained=False)
    assert "| 44.8 (OVIS 28.3) | 10.0 (1) |" in table


@pytest.mark.unit
def test_the_cue_rows_are_every_choice_of_three_cues_but_all():
    table = [row for row in MASKTRACK_ROWS.values() if row.table == 2]
    assert sorted(tuple(sorted(row.changes)) for row in table) == sorted(
        tuple(sorted(off)) for n in (1, 2, 3) for off in combinations(("category_cue", "det_cue", "iou_cue"), n)
    )
    assert all(value is False for row in table for value in row.changes.values())
