from dataclasses import replace

import pytest
import torch

from vis_models.greedy import Greedy, GreedyConfig
from vis_models.rgnn.state import RgnnEncoded
from vis_models.types import Frames, Objects, VideoInfo

from .drawn import HEIGHT, WIDTH, moving_squares, small_config
from .test_rgnn import detections

pytestmark = pytest.mark.unit


def greedy() -> Greedy:
    return Greedy(GreedyConfig.model_validate(small_config().model_dump())).eval()


def two_objects(x: float, classes: tuple[int, int] = (1, 2)):
    """One frame: an object at x moving right, another that stands still, and nothing else."""
    frame = detections(1)
    boxes = torch.zeros_like(frame.boxes_px)
    boxes[0, 0] = torch.tensor([x, 10, x + 20, 30])
    boxes[0, 1] = torch.tensor([60.0, 30, 80, 50])
    logits = torch.full_like(frame.class_logits, -5.0)
    logits[0, 0, classes[0]] = logits[0, 1, classes[1]] = 5.0
    valid = torch.tensor([[True, True, False, False, False, False]])
    return replace(
        frame, boxes_px=boxes, class_logits=logits, valid=valid, mask_logits=torch.full_like(frame.mask_logits, 5.0)
    )


def test_each_object_keeps_its_track_and_its_mask_stays_in_its_box():
    model = greedy()
    state = model.start([VideoInfo("a", HEIGHT, WIDTH)])
    for x in (5.0, 9.0, 13.0):
        tracks, state = model.step(two_objects(x), state)
        sighting = tracks[0].sightings[0]
        assert sorted(sighting.track_ids) == [0, 1]
        mover = sighting.masks.whole()[sighting.track_ids.index(0)]
        columns = mover.any(0).nonzero()
        assert columns.min() >= x - 6
        assert columns.max() <= x + 26
    verdicts = model.finish(state)[0].verdicts
    assert [(verdict.track_id, verdict.category) for verdict in verdicts] == [(0, 0), (1, 1)]
    assert min(verdict.score for verdict in verdicts) > 0.9


def test_a_jump_further_than_the_object_is_wide_starts_a_new_track():
    model = greedy()
    state = model.start([VideoInfo("a", HEIGHT, WIDTH)])
    _, state = model.step(two_objects(5.0), state)
    tracks, state = model.step(two_objects(35.0), state)
    assert sorted(tracks[0].sightings[0].track_ids) == [1, 2]


def test_a_frame_without_detections_is_empty_and_costs_score():
    model = greedy()
    state = model.start([VideoInfo("a", HEIGHT, WIDTH)])
    _, state = model.step(two_objects(5.0), state)
    nothing = replace(two_objects(5.0), valid=torch.zeros(1, 6, dtype=torch.bool))
    tracks, state = model.step(nothing, state)
    assert tracks[0].sightings[0].masks.whole().shape == (0, HEIGHT, WIDTH)
    assert model.finish(state)[0].verdicts[0].score == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("slot_recycling", [False, True])
def test_after_as_many_objects_as_slots_new_ones_are_seen_if_slots_are_recycled(slot_recycling: bool):
    model = Greedy(
        GreedyConfig.model_validate(small_config(tracks=2, slot_recycling=slot_recycling).model_dump())
    ).eval()
    state = model.start([VideoInfo("a", HEIGHT, WIDTH)])
    seen, verdicts, dropped = [], [], 0
    for shot in range(4):
        for _ in range(3):
            tracks, state = model.step(one_object(20.0 * shot, category=1 + shot % 3), state)
            seen += [tracks[0].sightings[0].track_ids]
            verdicts += tracks[0].verdicts
            dropped += tracks[0].dropped_births
    verdicts += model.finish(state)[0].verdicts
    shots = [[0]] * 3 + [[1]] * 3
    if not slot_recycling:
        assert (seen, dropped) == (shots + [[]] * 6, 6)
        assert [verdict.track_id for verdict in verdicts] == [0, 1]
        return
    assert (seen, dropped) == (shots + [[2]] * 3 + [[3]] * 3, 0)
    assert [(verdict.track_id, verdict.category) for verdict in verdicts] == [(0, 0), (1, 1), (2, 2), (3, 0)]
    assert [round(verdict.score, 1) for verdict in verdicts] == [0.5, 0.5, 0.5, 1.0]  # unseen for as long as seen


def test_the_slot_of_the_track_with_the_lowest_score_out_of_sight_goes_first_and_none_in_sight():
    model = Greedy(GreedyConfig.model_validate(small_config(tracks=2, slot_recycling=True).model_dump())).eval()
    state = model.start([VideoInfo("a", HEIGHT, WIDTH)])
    _, state = model.step(two_objects(5.0), state)
    for _ in range(3):
        _, state = model.step(one_object(60.0, y=30.0, category=2), state)  # the second of the two stays
    tracks, state = model.step(one_object(30.0, y=2.0, category=3), state)
    assert tracks[0].sightings[0].track_ids == [2]
    assert [verdict.track_id for verdict in tracks[0].verdicts] == [0]
    assert [verdict.track_id for verdict in model.finish(state)[0].verdicts] == [2, 1]


def one_object(x: float, y: float = 10.0, category: int = 1) -> RgnnEncoded:
    frame = two_objects(x, (category, 1))
    frame.boxes_px[0, 0] = torch.tensor([x, y, x + 20, y + 20])
    return replace(frame, valid=torch.tensor([[True] + [False] * 5]))


def test_given_the_true_objects_the_tracks_are_the_true_tracks():
    model, clip = greedy(), moving_squares(clips=1, length=4, objects=2)
    frames, objects = Frames(clip.frames[0]), per_frame(clip.objects)
    state = model.start([VideoInfo("a", HEIGHT, WIDTH)])
    encoded = model.encode_objects(frames, objects)
    for frame in range(4):
        tracks, state = model.step(encoded[[frame]], state)
        seen = tracks[0].sightings[0]
        for track, mask in zip(seen.track_ids, seen.masks.whole(), strict=True):
            truth = objects.masks[frame, 0, 1 - track]  # the larger object takes the first slot
            assert (mask & truth).sum() / (mask | truth).sum() > 0.6  # masks have an eighth of the frame's size
    verdicts = model.finish(state)[0].verdicts
    assert [(v.track_id, v.category) for v in verdicts] == [(0, 1), (1, 0)]


def test_crowds_unknown_classes_and_what_is_out_of_sight_take_no_slot_and_the_smallest_object_goes_first():
    model, clip = greedy(), moving_squares(clips=1, length=1, objects=2)
    objects = per_frame(clip.objects)
    frames = Frames(clip.frames[0])
    assert model.encode_objects(frames, objects).valid.sum() == 2
    for changed in (
        replace(objects, crowd=torch.tensor([[False, True]])),
        replace(objects, labels=torch.tensor([[0, -1]])),
        replace(objects, visible=torch.tensor([[[True, False]]])),
    ):
        encoded = model.encode_objects(frames, changed)
        assert encoded.valid.tolist() == [[True] + [False] * 5]
        assert encoded.boxes_px[0].tolist() == [objects.boxes_px[0, 0, 0].tolist()] + [[0.0] * 4] * 5
    narrow = Greedy(GreedyConfig.model_validate(small_config(detections=1).model_dump())).eval()
    assert narrow.encode_objects(frames, objects).boxes_px[0, 0].tolist() == objects.boxes_px[0, 0, 1].tolist()


def per_frame(objects: Objects) -> Objects:
    """One clip of L frames as L clips of one frame."""
    length = objects.visible.shape[1]
    return Objects(
        *(each.transpose(0, 1) for each in (objects.masks, objects.boxes_px, objects.visible)),
        *(each.expand(length, -1) for each in (objects.labels, objects.crowd)),
    )
