"""MaskTrack R-CNN: cues, memory and verdicts by arithmetic, and what its loss asks for."""

from dataclasses import replace

import pytest
import torch

from vis_models.layers.backbone_config import ResNetConfig
from vis_models.losses import track_loss
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.masktrack_rcnn import association
from vis_models.masktrack_rcnn.config import MaskTrackConfig
from vis_models.masktrack_rcnn.model import MaskTrackEncoded, MaskTrackRcnn, MaskTrackState
from vis_models.types import Tracks, VideoInfo

from .drawn import moving_squares

pytestmark = pytest.mark.unit

SIDE_PX, CLASSES, D = 100, 3, 4


def model(**changes) -> MaskTrackRcnn:
    detector = MaskRcnnConfig(
        num_classes=CLASSES,
        image_size=(SIDE_PX, SIDE_PX),
        backbone=ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)),
        channels=8,
        box_width=8,
        mask_convs=1,
        detections=4,
    )
    return MaskTrackRcnn(MaskTrackConfig(detector=detector, embedding=D, **changes)).eval()


def frame(*found: tuple[int, float, int, list[float]]) -> MaskTrackEncoded:
    """Detections: left side of a box of 20 pixels, score, class, embedding."""
    count = len(found)
    left = torch.tensor([float(x) for x, *_ in found])
    return MaskTrackEncoded(
        boxes_px=torch.stack([left, left * 0, left + 20, left * 0 + 20], 1).view(1, count, 4),
        scores=torch.tensor([[score for _, score, *_ in found]]).view(1, count),
        labels=torch.tensor([[label for *_, label, _ in found]], dtype=torch.long).view(1, count),
        class_scores=torch.zeros(1, count, CLASSES),
        mask_logits=torch.ones(1, count, 28, 28),
        valid=torch.ones(1, count, dtype=torch.bool),
        frame_px=torch.tensor([[SIDE_PX, SIDE_PX]]),
        embedding=torch.tensor([list(e) for *_, e in found]).view(1, count, D),
    )


def play(tracker: MaskTrackRcnn, *frames: MaskTrackEncoded) -> tuple[list[Tracks], MaskTrackState]:
    state, said = tracker.start([VideoInfo("v", SIDE_PX, SIDE_PX)]), []
    for each in frames:
        (tracks,), state = tracker.step(each, state)
        said.append(tracks)
    return said, state


def ids(said: list[Tracks]) -> list[list[int]]:
    return [tracks.sightings[0].track_ids for tracks in said]


RED, BLUE, GREEN = [4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]


def test_looks_tell_two_of_a_class_apart_that_change_places():
    said, _ = play(model(), frame((0, 0.9, 0, RED), (50, 0.9, 0, BLUE)), frame((0, 0.9, 0, BLUE), (50, 0.9, 0, RED)))
    assert ids(said) == [[0, 1], [1, 0]]


def test_without_looks_the_place_decides():
    said, _ = play(model(), frame((0, 0.9, 0, [0.0] * 4), (50, 0.9, 0, [0.0] * 4)), frame((48, 0.9, 0, [0.0] * 4)))
    assert ids(said) == [[0, 1], [1]]


def test_what_looks_like_nothing_before_is_new_and_another_class_is_no_track_of_the_first():
    said, _ = play(model(), frame((0, 0.9, 0, RED)), frame((70, 0.9, 0, [-4.0, 0, 0, 0]), (0, 0.9, 1, [1.0, 0, 0, 0])))
    assert ids(said) == [[0], [1, 2]]


def test_the_better_of_two_gets_the_track_and_the_other_is_left_out_whatever_their_order():
    first, weak, strong = (0, 0.9, 0, RED), (4, 0.3, 0, RED), (0, 0.8, 0, RED)
    for second in ((weak, strong), (strong, weak)):
        said, state = play(model(), frame(first), frame(*second))
        assert ids(said) == [[0], [0]]
        assert said[1].sightings[0].scores == [pytest.approx(0.8)]
        assert state.boxes_px[0, 0].tolist() == [0, 0, 20, 20]


def test_the_known_fault_gives_both_the_identity_where_the_weaker_one_comes_first():
    scores = torch.tensor([[0.0, 3.0, 1.0], [0.0, 5.0, 1.0], [0.0, 4.0, 1.0], [2.0, 1.0, 1.0]])
    assert association.assign(MaskTrackConfig(), scores).tolist() == [-2, 0, -2, -1]
    assert association.assign(MaskTrackConfig(duplicate_ids=True), scores).tolist() == [0, 0, -2, -1]
    said, _ = play(model(duplicate_ids=True), frame((0, 0.9, 0, RED)), frame((4, 0.3, 0, RED), (0, 0.8, 0, RED)))
    assert ids(said) == [[0], [0]]  # one of them is shown


@pytest.mark.parametrize(
    ("cues", "expected"),
    [
        ({"det_cue": False, "iou_cue": False, "category_cue": False}, [-1.0986, -1.0986, -1.0986]),
        ({"iou_cue": False, "category_cue": False}, [-1.7918, -1.7918, -1.7918]),
        ({"det_cue": False, "category_cue": False}, [-1.0986, -0.0986, -1.0986]),
        ({"det_cue": False, "iou_cue": False}, [8.9014, -1.0986, 8.9014]),
        ({}, [8.2082, -0.7918, 8.2082]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_each_cue_adds_what_its_weight_says(cues: dict[str, bool], expected: list[float]):
    """One detection of score 1/2; it overlaps the first track by half, and is of the second one's class."""
    given = torch.zeros(1, 3), torch.tensor([0.5]), torch.tensor([[0.5, 0.0]]), torch.tensor([[False, True]])
    score = association.score(MaskTrackConfig(**cues), *given)
    assert score[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_track_has_the_mean_score_and_the_class_of_most_of_its_frames_the_lowest_of_equals():
    tracker = model(category_cue=False)
    frames = [frame((0, score, label, RED)) for score, label in ((0.9, 2), (0.6, 1), (0.3, 1))]
    (first,) = tracker.finish(play(tracker, *frames)[1])
    assert [(v.track_id, v.category, v.score) for v in first.verdicts] == [(0, 1, pytest.approx(0.6))]
    (tie,) = tracker.finish(play(tracker, *frames[:2])[1])
    assert tie.verdicts[0].category == 1


def test_a_track_is_remembered_through_frames_without_it_until_it_is_forgotten():
    shown, empty = frame((0, 0.9, 0, RED)), frame()
    assert ids(play(model(), shown, empty, empty, empty, shown)[0])[-1] == [0]
    said, _ = play(model(keep_frames=2), shown, empty, empty, empty, shown)
    assert ids(said) == [[0], [], [], [], [1]]
    assert [[v.track_id for v in tracks.verdicts] for tracks in said] == [[], [], [], [0], []]
    assert ids(play(model(keep_frames=2), shown, empty, shown)[0])[-1] == [0]


def test_a_film_with_more_objects_than_slots_drops_births_or_gives_up_the_longest_lost():
    frames = [frame((0, 0.9, 0, RED)), frame((70, 0.9, 1, BLUE)), frame((30, 0.9, 2, GREEN))]
    said, _ = play(model(tracks=2), *frames)
    assert (ids(said), said[2].dropped_births) == ([[0], [1], []], 1)
    said, _ = play(model(tracks=2, slot_recycling=True), *frames)
    assert (ids(said), said[2].dropped_births) == ([[0], [1], [2]], 0)
    assert [v.track_id for v in said[2].verdicts] == [0]


# ---- training ----------------------------------------------------------------------------------------------------


def test_the_loss_of_a_frame_is_its_mean_and_a_frame_without_positives_costs_nothing():
    logits = [torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.zeros(0, 3)]
    targets = [torch.tensor([1, 0]), torch.zeros(0, dtype=torch.long)]
    first = (torch.tensor([2.0, 0]).exp().sum().log() - 2 + torch.tensor(2.0).log()) / 2
    assert track_loss(logits, targets, "positives").item() == pytest.approx(first.item() / 2)
    assert track_loss(logits, targets, "known").item() == pytest.approx(first.item())


def test_a_reference_without_objects_makes_everything_new_and_single_frames_are_refused():
    tracker = model()
    part = tracker.part("whole")
    clips = moving_squares(clips=1, length=2)
    objects = replace(clips.objects, visible=clips.objects.visible & torch.tensor([True, False])[None, :, None])
    torch.manual_seed(0)
    terms = part.loss(replace(clips, objects=objects))  # type: ignore[operator]
    assert set(terms) == {"objectness", "region", "class", "box", "mask", "track"}
    assert float(terms["track"]) == 0  # one column, which is right
    with pytest.raises(ValueError, match="learns from pairs, a query and a reference frame, got clips of 3 frames"):
        part.loss(moving_squares(clips=1, length=3))  # type: ignore[operator]


def test_the_head_learns_alone_over_a_detector_that_stays_as_it_is():
    tracker = model()
    part = tracker.part("head")
    clips = moving_squares(clips=1, length=2)
    torch.manual_seed(0)
    terms = part.loss(clips)  # type: ignore[operator]
    assert set(terms) == {"track"}
    terms["track"].backward()
    learned = {name for name, parameter in tracker.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in tracker.named_parameters() if name.startswith("track_head.")}
    assert not tracker.detector.training  # nor do its norms count what they see
