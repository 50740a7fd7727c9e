"""What a training run would stumble over later is said before its first stage, without Ray."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training import preflight
from jobs.training.data_sets import Data
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import build
from jobs.training.train import freeze, prepare_run, train
from vis_models.checkpoints import ModelCard, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.data.world import CATEGORIES, WorldConfig, write_youtube_vis
from vis_models.rgnn.model import Rgnn

pytestmark = pytest.mark.unit
SMALL = {"stages.0.batch_size": 2, "stages.1.batch_size": 2, "stages.1.clip_length": 3, "stages.0.gate_frames": 2}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_youtube_vis(WorldConfig(frames=4), tmp_path / "world", 3, 1)
    return tmp_path / "world"


def given(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch", device="cpu", **changes)


def prepared(world: Path, settings: Settings, **changes: Any) -> tuple[TrainJob, list[str]]:
    """The job whose run was prepared, and the notes."""
    job = build("rgnn_r18_world_tiny", SMALL | {"data": str(world)} | changes)
    notes: list[str] = []
    tell = lambda stage, done, total, info: notes.append(info.get("note", stage))  # noqa: E731
    prepare_run(job, job.stages, Data(job.data or "", "world"), settings, "run", tell)
    return job, notes


def test_a_run_without_fault_is_let_through_and_of_its_rehearsal_nothing_is_left(world: Path, tmp_path: Path):
    _, notes = prepared(world, given(tmp_path))
    found = {"read frames of train", "read frames of val", "note what train holds", "note what val holds"}
    assert set(notes) == found | {"rehearse every stage"}
    folder = f"{LAYOUT}/runs/run"
    assert Store.open(given(tmp_path)).list(folder) == [f"{folder}/data.json", f"{folder}/left_out.json"]


def test_a_store_that_takes_no_checkpoint_is_found_before_the_first_stage(world: Path, tmp_path: Path):
    blocked = Path(Store.open(given(tmp_path)).path(f"{LAYOUT}/runs/run/rehearsal"))
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    with pytest.raises(BadConfig, match=r"rehearsal/detector.* cannot be made"):
        prepared(world, given(tmp_path))


def test_a_step_that_leaves_a_loss_without_numbers_is_told_of_its_own_stage(world: Path, tmp_path: Path):
    with pytest.raises(BadConfig, match=r"stage detector diverged: .* learning_rate \(now 1e\+30\)"):
        prepared(world, given(tmp_path), **{"stages.0.learning_rate": 1e30})


def test_videos_too_short_for_the_second_stage_are_named_before_the_first(world: Path, tmp_path: Path):
    with pytest.raises(BadConfig, match=r"stage tracker: no video has the 9 frames .* the longest of 4 frames"):
        prepared(world, given(tmp_path), **{"stages.1.clip_length": 9})


def test_a_batch_of_the_second_stage_that_workers_cannot_share_is_named_before_the_first(world: Path, tmp_path: Path):
    with pytest.raises(BadConfig, match="stage tracker has batch_size 3, which 2 workers cannot share evenly"):
        prepared(world, given(tmp_path, workers=2), **{"stages.1.batch_size": 3})


def test_a_cut_off_frame_is_left_out_named_and_stays_so_for_the_whole_run(world: Path, tmp_path: Path):
    frame = sorted((world / "train").rglob("*.jpg"))[5]
    whole = frame.read_bytes()
    frame.write_bytes(whole[:300])
    with pytest.raises(BadConfig, match=rf"{frame} \(video \d+, frame 1\): expected a picture.*unreadable_share"):
        prepared(world, given(tmp_path))
    job, notes = prepared(world, given(tmp_path), unreadable_share=0.1)
    freeze(job, Store.open(given(tmp_path)), "run")
    assert any(note.startswith("left out 1 of 12 frames") and str(frame) in note for note in notes)
    kept = Store.open(given(tmp_path)).read_json(f"{LAYOUT}/runs/run/left_out.json")
    assert [Path(name).name for name in kept["train"]] == [frame.name]
    frame.write_bytes(whole)  # mended, and the run goes on: its clips stay as they are
    _, notes = prepared(world, given(tmp_path), unreadable_share=0.1)
    assert not [note for note in notes if "left out" in note]
    assert Store.open(given(tmp_path)).read_json(f"{LAYOUT}/runs/run/left_out.json") == kept


@pytest.mark.parametrize("name", ["ghost.pth", "notes.pth"])
def test_a_file_to_start_from_that_is_none_is_named_before_any_data_is_drawn(tmp_path: Path, name: str):
    (tmp_path / "notes.pth").write_text("0.3 after ten epochs")
    drawn: list[str] = []
    job = build("rgnn_r18_world_tiny", {"init": str(tmp_path / name)})
    with pytest.raises(BadConfig, match=rf"{name}"):
        train(job, given(tmp_path), "run", lambda stage, *_: drawn.append(stage))
    assert not drawn


@pytest.fixture
def base(tmp_path: Path) -> Settings:
    """A store with one model, whose detector has learned nothing."""
    config = build("rgnn_r18_world_tiny").config
    classes = tuple(Category(id=n, name=name) for n, name in enumerate(CATEGORIES, start=1))
    card = ModelCard(
        name="base", model="rgnn", config=config.model_dump(mode="json"), classes=classes, created_at="2026-01-01"
    )
    save_model(Path(Store.open(given(tmp_path)).path(f"{LAYOUT}/models/base")), Rgnn(config), card)
    return given(tmp_path)


def test_gpus_that_are_not_there_are_named_before_any_data_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for there, asked, says in ((0, {}, "there is no GPU to be seen"), (2, {"workers": 3}, "3 workers .* there are 2")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        settings = Settings(store=str(tmp_path / "lake"), scratch=tmp_path / "scratch", device="cuda", **asked)
        with pytest.raises(BadConfig, match=says):
            train(build("rgnn_r18_world_tiny"), settings, "run")
        assert Store.open(settings).list(f"{LAYOUT}/worlds") == []


def test_another_models_detector_has_to_pass_the_gate_again(world: Path, base: Settings):
    with pytest.raises(BadConfig, match=r"reached mask AP50 0\.\d+ on validation frames, the gate is 0\.900"):
        prepared(world, base, detector="base", **{"stages.0.gate_ap50": 0.9})


def test_another_models_detector_of_other_priors_or_classes_is_refused(world: Path, base: Settings):
    with pytest.raises(BadConfig, match=r"detector\.prior_aspect 1\.66\d*, this run 2\.0"):
        prepared(world, base, detector="base", **{"config.detector.prior_aspect": 2.0})
    labels = json.loads((world / "train.json").read_text())
    labels["categories"][0]["name"] = "owl"
    (world / "train.json").write_text(json.dumps(labels))
    with pytest.raises(BadConfig, match="its classes are another list: 6 for 6, disc for owl"):
        prepared(world, base, detector="base")


def test_parameters_that_no_loss_reaches_are_refused_as_several_workers_could_not_train_them(
    world: Path, tmp_path: Path
):
    with pytest.raises(BadConfig, match=r"stage tracker: no term of the loss reaches \d+ trained parameters, such as"):
        prepared(world, given(tmp_path), **{"stages.1.clip_length": 1})


def test_a_store_without_room_for_the_checkpoints_is_refused(world: Path, tmp_path: Path):
    job = build("rgnn_r18_world_tiny")
    huge = torch.nn.Linear(2**24, 2**24, device="meta")  # a petabyte
    with pytest.raises(BadConfig, match=r"GB free, the run's checkpoints take up to \d+\.\d GB: .*VIS_STORE"):
        preflight.check_space(job, huge, Store.open(given(tmp_path)))
