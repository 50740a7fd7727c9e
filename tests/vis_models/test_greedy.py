from dataclasses import replace

import pytest
import torch

from vis_models.greedy import Greedy, GreedyConfig
from vis_models.types import VideoInfo

from .drawn import HEIGHT, WIDTH, small_config
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
        mover = sighting.masks[sighting.track_ids.index(0)]
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
    assert tracks[0].sightings[0].masks.shape == (0, HEIGHT, WIDTH)
    assert model.finish(state)[0].verdicts[0].score == pytest.approx(0.5, abs=0.01)
