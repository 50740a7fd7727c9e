"""Two stages, by one worker or on a real Ray: what is learned does not depend on how many there are or how often they
die."""

import json
import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from safetensors.torch import load

from jobs.models import registered
from jobs.settings import Settings
from jobs.store import LAYOUT, Store
from jobs.training.alone import TRAINS
from jobs.training.data_sets import Data, prepare_data, read_data, read_extra
from jobs.training.descent import learning_rate
from jobs.training.on_ray import why_lost
from jobs.training.recipes.base import TrainJob
from jobs.training.recipes.catalogue import build
from jobs.training.run_files import read_curve
from jobs.training.runs import asked_for, resumable
from jobs.training.stages import samples_of
from jobs.training.train import check_gate, freeze, remember, train
from jobs.training.worker import encodings_folder
from tests.drawn_open_images import LEFT, RIGHT, Release
from vis_models.checkpoints import load_model
from vis_models.config import BadConfig
from vis_models.data.annotations import read_youtube_vis
from vis_models.data.augmentation import Augmentation
from vis_models.data.clips import ClipSet
from vis_models.data.mixture import Mixture
from vis_models.data.sampling import Consecutive
from vis_models.data.world import WorldConfig, write_youtube_vis
from vis_models.rgnn.model import Rgnn

from ..vis_models.drawn import small_config

TINY_IDOL: dict[str, Any] = {
    "backbone.depth": 18,
    "backbone.width": 16,
    "queries": 20,
    "channels": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "hidden": 64,
    "heads": 4,
    "norm_groups": 4,
    "shorter_px": 48,
    "longer_most_px": 80,
}
SMALL_FRAMES: dict[str, Any] = {"shorter_px": (32, 48), "longer_most_px": 80, "crop_px": (24, 40)}


def job(stages: tuple[int, ...], **changes: Any) -> TrainJob:
    """The tiny recipe with some of its stages, in single precision."""
    whole = build("rgnn_r18_world_tiny", {"stages.0.precision": "fp32", "stages.1.cached_copies": 0, **changes})
    return whole.model_copy(update={"stages": tuple(whole.stages[number] for number in stages)})


def settings(folder: Path, **changes: Any) -> Settings:
    return Settings(store=str(folder), cpus_per_worker=1, **changes)


def weights(given: Settings, run_id: str) -> dict[str, torch.Tensor]:
    return load(Store.open(given).read_bytes(f"{LAYOUT}/models/{run_id}/model.safetensors"))


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_one_and_two_workers_with_the_same_global_batch_learn_the_same(tmp_path: Path, local_ray: None):
    tracker = job((1,), **{"stages.1.iterations": 4, "stages.1.cached_copies": 1})
    losses = {}
    for workers in (1, 2):
        given = settings(tmp_path, workers=workers, scratch=tmp_path / f"scratch-{workers}")
        losses[workers] = train(tracker, given, f"with-{workers}").metrics["tracker_loss"]
    one, two = (weights(settings(tmp_path), f"with-{workers}") for workers in (1, 2))
    assert largest_difference(one, two) < 1e-4
    assert one["class_head.weight"].std() > 0
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)  # over both, though each saw its own share of the batch


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Settings, dict[int, str]]:
    """A store with the first step of a detector, taken by one worker and by two, and why each run ended there."""
    given = settings(tmp_path_factory.mktemp("one-step"))
    changes = {"stages.0.iterations": 1, "stages.0.batch_size": 4, "stages.0.gate_ap50": 0.99}
    refused = {}
    for workers in (1, 2):
        with pytest.raises(BadConfig) as refusal:
            train(job((0, 1), **changes), settings(Path(given.store), workers=workers), f"step-{workers}")
        refused[workers] = str(refusal.value)
    return given, refused


def test_two_workers_take_the_detector_the_same_step_with_the_same_statistics(one_step: tuple[Settings, dict]):
    given, _ = one_step
    moments, found = [], []
    for workers in (1, 2):
        folder = Path(given.store) / LAYOUT / "runs" / f"step-{workers}" / "detector"
        (file,) = folder.glob("checkpoint_*/optimizer.pt")
        moments.append(torch.load(file)["optimizer"]["state"])
        found.append(load((file.parent / "model.safetensors").read_bytes()))
    norms = {name for name in found[0] if name.endswith(("running_mean", "running_var"))}
    assert norms
    assert largest_difference(*({name: each[name] for name in norms} for each in found)) < 1e-5
    for one, two in zip(*(each.values() for each in moments), strict=True):  # Adam's step hides how large a gradient is
        assert float((one["exp_avg"] - two["exp_avg"]).norm()) <= 0.03 * float(one["exp_avg"].norm()) + 1e-6


def test_a_detector_below_the_gate_stops_the_run_and_its_training_is_kept(one_step: tuple[Settings, dict]):
    given, refused = one_step
    store = Store.open(given)
    for workers, why in refused.items():
        assert re.search(r"reached mask AP50 0\.\d+ on validation frames, the gate is 0\.990", why)
        assert store.exists(f"{LAYOUT}/runs/step-{workers}/detector/done.json")
        assert not store.exists(f"{LAYOUT}/models/step-{workers}/card.json")
    other = resumable(store, "step-1").model_copy(update={"seed": 5})
    with pytest.raises(BadConfig, match="started with another recipe or other fields"):
        freeze(other, store, "step-1")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store with the run `quiet`, which nobody disturbed."""
    given = settings(tmp_path_factory.mktemp("killed"))
    train(to_be_killed(), given, "quiet")
    return given


def to_be_killed() -> TrainJob:
    return job((0,), **{"stages.0.iterations": 60, "stages.0.checkpoint_every": 5, "stages.0.batch_size": 4})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_costs_time_and_nothing_else(quiet: Settings, local_ray: None, workers: int):
    rough = f"rough-{workers}"
    killed: list[int] = []

    def kill_after_the_second_checkpoint() -> None:
        folder = Path(quiet.store) / LAYOUT / "runs" / rough / "detector"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if len(list(folder.glob("checkpoint_*/model.safetensors"))) > 1:  # so that the first one is committed
                for process in own_processes(TRAINS if workers == 1 else "ray::RayTrainWorker"):
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_after_the_second_checkpoint)
    killer.start()
    notes: list[str] = []
    tell = lambda stage, done, total, info: notes.append(info.get("note", ""))  # noqa: E731
    train(to_be_killed(), settings(Path(quiet.store), workers=workers), rough, tell)
    killer.join()
    assert killed
    (why,) = (note for note in notes if "lost a worker" in note)
    how = ".+" if workers > 1 else "its process ended with signal SIGKILL"
    assert re.fullmatch(rf"lost a worker \({how}\); goes on from the last checkpoint, 1 of at most 8 times", why)
    assert any(re.fullmatch(r"goes on after iteration [1-5]?[05]", note) for note in notes)
    assert len([note for note in notes if "random weights" in note]) == 1  # said at the start, not when it goes on
    store = Store.open(quiet)
    found = {run: read_curve(store, f"{LAYOUT}/runs/{run}/detector") for run in ("quiet", rough)}
    assert [[point["iteration"] for point in curve] for curve in found.values()] == [[20, 40, 60]] * 2
    if workers == 1:  # two sum up in another order
        assert largest_difference(weights(quiet, "quiet"), weights(quiet, rough)) < 1e-4
        assert found[rough] == [pytest.approx(point, rel=1e-3) for point in found["quiet"]]
    assert len(list((Path(quiet.store) / LAYOUT / "runs" / rough / "detector").glob("checkpoint_*"))) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_what_our_own_code_raises_on_a_worker_ends_the_run_at_once_with_its_own_type(
    tmp_path: Path, local_ray: None, workers: int
):
    world = tmp_path / "world"
    write_youtube_vis(WorldConfig(frames=3), world, 4, 2)
    detector = job((0,), **{"data": str(world), "stages.0.iterations": 40, "stages.0.checkpoint_every": 5})
    told: list[str] = []

    def when_training_begins(stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        told.append(info.get("note", ""))
        if "random weights" in told[-1]:
            for file in (world / "train" / "JPEGImages").rglob("*.jpg"):
                file.write_bytes(file.read_bytes()[:300])

    with pytest.raises(BadConfig, match=r"\(video \d+, frame \d\): expected a picture"):
        train(detector, settings(tmp_path / "lake", workers=workers), "frail", when_training_begins)
    assert not [note for note in told if "lost a worker" in note]
    assert len([note for note in told if "random weights" in note]) == 1


@pytest.mark.unit
def test_only_what_ray_or_the_network_between_workers_raised_is_a_lost_worker():
    reset = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
    assert why_lost(WorkerGroupError("", {1: reset})).startswith("1: RuntimeError: [gloo/transport")
    assert "ActorDiedError" in why_lost(WorkerGroupError("", {0: ActorDiedError(), 1: reset}))
    with pytest.raises(ValueError, match="ours"):  # the other worker only lost its partner
        why_lost(WorkerGroupError("", {0: reset, 1: ValueError("ours")}))


def own_processes(mark: str) -> list[int]:
    """Those with the mark in their command line that descend from this process."""
    parents, marked = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if mark.encode() in (folder / "cmdline").read_bytes():
                marked.append(int(folder.name))

    def descends(process: int) -> bool:
        return process == os.getpid() or (process in parents and descends(parents[process]))

    return [process for process in marked if descends(process)]


def test_a_run_on_videos_and_labelled_images_ends_in_a_model_folder_with_its_story_and_curves(
    tmp_path: Path, local_ray: None
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    labels, told, speeds = images_of_discs(tmp_path), [], []

    def tell(stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        told.append(info.get("note", stage))
        speeds.extend([info] if "it_per_s" in info else [])

    changes = {"stages.0.iterations": 3, "stages.1.iterations": 2, "stages.0.mixture_epoch": 8}
    small = build("rgnn_r18_world_tiny", changes | {"extra": [{"labels": str(labels), "chance": 0.6}]})
    given = settings(tmp_path)
    card = train(small, given, "run-1", tell)
    store = Store.open(given)
    assert f"{labels}: 5 of 6 have labels, 1 x Drum dropped" in told
    assert card.data.endswith(f", {labels} at 0.6")
    assert speeds
    assert all(0 < info["waiting"] < 1 and info["it_per_s"] > 0 for info in speeds)
    model, read = load_model(Path(store.path(f"{LAYOUT}/models/run-1")))
    assert read == card
    assert (read.recipe, read.run_id) == ("rgnn_r18_world_tiny", "run-1")
    assert [category.name for category in read.classes] == ["disc", "square", "triangle", "star", "cross", "ring"]
    assert model.config.detector.num_classes == 6
    assert read.data.startswith("world easy-v")
    assert "no --init: rgnn_r18_world_tiny starts from random weights" in told
    phases = ["draw train", "rehearse every stage", "train detector", "encode for tracker"]
    assert sorted(phases, key=told.index) == phases
    events = EventAccumulator(store.path(f"{LAYOUT}/runs/run-1/tracker/events"))
    events.Reload()
    assert {"match", "init", "score", "seg", "learning_rate"} <= set(events.Tags()["scalars"])
    assert resumable(Store.open(given), "run-1") == small
    assert train(small, given, "run-1", command="vis train --resume run-1") == card  # of the day it was registered
    assert list(registered(store)) == ["run-1"]


@pytest.mark.unit
def test_a_card_names_what_was_typed_from_the_beginning_on(tmp_path: Path):
    store = Store.open(settings(tmp_path))
    for typed in ("vis train --name r", "vis train --resume r", "vis train --resume r", ""):
        told = remember(typed, store, "r")
    assert told == ["vis train --name r", "vis train --resume r"]


@pytest.mark.unit
def test_the_samples_of_a_mixing_stage_come_from_all_sets_with_their_chances(tmp_path: Path):
    world = WorldConfig(height=48, width=72, frames=2)
    write_youtube_vis(world, tmp_path / "world", 4, 1)
    main = read_youtube_vis(tmp_path / "world" / "train.json")
    labels = images_of_discs(tmp_path)
    mixing = job((0,), **{"extra": [{"labels": str(labels), "chance": 0.6}], "stages.0.mixture_epoch": 8})
    extra, _ = read_extra(mixing, main, Store.open(settings(tmp_path)))
    samples = samples_of(mixing, mixing.stages[0], main, extra)
    assert isinstance(samples, Mixture)
    assert (samples.counts, samples.epoch, samples.seed) == ((4, 5), 8, mixing.seed)
    assert samples.chances == pytest.approx((0.4, 0.6))
    assert isinstance(samples_of(mixing, mixing.stages[0], main, ()), ClipSet)


@pytest.mark.unit
def test_a_stage_mixes_open_images_in_as_they_are_published(tmp_path: Path):
    write_youtube_vis(WorldConfig(height=48, width=72, frames=2), tmp_path / "world", 4, 1)
    main = read_youtube_vis(tmp_path / "world" / "train.json")
    drawn = Release(tmp_path / "openimages")
    for image in ("00aa", "00bb", "f0cc"):
        drawn.image(image)
        drawn.object(image, "Dog", LEFT, png_px=(120, 80))
    missing = drawn.object("00bb", "Dog", RIGHT)
    del drawn.archives["0"][missing]
    extra = [{"labels": str(drawn.write()), "chance": 0.6, "names": {"Dog": "disc"}}]
    mixing = job((0,), **{"extra": extra, "stages.0.mixture_epoch": 7})
    sets, found = read_extra(mixing, main, Store.open(settings(tmp_path)))
    assert "3 of 3 have labels" in found
    assert missing in found
    samples = samples_of(mixing, mixing.stages[0], main, sets)
    assert isinstance(samples, Mixture)
    assert samples.counts == (4, 3)
    clips = [samples[n] for n in range(7) if samples.place(n)[0] == 1]
    assert len(clips) == 3
    disc = [category.name for category in main.categories].index("disc")
    for clip in clips:
        assert clip.objects.labels.tolist() == [[disc]]
        assert clip.objects.masks.float().mean() == pytest.approx(0.5, abs=0.01)


def images_of_discs(folder: Path) -> Path:
    """Six grey images of 60x50 px with a light square each, that a COCO file calls a disc; the last one is a drum."""
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": 1, "name": "Drum"}, {"id": 7, "name": "Disc"}]
    for number in range(6):
        picture = np.full((50, 60, 3), 90, np.uint8)
        picture[10:30, 20:40] = 240
        Image.fromarray(picture).save(folder / f"{number}.png")
        document["images"].append({"id": number, "height": 50, "width": 60, "file_name": f"{number}.png"})
        polygon = [[20, 10, 40, 10, 40, 30, 20, 30]]
        category = 1 if number == 5 else 7
        document["annotations"].append(
            {"id": number, "image_id": number, "category_id": category, "segmentation": polygon}
        )
    (folder / "images.json").write_text(json.dumps(document))
    return folder / "images.json"


def test_idol_goes_from_images_to_pairs_of_crops_to_videos_of_other_classes(tmp_path: Path):
    """The three steps of its paper, each from the model of the one before by name."""
    given = settings(tmp_path / "lake", scratch=tmp_path / "scratch", workers=1)
    coco, videos = tmp_path / "coco", tmp_path / "videos"
    coco.mkdir()
    images = images_of_discs(coco).read_text()
    for split in ("train", "val"):
        (coco / f"{split}.json").write_text(images)
    write_youtube_vis(WorldConfig(height=48, width=72, frames=4), videos, 4, 1)
    tiny = {f"config.{name}": value for name, value in TINY_IDOL.items()}
    tiny |= {"stages.0.iterations": 2, "stages.0.batch_size": 2, "stages.0.gate_frames": 2}
    tiny["stages.0.precision"] = "fp32"  # oneDNN's bfloat16 gradient of a convolution over 2x2 cells is no number
    tiny |= {f"stages.0.augmentation.{name}": value for name, value in SMALL_FRAMES.items()}
    began = None
    for recipe, data in (("idol_r50_coco", coco), ("idol_r50_coco_pairs", coco), ("idol_r50_ytvis2019", videos)):
        rest = {"hold_out": None} if data == videos else {}
        wanted = asked_for(
            Store.open(given), recipe=recipe, data=str(data), init=began, name=recipe, changes=tiny | rest
        )
        notes: list[str] = []
        train(wanted, given, recipe, lambda *said, notes=notes: notes.append(said[3].get("note", "")))
        began = recipe
        if recipe == "idol_r50_coco_pairs":
            (loaded,) = (note for note in notes if "tensors loaded" in note)
            assert "0 of ours not in it, 0 of it unused, 0 of another shape" in loaded
            assert "classes" not in loaded
    (loaded,) = (note for note in notes if "tensors loaded" in note)
    assert "0 of another shape, 4 start anew as the classes are others: network.class_embed.0.bias" in loaded
    before, after = weights(given, "idol_r50_coco_pairs"), weights(given, "idol_r50_ytvis2019")
    assert (len(before["network.class_embed.0.bias"]), len(after["network.class_embed.0.bias"])) == (2, 6)
    same = {name for name in before if before[name].shape == after[name].shape}
    frozen = before["network.backbone.conv1.weight"], after["network.backbone.conv1.weight"]
    assert largest_difference({"stem": frozen[0]}, {"stem": frozen[1]}) < 1e-3
    assert before.keys() - same == {f"network.class_embed.{n}.{part}" for n in (0, 1) for part in ("weight", "bias")}


@pytest.mark.unit
def test_a_run_from_before_a_field_existed_can_be_resumed(tmp_path: Path):
    store, tiny = Store.open(settings(tmp_path)), job((0,))
    spec = tiny.model_dump(mode="json")
    del spec["extra"], spec["stages"][0]["compile"]
    store.write_json(f"{LAYOUT}/runs/old/spec.json", spec)
    freeze(resumable(store, "old"), store, "old")
    with pytest.raises(BadConfig, match="started with another recipe"):
        freeze(tiny.model_copy(update={"seed": 1}), store, "old")


@pytest.mark.unit
def test_the_learning_rate_rises_then_follows_its_cosine_or_drops():
    paper = build("rgnn_r50_ytvis2019").stages[0]
    assert [learning_rate(paper, at) for at in (0, 55_979, 55_980, 83_970)] == pytest.approx([5e-5, 5e-5, 1e-5, 2e-6])
    demo = build("rgnn_r18_world_demo", {"stages.0.warm_up": 100}).stages[0]
    assert learning_rate(demo, 49) == pytest.approx(demo.learning_rate / 2)
    assert learning_rate(demo, demo.iterations - 1) < demo.learning_rate / 1000


@pytest.mark.unit
def test_a_recipe_without_a_world_needs_data(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"recipe rgnn_r50_ytvis2019 draws no data: give a folder"):
        prepare_data(build("rgnn_r50_ytvis2019"), settings(tmp_path), lambda *_: None)


@pytest.mark.unit
def test_a_folder_without_train_json_is_no_data_set(tmp_path: Path):
    tiny = job((0,))
    given = settings(tmp_path)
    with pytest.raises(BadConfig, match=r"holds no train\.json"):
        prepare_data(tiny.model_copy(update={"data": str(tmp_path)}), given, lambda *_: None)


@pytest.mark.unit
def test_a_run_that_does_not_exist_cannot_be_resumed(tmp_path: Path):
    with pytest.raises(BadConfig, match="no run 'ghost'"):
        resumable(Store.open(settings(tmp_path)), "ghost")


@pytest.mark.unit
def test_the_gate_lets_a_detector_pass_that_reaches_it():
    given = job((0,), **{"stages.0.gate_ap50": 0.5})
    check_gate(given, given.stages[0], {"mask_ap50": 0.5})


@pytest.mark.unit
def test_validation_videos_have_the_classes_of_training_by_name_in_whatever_order(tmp_path: Path):
    write_youtube_vis(WorldConfig(height=32, width=48, frames=2), tmp_path, 2, 3)
    tiny, given, data = job((0,)), settings(tmp_path), Data(str(tmp_path), "drawn")
    train_set, plain = read_data(tiny, data, Store.open(given))
    labels = json.loads((tmp_path / "val.json").read_text())
    known = {entry["id"]: entry["name"] for entry in labels["categories"]}
    first = labels["annotations"][0]["category_id"]
    others = [{"id": id_ + 50, "name": name.upper()} for id_, name in known.items() if id_ != first][::-1]
    labels["categories"] = [{"id": 1, "name": "hexagon"}, *others]
    for each in labels["annotations"]:
        each["category_id"] = 1 if each["category_id"] == first else each["category_id"] + 50
    (tmp_path / "val.json").write_text(json.dumps(labels))

    train_set, val_set = read_data(tiny, data, Store.open(given))
    assert val_set.categories == train_set.categories
    found = [[track.category_id for track in video.tracks] for video in val_set.videos]
    expected = [[track.category_id for track in video.tracks] for video in plain.videos]
    assert found == [[number for number in video if number != first] for video in expected]
    assert any(found)
    theirs, ours, dropped = val_set.notes
    assert re.search(r"only .*val\.json has the categories hexagon, .*train\.json has not", theirs)
    assert re.search(rf"only .*train\.json has the categories {known[first]}, .*val\.json has not", ours)
    assert re.search(r"\d objects of .*val\.json are left out: hexagon", dropped)


def test_encoded_copies_lie_elsewhere_when_labels_frames_clips_or_the_detector_change(tmp_path: Path):
    write_youtube_vis(WorldConfig(height=48, width=72, frames=4), tmp_path / "world", 3, 1)
    labels = tmp_path / "world" / "train.json"
    content = labels.read_text()
    torch.manual_seed(0)
    model = Rgnn(small_config())

    def folder(length: int = 2, model: Rgnn = model, **augmentation: Any) -> Path:
        clips = ClipSet(
            read_youtube_vis(labels), Consecutive(frames=length), (64, 96), Augmentation(**augmentation), seed=0
        )
        return encodings_folder(settings(tmp_path), model, clips)

    first = folder()
    assert folder() == first
    others = [folder(length=3), folder(vertical_flip=0.5), folder(model=Rgnn(small_config()))]
    mended = json.loads(content)
    mended["annotations"][0]["category_id"] = mended["annotations"][0]["category_id"] % 6 + 1
    labels.write_text(json.dumps(mended))
    others.append(folder())
    mended = json.loads(content)
    mended["videos"] = mended["videos"][::-1]
    labels.write_text(json.dumps(mended))
    others.append(folder())
    labels.write_text(content)
    frame = next((tmp_path / "world" / "train").rglob("*.jpg"))
    Image.fromarray(np.zeros((48, 72, 3), np.uint8)).save(frame)
    others.append(folder())
    assert len({first, *others}) == 7
