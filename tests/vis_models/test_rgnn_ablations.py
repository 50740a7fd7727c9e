from math import log

import pytest
import torch

from vis_models.rgnn import ablations, rows
from vis_models.rgnn.config import RgnnConfig
from vis_models.rgnn.model import Rgnn
from vis_models.types import VideoInfo

from .drawn import HEIGHT, WIDTH, moving_squares, small_config
from .test_rgnn import detections, run

pytestmark = pytest.mark.unit
ROWS = {name: row.changes for name, row in rows.ROWS.items() if name != "resnet101"}


def model_of(row: str) -> Rgnn:
    """The row's model with random weights that start and continue tracks."""
    torch.manual_seed(1)
    model = Rgnn(small_config(**ROWS[row])).eval()
    if row == "limited":
        torch.nn.init.constant_(model.limited.match_head.bias, 0.5)
    else:
        torch.nn.init.constant_(model.init_head.bias, 1.0)
        torch.nn.init.constant_(model.match_head.bias, 0.5)
    return model


@pytest.mark.parametrize("row", ROWS)
def test_every_row_changes_the_proposed_approach_and_nothing_is_trained_in_vain(row: str):
    model = model_of(row).train()
    encoded, objects = model.encode_clips(moving_squares())
    encoded = detections(len(encoded), seed=2) if not encoded.valid.any() else encoded
    terms = model.encoded_loss(encoded, objects)
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"gate"} <= touched if row not in ("no_gating",) else {"class_head"} <= touched


@pytest.mark.parametrize("row", ROWS)
def test_in_every_row_videos_side_by_side_give_what_each_gives_alone(row: str):
    model = model_of(row)
    first, second = detections(5, seed=3), detections(5, seed=4)
    together, _ = run(model, [first, second])
    for place, video in enumerate((first, second)):
        alone, _ = run(model, [video])
        seen = 0
        for frame in range(5):
            a, b = together[frame][place].sightings[0], alone[frame][0].sightings[0]
            assert a.track_ids == b.track_ids
            assert a.scores == pytest.approx(b.scores, abs=1e-5)
            assert torch.equal(a.masks.whole(), b.masks.whole())
            seen += len(a.track_ids)
        assert seen > 0


@pytest.mark.parametrize("row", ROWS)
def test_in_every_row_a_video_cut_in_two_gives_what_the_whole_gives(row: str):
    model = model_of(row)
    video = detections(6, seed=5)
    whole, last = run(model, [video])
    before, state = run(model, [video[:3]])
    after, state = run(model, [video[3:]], state)
    for a, b in zip(whole, [*before, *after], strict=True):
        assert a[0].sightings[0].track_ids == b[0].sightings[0].track_ids
    said, expected = model.finish(state)[0].verdicts, model.finish(last)[0].verdicts
    assert [(v.track_id, v.category) for v in said] == [(v.track_id, v.category) for v in expected]
    assert [v.score for v in said] == pytest.approx([v.score for v in expected], abs=1e-5)


def test_the_majority_decides_the_class_and_the_mean_confidence_the_score():
    found = torch.tensor([[[0.0, 2.0, 1.0]], [[0.0, 1.0, 1.5]], [[0.0, 3.0, 0.0]]]).unbind(0)  # classes 1, 2, 1
    votes = torch.zeros(1, 1, 3)
    for logits in found:
        said, votes = ablations.majority(votes, logits[None], torch.ones(1, 1, 1, dtype=torch.bool))
    confidence = torch.stack([logits.softmax(-1)[0, 1:].max() for logits in found]).mean()
    probability = said.softmax(-1)[0, 0]
    assert probability.argmax() == 1
    assert probability[1].item() == pytest.approx(confidence.item(), abs=1e-5)
    assert votes[0, 0, 1:].tolist() == [2, 1]


def test_a_track_without_a_detection_keeps_its_votes():
    votes = torch.tensor([[[0.8, 1.0, 0.0]]])
    said, after = ablations.majority(votes, torch.randn(1, 1, 3), torch.zeros(1, 1, 1, dtype=torch.bool))
    assert torch.equal(votes, after)
    assert said.softmax(-1)[0, 0, 1].item() == pytest.approx(0.8, abs=1e-5)


def test_by_the_rule_of_masktrack_class_outweighs_likeness_and_the_most_confident_stays():
    alike = torch.tensor([[[5.0, 5.0, 5.0]]])  # one track, three detections
    overlap = torch.tensor([[[0.5, 0.5, 0.5]]])
    found = torch.tensor([[[0.0, 3.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]]])  # the third is of another class
    known = torch.tensor([[[0.0, 5.0, 0.0]]])
    yes = torch.ones(1, 1, dtype=torch.bool)
    worth, new = ablations.masktrack_decisions(alike, overlap, found, known, yes, torch.ones(1, 3, dtype=torch.bool))
    assert new.tolist() == [[False, False, True]]
    assert worth.argmax(-1).item() == 1
    assert torch.isinf(worth[0, 0, 2])


def test_by_the_rule_of_masktrack_a_detection_that_looks_unlike_the_tracks_of_its_class_can_start_one():
    model = model_of("masktrack")
    model.appearance_c4.bias.data.zero_()
    model.appearance_c5.bias.data.zero_()
    first, started = detections(1, seed=8), {}
    for look in (1, -1):  # as in the frame before, or the opposite
        _, state = run(model, [first])
        second = detections(1, seed=8)
        second.boxes_px[:] += 10_000  # nothing overlaps from frame to frame
        second.pooled_c4[..., 1:] *= look
        second.pooled_c5[..., 1:] *= look
        for logits in (second.class_logits, state.class_logits):  # and all is of one class
            logits[:] = torch.tensor([0.0, 5.0, *[0.0] * (logits.shape[-1] - 2)])
        _, decisions = model.advance(second, state, 0.0)
        started[look] = int(decisions.born.sum() + decisions.dropped.sum())
    assert started[1] == 0
    assert started[-1] > 0


def test_without_tracks_every_detection_starts_one_by_the_rule_of_masktrack():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    worth, new = ablations.masktrack_decisions(
        torch.randn(1, 2, 3), torch.rand(1, 2, 3), torch.randn(1, 3, 4), torch.randn(1, 2, 4), nothing,
        torch.ones(1, 3, dtype=torch.bool),
    )  # fmt: skip
    assert new.all()
    assert torch.isinf(worth).all()


def test_the_loss_of_masktrack_is_the_cross_entropy_of_the_true_track_or_a_new_one():
    alike = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])  # the second slot is free
    existing = torch.tensor([[True, False]])
    same = torch.tensor([[[True, False], [False, False]]])
    loss = ablations.masktrack_loss(alike, existing, same, torch.tensor([[True, True]]))
    expected = log(1 + 2.718281828459045) - 1 + log(2)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_a_limited_graph_starts_a_track_where_no_track_wants_the_detection():
    net = ablations.LimitedGnn(detection=4, channels=8)
    mask = torch.tensor([[True, False]])
    _, _, match, init = net(
        torch.randn(1, 2, 8), torch.randn(1, 3, 4), torch.randn(1, 2, 3, 2), mask, torch.ones(1, 3, dtype=torch.bool)
    )
    assert torch.allclose(init, -torch.maximum(match[:, 0], torch.tensor(-10.0)))
    assert not init.requires_grad


def test_a_detectors_mean_moves_one_tenth_of_the_way():
    model = model_of("detector_mean")
    video = detections(2, slots=2, seed=6)  # one detection; the last slot is padding
    video = type(video)(*(value[[0, 0]] for value in vars(video).values()))
    video.class_logits[1] += 1
    _, state = run(model, [video])
    assert torch.allclose(state.class_logits[0, 0], video.class_logits[0, 0] + 0.1, atol=1e-5)


def test_switches_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="one switch at a time"):
        RgnnConfig(appearance="none", association="masktrack")
    with pytest.raises(ValueError, match="choose one"):
        RgnnConfig(gnn="limited", association="masktrack")


def test_a_simple_gate_remembers_nothing_but_its_output():
    model = model_of("simple")
    _, state = run(model, [detections(3, seed=7)])
    assert not state.cell.any()
    assert state.embedding.any()
    assert model.start([VideoInfo("a", HEIGHT, WIDTH)]).cell.shape == state.cell.shape


def test_by_the_rule_of_masktrack_masks_are_the_detectors_own_and_may_overlap():
    model = model_of("masktrack")
    video = detections(1, slots=4, seed=8)
    video.boxes_px[0, 1] = video.boxes_px[0, 0]
    video.mask_logits[0, 1] = video.mask_logits[0, 0]
    said, _ = run(model, [video])
    masks = said[0][0].sightings[0].masks.whole()
    assert len(masks) == 3
    assert masks[0].any()
    assert torch.equal(masks[0], masks[1])
