from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from tests.tiny_model import install
from tests.vis_models.drawn import HEIGHT, WIDTH, moving_squares, small_config
from tests.vis_models.test_rgnn import model_that_starts_tracks
from vis_models.cards import ModelCard
from vis_models.checkpoints import build, initialise, load_model, save_model
from vis_models.config import BadConfig
from vis_models.data.annotations import Category
from vis_models.rgnn.model import Rgnn
from vis_models.trackers.config import TRACKERS, LinkedConfig
from vis_models.trackers.linked import Linked
from vis_models.trackers.linking import link
from vis_models.types import Frames, Objects, VideoInfo

pytestmark = pytest.mark.unit

CLASSES = tuple(Category(id=n, name=name) for n, name in enumerate(("disc", "square", "star"), start=1))
every_tracker = pytest.mark.parametrize("tracker", TRACKERS)


def linked(tracker: str, detections: int = 6, **rules) -> Linked:
    torch.manual_seed(0)
    detector = small_config(detections=detections).as_detector
    config = {"detector": detector.model_dump(), "tracker": {"name": tracker} | rules}
    return Linked(LinkedConfig.model_validate(config)).eval()


def saved(folder: Path, model: Rgnn, kind: str = "rgnn", **fields) -> Path:
    config = model.config.model_dump(mode="json") | fields
    card = {"name": "m", "model": kind, "config": config, "classes": CLASSES, "created_at": datetime.now(UTC)}
    save_model(folder, model, ModelCard.model_validate(card))
    return folder


# ---- the image oracle ------------------------------------------------------------------------------------------------


def per_frame(objects: Objects) -> Objects:
    """One clip of L frames as L clips of one frame."""
    length = objects.visible.shape[1]
    return Objects(
        *(each.transpose(0, 1) for each in (objects.masks, objects.boxes_px, objects.visible)),
        *(each.expand(length, -1) for each in (objects.labels, objects.crowd)),
    )


@every_tracker
def test_given_the_true_objects_the_tracks_are_the_true_tracks(tracker: str):
    model, clip = linked(tracker, **({"least_frames": 4} if tracker == "seq" else {})), moving_squares(1, 4, 2)
    objects = per_frame(clip.objects)
    encoded = model.encode_objects(Frames(clip.frames[0]), objects)
    state, said = model.start([VideoInfo("a", HEIGHT, WIDTH)]), []
    for frame in range(4):
        tracks, state = model.step(encoded[[frame]], state)
        said += tracks
    said += model.finish(state)
    sightings = [sighting for tracks in said for sighting in tracks.sightings]
    slot_of = {track: 0 if mask[:, : WIDTH // 2].any() else 1 for track, mask in zip(
        sightings[0].track_ids, sightings[0].masks.whole(), strict=True)}  # fmt: skip
    assert sorted(slot_of.values()) == [0, 1]
    for frame, sighting in enumerate(sightings):
        assert sorted(sighting.track_ids) == sorted(slot_of)
        for track, mask in zip(sighting.track_ids, sighting.masks.whole(), strict=True):
            truth = objects.masks[frame, 0, slot_of[track]]
            assert (mask & truth).sum() / (mask | truth).sum() > 0.6  # masks have a quarter of the frame's size
    verdicts = [verdict for tracks in said for verdict in tracks.verdicts]
    assert {verdict.track_id: verdict.category for verdict in verdicts} == slot_of


def test_crowds_unknown_classes_and_what_is_out_of_sight_take_no_slot_and_the_smallest_object_goes_first():
    model, clip = linked("iou"), moving_squares(clips=1, length=1, objects=2)
    objects, frames = per_frame(clip.objects), Frames(clip.frames[0])
    assert model.encode_objects(frames, objects).valid.sum() == 2
    for changed in (
        replace(objects, crowd=torch.tensor([[False, True]])),
        replace(objects, labels=torch.tensor([[0, -1]])),
        replace(objects, visible=torch.tensor([[[True, False]]])),
    ):
        encoded = model.encode_objects(frames, changed)
        assert encoded.valid.tolist() == [[True] + [False] * 5]
        assert encoded.boxes_px[0].tolist() == [objects.boxes_px[0, 0, 0].tolist()] + [[0.0] * 4] * 5
    narrow = linked("iou", detections=1)
    assert narrow.encode_objects(frames, objects).boxes_px[0, 0].tolist() == objects.boxes_px[0, 0, 1].tolist()


@every_tracker
def test_what_detections_are_encoded_to_is_what_given_objects_are_encoded_to(tracker: str):
    model, clip = linked(tracker), moving_squares(clips=1, length=2, objects=2)
    found = model.encode(Frames(clip.frames[0]))
    given = model.encode_objects(Frames(clip.frames[0]), per_frame(clip.objects))
    shapes = [(name, value.shape, value.dtype) for name, value in vars(found).items()]
    assert shapes == [(name, value.shape, value.dtype) for name, value in vars(given).items()]
    sizes = model.detector.sizes(VideoInfo("a", HEIGHT, WIDTH), model.tracker.reads_features)
    assert tuple(found.features.shape[1:]) == sizes.features
    assert found.chance.shape[1:] == (sizes.slots, sizes.classes)


# ---- from one model to another ---------------------------------------------------------------------------------------


@every_tracker
def test_the_detector_of_a_trained_model_takes_any_tracker_and_finds_what_it_found(tracker: str, tmp_path: Path):
    model = model_that_starts_tracks()
    card = link(saved(tmp_path / "rgnn", model), tmp_path / "linked", {"name": tracker}, command="vis models link")
    assert (card.name, card.kind, card.classes) == (f"m-{tracker}", f"yolact + {tracker}", CLASSES)
    other, _ = load_model(tmp_path / "linked", slot_recycling=True)
    frames = Frames(moving_squares().frames[0])
    ours, theirs = other.encode(frames), model.encode(frames)
    assert torch.equal(ours.boxes_px, theirs.boxes_px)
    assert torch.equal(ours.valid, theirs.valid)
    assert torch.equal(ours.chance, theirs.class_logits.softmax(-1)[..., 1:])


def test_a_linked_model_can_be_linked_again_and_its_detector_taken_by_another_run(tmp_path: Path):
    model = model_that_starts_tracks()
    link(saved(tmp_path / "rgnn", model), tmp_path / "one", {"name": "iou"})
    link(tmp_path / "one", tmp_path / "two", {"name": "seq", "least_frames": 3})
    assert load_model(tmp_path / "two")[0].config.tracker.least_frames == 3
    fresh = Rgnn(small_config())
    report = initialise(fresh, tmp_path / "two", CLASSES)
    assert not report.unexpected
    assert all(key.startswith("detector.") is (key not in report.missing) for key in fresh.state_dict())
    assert torch.equal(fresh.detector.head.conf_layer.weight, model.detector.head.conf_layer.weight)


def test_folders_of_the_former_model_greedy_are_refused_with_what_to_do_and_can_be_linked(tmp_path: Path):
    rules = {"detection_score": 0.1, "duplicate_iou": 0.5, "match_iou": 0.3, "class_bonus": 0.5}
    folder = saved(tmp_path / "old", model_that_starts_tracks(), "greedy", **rules)
    with pytest.raises(BadConfig, match=r"no model 'greedy' any more: .*`vis models link FOLDER --tracker greedy`"):
        load_model(folder)
    assert link(folder, tmp_path / "new", {"name": "greedy"}).kind == "yolact + greedy"
    assert load_model(tmp_path / "new")[0].config.detector.detections == 6


def test_a_wrong_field_an_unknown_tracker_and_a_model_without_a_detector_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = saved(tmp_path / "rgnn", model_that_starts_tracks())
    with pytest.raises(BadConfig, match=r"tracker.iou.match_iou: .* less than or equal to 1, got 2"):
        link(folder, tmp_path / "x", {"name": "iou", "match_iou": 2})
    with pytest.raises(BadConfig, match=r"tracker: .*'sort'.* expected tags"):
        link(folder, tmp_path / "x", {"name": "sort"})
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(BadConfig, match=r"model.safetensors .*Copy the folder again"):
        link(folder, tmp_path / "x", {"name": "iou"})
    (tmp_path / "site").mkdir()
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    tiny = {"name": "t", "model": "tiny", "config": {}, "classes": CLASSES, "created_at": datetime.now(UTC)}
    (folder / "card.json").write_text(ModelCard.model_validate(tiny).model_dump_json())
    with pytest.raises(BadConfig, match=r"card.json: a model of the kind 'tiny' has no detector that another tracker"):
        link(folder, tmp_path / "x", {"name": "iou"})
    assert not (tmp_path / "x").exists()


def test_a_config_of_parts_is_read_by_their_names():
    model = build("linked", LinkedConfig().model_dump(mode="json") | {"tracker": {"name": "deepsort"}})
    assert type(model.tracker).__name__ == "DeepSort"
    with pytest.raises(BadConfig, match=r"config of model 'linked': tracker.seq.tracks: Extra inputs"):
        build("linked", {"tracker": {"name": "seq", "tracks": 3}})
