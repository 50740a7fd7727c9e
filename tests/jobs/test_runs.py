"""What a person asked for, and which runs there are, from the files that a training leaves."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.store import LAYOUT, Store
from jobs.training.data_sets import Data, read_sets, require_same_data
from jobs.training.forks import take_over
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import build
from jobs.training.run_files import (
    CURVE,
    DONE,
    LEFT_OUT,
    OPTIMIZER,
    RUNS,
    WEIGHTS,
    last_metrics,
    newest_checkpoint,
    read_curve,
    write_checkpoint,
)
from jobs.training.runs import asked_for, check_data, compared, delete, resumable, run_of, runs, says_why_it_ends
from jobs.training.train import freeze
from vis_models.config import BadConfig
from vis_models.data.world import WorldConfig, write_youtube_vis

pytestmark = pytest.mark.unit
LENGTHS = {"stages.0.iterations": 40, "stages.1.iterations": 6}
TINY = build("rgnn_r18_world_tiny", LENGTHS)


def begin(store: Store, name: str, done: bool = False) -> None:
    """A run that is frozen and, when `done`, has finished its first stage."""
    freeze(TINY, store, name)
    if done:
        end = {"weights": "w", "metrics": {"iteration": 40, "loss": 2.5, "mask_ap50": 0.25}}
        store.write_json(f"{RUNS}/{name}/detector/done.json", end)


def interrupt(store: Store, name: str, error: BaseException) -> None:
    with pytest.raises(type(error)), says_why_it_ends(store, name):
        raise error


def test_a_run_says_how_far_it_came_and_why_it_ended(store: Store):
    begin(store, "lives", done=True)
    begin(store, "stopped", done=True)
    interrupt(store, "stopped", KeyboardInterrupt())
    begin(store, "never-began")
    store.write_json(f"{RUNS}/never-began/{LEFT_OUT}", {})
    interrupt(store, "never-began", BadConfig("no frames: copy them"))
    begin(store, "left-nothing")
    interrupt(store, "left-nothing", BadConfig("no such weights"))
    found = {run.name: run for run in runs(store)}
    assert {name: (run.state, run.reason) for name, run in found.items()} == {
        "lives": ("running", ""),
        "stopped": ("stopped", "interrupted"),
        "never-began": ("failed to start", "no frames: copy them"),
    }
    stopped = found["stopped"]
    assert (stopped.stage, stopped.iteration, stopped.iterations) == ("detector", 40, 40)
    assert (stopped.recipe, stopped.data) == ("rgnn_r18_world_tiny", "world easy")
    assert stopped.metrics == {"detector_loss": 2.5, "mask_ap50": 0.25}
    sizes = [len(store.read_bytes(key)) for key in store.list(f"{RUNS}/stopped")]
    assert (stopped.files, stopped.size_bytes) == (len(sizes), sum(sizes))
    assert found["never-began"].stage is None


def test_two_runs_are_compared_by_the_fields_and_figures_that_differ(store: Store):
    begin(store, "a", done=True)
    freeze(build("rgnn_r18_world_tiny", LENGTHS | {"stages.0.learning_rate": 1e-3, "seed": 3}), store, "b")
    rate = TINY.stages[0].learning_rate
    assert compared(store, "a", "b") == [
        ("stages.0.learning_rate", str(rate), "0.001"),
        ("seed", "0", "3"),
        ("detector_loss", "2.5", ""),
        ("mask_ap50", "0.25", ""),
    ]
    assert compared(store, "a", "a") == []


def test_a_run_of_an_older_version_is_listed_too(store: Store):
    spec = TINY.model_dump(mode="json")
    del spec["hold_out"], spec["data"], spec["world"]
    store.write_json(f"{RUNS}/old/spec.json", spec | {"gone": 1})
    assert [(run.name, run.data) for run in runs(store)] == [("old", "")]
    with pytest.raises(BadConfig, match=r"spec.json is no job of this version \(gone: Extra .*: start a new run"):
        asked_for(store, resume="old")


def test_what_interrupts_before_a_run_is_frozen_leaves_nothing(store: Store):
    interrupt(store, "r", KeyboardInterrupt())
    assert runs(store) == []


def test_a_run_is_deleted_unless_it_may_be_running(store: Store):
    for name in ("a", "b"):
        begin(store, name, done=True)
    interrupt(store, "a", KeyboardInterrupt())
    with pytest.raises(BadConfig, match=r"run b wrote something less than 120 s ago"):
        delete(store, run_of(store, "b"))
    delete(store, run_of(store, "a"))
    assert [run.name for run in runs(store)] == ["b"]
    with pytest.raises(BadConfig, match=r"no run 'a' in .* expected one of: b"):
        run_of(store, "a")


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"recipe": "rgnn_r18_world_tiny"}, "leave --recipe away"),
        ({"init": "w.pth"}, "leave --init away"),
        ({"detector": "m", "name": "n"}, "leave --detector, --name away"),
        ({"changes": {"seed": 1}}, r"leave --set \(seed\) away"),
    ],
)
def test_a_resumed_run_takes_no_other_field(store: Store, beside: dict, named: str):
    begin(store, "r")
    assert asked_for(store, resume="r") == TINY
    with pytest.raises(BadConfig, match=f"--resume r goes on with the recipe, data and fields of that run: {named}"):
        asked_for(store, resume="r", **beside)


def test_a_mistyped_run_is_met_with_the_right_name(store: Store):
    with pytest.raises(BadConfig, match=r"no run 'ghost' in .*: there is none at all"):
        asked_for(store, resume="ghost")
    begin(store, "rgnn-1a2b3c4d")
    with pytest.raises(BadConfig, match=r"did you mean rgnn-1a2b3c4d; `vis runs` lists all"):
        asked_for(store, resume="rgnn-1a2b3c4")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x y", ".hidden", "-o", "n" * 101])
def test_a_name_is_fit_for_a_folder(store: Store, name: str):
    with pytest.raises(BadConfig, match=r"--name: expected letters, digits"):
        asked_for(store, name=name)


def test_a_name_is_given_once(store: Store):
    asked_for(store, name="first")
    begin(store, "first")
    with pytest.raises(BadConfig, match=r"--name first: a run has it already; `vis train --resume first` goes on"):
        asked_for(store, name="first")


@pytest.mark.parametrize(("content", "what"), [(b"", "empty"), (b"hello\n", "text"), (b"\x89PNG\r\n", "a picture or")])
def test_a_file_that_is_no_checkpoint_is_known_by_its_first_bytes(
    store: Store, tmp_path: Path, content: bytes, what: str
):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BadConfig, match=f"w.pth is {what}.*, expected a checkpoint of tensors"):
        asked_for(store, recipe="rgnn_r18_world_tiny", init=str(tmp_path / "w.pth"))


def test_weights_to_start_from_are_a_file_a_folder_or_a_model_by_name(store: Store, tmp_path: Path):
    card = {"name": "masks-v1", "model": "idol", "config": {}, "classes": [], "created_at": "2026-01-01T00:00:00Z"}
    store.write_json(f"{LAYOUT}/models/masks-v1/card.json", card)
    store.write_bytes(f"{LAYOUT}/models/masks-v1/model.safetensors", b"")
    (tmp_path / "folder").mkdir()
    of = lambda init: asked_for(store, recipe="rgnn_r18_world_tiny", init=init).init  # noqa: E731
    assert of("masks-v1") == store.uri(f"{LAYOUT}/models/masks-v1")
    assert of(str(tmp_path / "folder")) == str(tmp_path / "folder")
    with pytest.raises(BadConfig, match=r"masks-v2 does not exist, nor a registered model .*did you mean masks-v1\?"):
        of("masks-v2")
    with pytest.raises(BadConfig, match=r"/nowhere.pth does not exist, nor a registered model .*: correct the name"):
        of("nowhere.pth")


def with_data(folder: Path, **changes: object) -> TrainJob:
    return build("rgnn_r18_world_tiny", {"data": str(folder), **changes})


def test_data_is_looked_for_before_anything_starts(store: Store, tmp_path: Path):
    with pytest.raises(BadConfig, match=r"recipe rgnn_r50_ytvis2019 draws no data"):
        asked_for(store, recipe="rgnn_r50_ytvis2019")
    with pytest.raises(BadConfig, match=r"nowhere does not exist: expected a data set"):
        asked_for(store, data=str(tmp_path / "nowhere"))
    with pytest.raises(BadConfig, match=r"holds no train.json"):
        check_data(with_data(tmp_path), store)
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(BadConfig, match=r"holds no val.json and recipe rgnn_r18_world_tiny holds no videos"):
        check_data(with_data(tmp_path), store)
    check_data(with_data(tmp_path, hold_out={"rule": "rgnn"}), store)
    (tmp_path / "val.json").write_text("{}")
    check_data(with_data(tmp_path), store)


def test_other_inputs_are_looked_for_as_well(store: Store, tmp_path: Path):
    with pytest.raises(BadConfig, match=r"absent.pth does not exist"):
        asked_for(store, init=str(tmp_path / "absent.pth"))
    with pytest.raises(BadConfig, match=r"nobody is neither a registered model"):
        asked_for(store, detector="nobody")
    extra = {"extra": [{"labels": str(tmp_path / "absent.json"), "chance": 0.5}], "stages.0.mixture_epoch": 8}
    with pytest.raises(BadConfig, match=r"absent.json does not exist"):
        asked_for(store, recipe="rgnn_r18_world_tiny", changes=extra)


def test_data_of_a_run_are_where_one_says_they_were_moved_to(store: Store, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    write_youtube_vis(WorldConfig(height=32, width=48, frames=2), here, 2, 1)
    freeze(with_data(here), store, "r")
    here.rename(there)
    with pytest.raises(BadConfig, match=r"here holds no train.json, and run r goes on with its own data: .*--data"):
        asked_for(store, resume="r")
    job = asked_for(store, resume="r", data=str(there))
    assert job == with_data(there)
    freeze(job, store, "r")  # the same job
    begin(store, "drawn")
    with pytest.raises(BadConfig, match=r"recipe rgnn_r18_world_tiny of run drawn draws its data, leave --data away"):
        asked_for(store, resume="drawn", data=str(there))


def test_a_run_goes_on_with_its_own_data_and_names_the_videos_that_are_others(store: Store, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    write_youtube_vis(WorldConfig(height=32, width=48, frames=2), here, 3, 1)
    job = with_data(here)
    freeze(job, store, "r")

    def compare(folder: Path) -> None:
        moved = job.model_copy(update={"data": str(folder)})
        data = Data(str(folder), "d")
        require_same_data(moved, data, read_sets(moved, data, store, "r")[0], store, "r", lambda *_: None)

    compare(here)
    compare(here)
    shutil.copytree(here, there, copy_function=shutil.copyfile)  # other times, the same bytes
    compare(there)
    assert asked_for(store, resume="r").data == str(there)  # from now on it is looked for there
    frame = sorted((there / "train").rglob("*.jpg"))[3]  # of the second video
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(frame)
    with pytest.raises(BadConfig, match=r"1 of 3 videos are not what run r began with: video 2 has other frames"):
        compare(there)
    frame.unlink()
    with pytest.raises(BadConfig, match=r"video 2 has a frame that cannot be read: .*No such file"):
        compare(there)
    labels = json.loads((here / "train.json").read_text())
    labels["annotations"][0]["category_id"] = 1 + labels["annotations"][0]["category_id"] % 6
    (here / "train.json").write_text(json.dumps(labels))
    with pytest.raises(BadConfig, match=r"video \d has other labels"):
        compare(here)


# ---- checkpoints -------------------------------------------------------------------------------------------------


def test_two_checkpoints_of_a_stage_are_kept_and_the_newest_is_whole(store: Store, tmp_path: Path):
    folder = f"{RUNS}/run/detector"
    assert newest_checkpoint(store, folder) is None
    for iteration in (5, 10, 15):
        files = tmp_path / str(iteration)
        files.mkdir()
        (files / WEIGHTS).write_bytes(b"%d" % iteration)
        write_checkpoint(store, folder, iteration, files, {"loss": float(iteration)})
    assert [key.split("/")[-2] for key in store.list(folder)[:-1]] == ["checkpoint_00000010", "checkpoint_00000015"]
    newest = newest_checkpoint(store, folder)
    assert newest == (f"{folder}/checkpoint_00000015", 15)
    assert store.read_bytes(f"{newest[0]}/{WEIGHTS}") == b"15"
    assert last_metrics(store, folder) == {"loss": 15.0}
    store.write_bytes(f"{folder}/checkpoint_00000020/{WEIGHTS}", b"half of")  # killed while it wrote
    assert newest_checkpoint(store, folder) == newest


def test_a_run_whose_checkpoints_ray_train_kept_goes_on(store: Store, tmp_path: Path):
    folder = f"{RUNS}/run/detector"
    for day in (1, 2):
        store.write_bytes(f"{folder}/checkpoint_2026-11-0{day}_10-00-00/{WEIGHTS}", b"of Ray")
    newest = {"checkpoint_dir_name": "checkpoint_2026-11-02_10-00-00", "metrics": {"iteration": 500}}
    store.write_json(f"{folder}/checkpoint_manager_snapshot.json", {"latest_checkpoint_result": newest})
    assert newest_checkpoint(store, folder) == (f"{folder}/checkpoint_2026-11-02_10-00-00", 500)
    files = tmp_path / "files"
    files.mkdir()
    (files / WEIGHTS).write_bytes(b"ours")
    write_checkpoint(store, folder, 1000, files, {})
    assert newest_checkpoint(store, folder) == (f"{folder}/checkpoint_00001000", 1000)
    kept = sorted({key.split("/")[-2] for key in store.list(folder) if WEIGHTS in key})
    assert kept == ["checkpoint_00001000", "checkpoint_2026-11-02_10-00-00"]


# ---- one run from the checkpoint of another ----------------------------------------------------------------------


def checkpoint(store: Store, run: str, stage: str, iteration: int) -> None:
    """What a worker leaves behind, with contents that can be told apart."""
    folder = f"{RUNS}/{run}/{stage}"
    with tempfile.TemporaryDirectory() as here:
        for name in (WEIGHTS, OPTIMIZER):
            (Path(here) / name).write_text(f"{run} {name} {iteration}")
        write_checkpoint(store, folder, iteration, Path(here), {})
    store.write_bytes(f"{folder}/{CURVE}", b'{"iteration": 20, "loss": 1.0}\n')


def finish(store: Store, run: str, stage: str) -> None:
    store.write_bytes(f"{RUNS}/{run}/{stage}/{WEIGHTS}", f"{run} {stage}".encode())
    done = {"weights": f"{RUNS}/{run}/{stage}/{WEIGHTS}", "metrics": {"iteration": 40, "loss": 2.5}}
    store.write_json(f"{RUNS}/{run}/{stage}/{DONE}", done)


def fork(store: Store, origin: str, name: str, **changes: object) -> tuple[TrainJob, str]:
    job = asked_for(store, origin=origin, name=name, changes={k.replace("__", "."): v for k, v in changes.items()})
    words = take_over(store, origin, resumable(store, origin), job, name)
    freeze(job, store, name)
    return job, words


def test_a_run_is_extended_under_a_new_name_from_its_newest_checkpoint(store: Store):
    begin(store, "first")
    checkpoint(store, "first", "detector", 40)
    finish(store, "first", "detector")
    checkpoint(store, "first", "tracker", 6)
    finish(store, "first", "tracker")
    job, words = fork(store, "first", "longer", stages__1__iterations=12)
    assert words == "takes over detector as first ended it, tracker from iteration 6 of first"
    assert [stage.iterations for stage in job.stages] == [40, 12]
    delete(store, run_of(store, "first").model_copy(update={"state": "stopped"}))  # nothing of it is needed any more
    done = store.read_json(f"{RUNS}/longer/detector/{DONE}")
    assert store.read_bytes(done["weights"]) == b"first detector"
    assert store.read_bytes(f"{RUNS}/longer/tracker/origin/{OPTIMIZER}") == f"first {OPTIMIZER} 6".encode()
    assert run_of(store, "longer").iteration == 6
    assert read_curve(store, f"{RUNS}/longer/tracker") == [{"iteration": 20, "loss": 1.0}]
    _, words = fork(store, "longer", "longest", stages__1__iterations=20)  # from a run that has not begun
    assert words == "takes over detector as longer ended it, tracker from iteration 6 of longer"


def test_a_changed_stage_starts_the_ones_after_it_anew(store: Store):
    begin(store, "first")
    checkpoint(store, "first", "detector", 40)
    finish(store, "first", "detector")
    finish(store, "first", "tracker")
    _, words = fork(store, "first", "other", stages__0__iterations=80, stages__0__learning_rate=1e-4)
    assert words == "takes over detector from iteration 40 of first"
    assert not store.list(f"{RUNS}/other/tracker")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, r"that run has trained all of this. Say what is to be trained further, .*stages.-1.iterations=12"),
        ({"seed": 1}, "from a checkpoint, which another seed would not fit: only fields of stages can be changed"),
        ({"stages.0.optimizer": "adam"}, "the checkpoints of stage detector depend on its optimizer, leave it"),
        ({"stages.0.iterations": 30}, r"has 40 iterations, expected more than that in stages.0.iterations, got 30"),
    ],
)
def test_what_a_checkpoint_does_not_fit_is_refused_with_the_field(store: Store, changes: dict, why: str):
    begin(store, "first")
    checkpoint(store, "first", "detector", 40)
    finish(store, "first", "detector")
    finish(store, "first", "tracker")
    with pytest.raises(BadConfig, match=why):
        asked_for(store, origin="first", changes=changes)
    with pytest.raises(BadConfig, match=r"--from first keeps the recipe of that run: leave --recipe away"):
        asked_for(store, origin="first", recipe="rgnn_r18_world_easy")
    with pytest.raises(BadConfig, match=r"--resume goes on with a run, --from begins a new one"):
        asked_for(store, origin="first", resume="first")
