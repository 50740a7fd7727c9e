"""What a person asked for, and which runs there are, from the files that a training leaves."""

from pathlib import Path

import pytest

from jobs.store import Store
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import build
from jobs.training.runs import RUNS, asked_for, check_data, delete, run_of, runs, says_why_it_ends
from jobs.training.train import freeze
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit
TINY = build("rgnn_r18_world_tiny")


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
    interrupt(store, "never-began", BadConfig("no frames: copy them"))
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
        ({"data": "/d"}, "leave --data away"),
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
