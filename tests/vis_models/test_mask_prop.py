"""MaskProp: propagation layer by layer, linking by loops of its definition, refinement, and what its losses ask."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from vis_models.layers.backbone_config import ResNetConfig
from vis_models.layers.deformable_convolution import sample
from vis_models.mask_prop import linking, objective, tracker
from vis_models.mask_prop.config import MaskPropConfig, RefinementConfig
from vis_models.mask_prop.model import MaskProp
from vis_models.mask_prop.propagation import Propagation
from vis_models.mask_prop.refinement import cut_out, spread
from vis_models.mask_prop.state import MaskPropEncoded, MaskPropState, packed, unpacked
from vis_models.mask_rcnn.config import MaskRcnnConfig
from vis_models.matching import unlike_better
from vis_models.types import Sighting, Tracks, Verdict, VideoInfo

from .drawn import moving_squares

pytestmark = pytest.mark.unit

SIDE_PX, STRIDE, CLASSES, C = 96, 8, 3, 4
CELLS = SIDE_PX // STRIDE


def config(**changes) -> MaskPropConfig:
    detector = MaskRcnnConfig(
        num_classes=CLASSES,
        image_size=(SIDE_PX, SIDE_PX),
        backbone=ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)),
        channels=C,
        box_width=8,
        mask_convs=1,
        detections=4,
    )
    base = {"detector": detector, "reach": 2, "offset_channels": 4, "dilations": (1, 2), "refinement": None}
    return MaskPropConfig.model_validate(base | changes)


def branch(seed: int = 0, **changes) -> Propagation:
    """With offsets that are not at their start."""
    torch.manual_seed(seed)
    made = Propagation(config(**changes))
    torch.nn.init.normal_(made.offsets.weight, std=0.5)
    return made


# ---- propagation (4.2) -------------------------------------------------------------------------------------------


def layer_by_layer(made: Propagation, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Logits of one mask as the paper draws them: f * M, deformable convolutions, + f', 1x1 convolution."""
    moved = made.offsets(made.motion(source - target)).chunk(len(made.dilations), 1)
    warped = [warp(source * mask, offsets) for warp, offsets in zip(made.warps, moved, strict=True)]
    return made.mask(sum(warped) + target)[:, 0]


@pytest.mark.parametrize("nobody", [False, True])
def test_counted_from_their_end_the_layers_say_what_they_say_one_by_one(nobody: bool):
    made = branch(nobody=nobody)
    source, target, masks = torch.randn(2, C, 9, 11), torch.randn(2, C, 9, 11), torch.rand(2, 3, 9, 11)
    logits = [layer_by_layer(made, source, target, masks[:, n, None]) for n in range(3)]
    if nobody:
        made.nobody.data.fill_(0.3)
        logits.append(layer_by_layer(made, source, target, torch.zeros(2, 1, 9, 11)) + 0.3)
    expected = torch.stack(logits, 1).softmax(1)[:, :3] * made.attention(target).sigmoid()
    there = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(made(source, target, masks, there), expected)


def tap_by_tap(made: Propagation, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Logits of one mask where the sum is rectified: what each tap reads of features and mask, in turn."""
    at = made.places(source - target)
    weights = [weight for warp in made.warps for weight in warp.weight.flatten(2).unbind(2)]
    brought = torch.zeros(())
    for k, weight in enumerate(weights):
        features, share = (sample(maps, at[:, k, None])[:, :, 0] for maps in (source, mask))
        brought = brought + torch.einsum("dc,pchw->pdhw", weight, features) * share
    return made.mask((brought + made.beneath(target)).relu())[:, 0]


def test_a_sum_that_is_rectified_is_what_the_taps_say_one_by_one():
    made = branch(overlay="rectified", carried=6)
    source, target, masks = torch.randn(2, C, 9, 11), torch.randn(2, C, 9, 11), torch.rand(2, 3, 9, 11)
    logits = torch.stack([tap_by_tap(made, source, target, masks[:, n, None]) for n in range(3)], 1)
    expected = logits.softmax(1) * made.attention(target).sigmoid()
    torch.testing.assert_close(made(source, target, masks, torch.ones(2, 3, dtype=torch.bool)), expected)


def test_a_slot_without_a_mask_takes_no_part():
    made = branch()
    source, target, masks = torch.randn(1, C, 9, 11), torch.randn(1, C, 9, 11), torch.rand(1, 3, 9, 11)
    made.requires_grad_(False)
    two = made(source, target, masks[:, :2], torch.ones(1, 2, dtype=torch.bool))
    three = made(source, target, masks, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(three[:, :2], two)
    assert float(three[:, 2].max()) == 0


def test_a_lone_object_has_what_the_attention_leaves_unless_nobody_takes_part():
    source, target, mask = torch.randn(1, C, 9, 11), torch.randn(1, C, 9, 11), torch.rand(1, 1, 9, 11)
    there = torch.ones(1, 1, dtype=torch.bool)
    made = branch()
    torch.testing.assert_close(made(source, target, mask, there), made.attention(target).sigmoid())
    shared = branch(nobody=True)(source, target, mask, there)
    assert (shared < branch(nobody=True).attention(target).sigmoid()).all()
    blind, seeing = branch(nobody=True, attention=False), branch(nobody=True)
    seeing.load_state_dict(blind.state_dict() | {k: v for k, v in seeing.state_dict().items() if "attention" in k})
    attended = seeing.attention(target).sigmoid()
    torch.testing.assert_close(blind(source, target, mask, there) * attended, seeing(source, target, mask, there))


def sure(made: Propagation, right: int = 0) -> Propagation:
    """Reads one tap, the one in the middle, `right` cells beside; everything is attended to."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.warps[0].weight[0, 0, 1, 1] = 1.0
        made.mask.weight[0, 0] = 1.0
        made.attention.bias += 20.0
        middle = made.offsets.bias.view(len(made.dilations), 9, 2)[0, 4]
        middle[1] = -float(right)
    return made


def test_an_offset_of_two_cells_carries_a_mask_by_two_cells():
    made = sure(branch(nobody=True), right=2)
    features = torch.full((1, C, CELLS, CELLS), 20.0)
    mask = torch.zeros(1, 1, CELLS, CELLS)
    mask[..., 3:6, 1:4] = 1
    carried = made(features, features, mask, torch.ones(1, 1, dtype=torch.bool))
    assert torch.equal(carried > 0.5, mask.roll(2, -1) > 0.5)


# ---- linking (4.3) -----------------------------------------------------------------------------------------------


def test_overlap_is_by_shares_and_two_empty_masks_have_none():
    a, b = torch.tensor([1.0, 0.5, 0.0, 0.0]), torch.tensor([0.5, 0.5, 1.0, 0.0])
    overlap = linking.every_soft_iou(torch.stack([a, b * 0]), torch.stack([b, b * 0]))
    assert overlap[0].tolist() == pytest.approx([0.75 / 2.75, 0.0])  # both 0.5 + 0.25; 1.5 + 2 - 0.75
    assert overlap[1].tolist() == [0, 0]


def test_a_match_is_the_mean_over_the_frames_that_both_clips_have_and_one_of_them_shows_something_in():
    full, half, none = torch.ones(4), torch.tensor([1.0, 1, 0, 0]), torch.zeros(4)
    clip = torch.stack([full, full, none, full])[None]
    before = torch.stack([half, full, none, none])[None]
    shared = torch.tensor([[True, True, True, False]])
    assert linking.matching(clip, before, shared).item() == pytest.approx((0.5 + 1) / 2)
    assert linking.matching(clip, before, shared & False).item() == 0


def test_a_track_is_as_near_as_the_mean_of_its_clips():
    match = torch.tensor([[0.9, 0.3, 0.8]])
    near = linking.affinity(match, torch.tensor([7, 7, 2]), torch.tensor([2, 7]))
    assert near[0].tolist() == pytest.approx([0.8, 0.6])


def test_one_object_of_a_frame_has_a_track_and_the_other_takes_the_next_best_or_begins_one():
    near = torch.tensor([[0.9, 0.6], [0.95, 0.7], [0.94, 0.1]])
    assert linking.assign(near, 0.5) == [1, 0, linking.NEW]
    assert linking.assign(near, 0.65) == [linking.NEW, 0, linking.NEW]
    assert linking.assign(near[:, :0], 0.5) == [linking.NEW] * 3


def test_of_two_detections_with_one_mask_the_better_stays():
    masks = torch.tensor([[1.0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    overlap = linking.every_soft_iou(masks, masks)
    assert unlike_better(overlap > 0.7).tolist() == [True, False, True]
    assert unlike_better(overlap > 1.0).tolist() == [True, True, True]
    assert unlike_better(overlap[:0, :0] > 0.7).tolist() == []


def test_masks_wait_as_bits():
    masks = torch.rand(2, 3, 5, 7)
    assert packed(masks).shape == (2, 3, 5)
    assert torch.equal(unpacked(packed(masks))[..., :35], (masks > 0.5).float().flatten(-2))
    assert not unpacked(packed(masks))[..., 35:].any()


# ---- a film --------------------------------------------------------------------------------------------------------


def model(**changes) -> MaskProp:
    """Whose masks are carried to where they are."""
    made = MaskProp(config(nobody=True, **changes)).eval()
    sure(made.propagation)
    return made


def frame(*found: tuple[int, float, int]) -> MaskPropEncoded:
    """Detections: left side of a square of 24 pixels, score, class."""
    count = len(found)
    left = torch.tensor([float(x) for x, *_ in found])
    cover = torch.zeros(1, 4, CELLS, CELLS)
    for n, x in enumerate(left.long().tolist()):
        cover[0, n, 2:5, x // STRIDE : x // STRIDE + 3] = 1
    places = torch.stack([left, left * 0 + 16, left + 24, left * 0 + 40], 1).view(count, 4)
    chances = torch.zeros(1, 4, CLASSES)
    for n, (_, score, label) in enumerate(found):
        chances[0, n, label] = score
    return MaskPropEncoded(
        count=torch.tensor([count]),
        scores=F.pad(torch.tensor([score for _, score, _ in found]), [0, 4 - count])[None],
        class_scores=chances,
        masks=torch.ones(1, 4, 28, 28),
        places_px=F.pad(places, [0, 0, 0, 4 - count])[None],
        cover=cover,
        features=torch.full((1, C, CELLS, CELLS), 20.0),
        frame_px=torch.tensor([[SIDE_PX, SIDE_PX]]),
    )


def play(made: MaskProp, *frames: MaskPropEncoded) -> tuple[list[Tracks], MaskPropState]:
    """What is said at each frame and at the end."""
    state, said = made.start([VideoInfo("v", SIDE_PX, SIDE_PX)]), []
    for each in frames:
        (tracks,), state = made.step(each, state)
        said.append(tracks)
    return [*said, *made.finish(state)], state


def ids(said: list[Tracks]) -> list[list[int]]:
    return [sighting.track_ids for tracks in said for sighting in tracks.sightings]


def verdicts(said: list[Tracks]) -> list[Verdict]:
    return [verdict for tracks in said for verdict in tracks.verdicts]


def test_a_frame_is_told_when_those_after_it_were_seen_and_the_last_ones_at_the_end():
    said, _ = play(model(), *[frame((0, 0.9, 0))] * 5)
    assert [[sighting.frame for sighting in tracks.sightings] for tracks in said] == [[], [], [0], [1], [2], [3, 4]]
    assert ids(said) == [[0]] * 5
    (sighting,) = said[2].sightings
    assert sighting.masks.whole()[0].nonzero().aminmax(dim=0).max.tolist() == [39, 23]
    short, _ = play(model(), frame((0, 0.9, 0)))
    assert [[sighting.frame for sighting in tracks.sightings] for tracks in short] == [[], [0]]
    assert play(model())[0] == [Tracks([], [])]


def test_two_that_stand_beside_each_other_keep_their_names_whatever_their_order():
    said, _ = play(model(), frame((0, 0.9, 0), (48, 0.8, 0)), frame((48, 0.9, 0), (0, 0.8, 0)), frame((0, 0.9, 0)))
    assert ids(said) == [[0, 1], [1, 0], [0]]


def test_a_track_outlives_frames_without_it_as_long_as_clips_on_both_sides_share_one():
    shown, empty = frame((0, 0.9, 0)), frame()
    for gap in range(1, 6):
        said, _ = play(model(), shown, *[empty] * gap, shown)
        again = 0 if gap < 4 else 1  # T = 2: clips of five frames, around 0 and around 4, share frame 2
        assert ids(said) == [[0], *[[]] * gap, [again]]


def test_a_track_ends_when_no_later_clip_can_share_a_frame_with_it():
    shown, empty = frame((0, 0.9, 0)), frame()
    said, _ = play(model(), shown, *[empty] * 8)
    assert [len(tracks.verdicts) for tracks in said] == [0] * 6 + [1, 0, 0, 0]  # told with frame 4, in step 6


def test_a_track_is_of_the_class_with_the_largest_mean_probability():
    made = model()
    said, _ = play(made, *[frame((0, score, label)) for score, label in ((0.9, 2), (0.6, 1), (0.6, 1))])
    assert [(v.track_id, v.category, v.score) for v in verdicts(said)] == [(0, 1, pytest.approx(0.4))]


def test_streamed_with_a_short_memory_a_film_has_the_tracks_of_the_definition():
    """Objects that come, go and move at random, on features full of noise; every clip is made, and compared with every
    other of the whole film."""
    for seed in range(3):
        made = model(link_iou=0.4)
        torch.manual_seed(seed)
        torch.nn.init.normal_(made.propagation.offsets.weight, std=0.02)  # of differences of features, which are noise
        film = [replace(each, features=each.features + 8 * torch.randn_like(each.features)) for each in crowd(12)]
        said, _ = play(made, *film)
        assert ids(said) == by_definition(made, film)
        tracks, objects = {track for each in ids(said) for track in each}, sum(map(len, ids(said)))
        assert 3 < len(tracks) < objects - 3


def crowd(frames: int) -> list[MaskPropEncoded]:
    found = [[(8 * x, 0.9, 0) for x in (0, 3, 6) if torch.rand(()) < 0.6] for _ in range(frames)]
    return [frame(*((x + 8 * int(torch.rand(()) < 0.4), score, label) for x, score, label in each)) for each in found]


@torch.no_grad()
def by_definition(made: MaskProp, film: list[MaskPropEncoded]) -> list[list[int]]:
    """Eq. (3) to (5) in loops over the whole film."""
    reach, clips = made.config.reach, {}
    for t, each in enumerate(film):
        count = int(each.count[0])
        for other in range(max(0, t - reach), min(len(film), t + reach + 1)):
            there = torch.ones(1, count, dtype=torch.bool)
            carried = made.propagation(each.features, film[other].features, each.cover[:, :count], there)[0]
            for n in range(count):
                clips.setdefault((t, n), {})[other] = ((carried[n] if other != t else each.cover[0, n]) > 0.5).float()
    track: dict[tuple[int, int], int] = {}
    births = 0
    for t, each in enumerate(film):
        scores = {}
        for n, name in product(range(int(each.count[0])), sorted(set(track.values()))):
            matches = []
            for (other, m), known in track.items():
                if known == name and other < t and abs(t - other) < 2 * reach + 1:
                    matches.append(match_of(clips[t, n], clips[other, m]))
            if matches:
                scores[n, name] = sum(matches) / len(matches)
        taken: dict[int, int] = {}
        for (n, name), score in sorted(scores.items(), key=lambda item: -item[1]):
            if score > made.config.link_iou and n not in taken and name not in taken.values():
                taken[n] = name
        for n in range(int(each.count[0])):
            if n not in taken:
                taken[n], births = births, births + 1
            track[t, n] = taken[n]
    return [[track[t, n] for n in range(int(each.count[0]))] for t, each in enumerate(film)]


def match_of(one: dict[int, Tensor], other: dict[int, Tensor]) -> float:
    found = [
        float(linking.every_soft_iou(one[t].flatten()[None], other[t].flatten()[None]))
        for t in one.keys() & other.keys()
        if one[t].any() or other[t].any()
    ]
    return sum(found) / len(found) if found else 0.0


def test_a_step_leaves_the_state_that_it_was_given_as_it_is():
    made = model()
    state = made.start([VideoInfo("v", SIDE_PX, SIDE_PX)])
    for _ in range(4):
        before = state.own()
        _, after = made.step(frame((0, 0.9, 0)), state)
        made.finish(state)
        for name in MaskPropState.__dataclass_fields__:
            old, new = getattr(before, name), getattr(state, name)
            assert torch.equal(old, new) if isinstance(old, Tensor) else old == new
        state = after


def test_what_a_frame_holds_waits_and_no_more():
    _, state = play(model(), *[frame((0, 0.9, 0))] * 9)
    assert len(state.codes[0]) == 2
    assert state.features.shape[1] == 5
    made = tracker.step(model().config, model().propagation, frame(), state)[0]
    assert isinstance(made.sightings[0], Sighting)


# ---- refinement (4.4) --------------------------------------------------------------------------------------------


def test_a_place_is_cut_out_of_its_frame_pixel_by_pixel_and_beyond_the_frame_is_nothing():
    frames = torch.arange(2 * 6 * 8.0).view(2, 1, 6, 8)
    places = torch.tensor([[2.0, 1, 5, 4], [-1, -1, 2, 2]])
    found = cut_out(frames, torch.tensor([1, 0]), places, 3)
    torch.testing.assert_close(found[0, 0], frames[1, 0, 1:4, 2:5])
    torch.testing.assert_close(found[1, 0, 1:, 1:], frames[0, 0, :2, :2])
    assert float(found[1, 0, 0].abs().max()) < 1e-6


def test_a_mask_that_fills_its_box_lies_in_a_larger_place_where_the_box_does():
    mask = torch.arange(1.0, 5).view(1, 2, 2)
    found = spread(mask, torch.tensor([[10.0, 20, 12, 22]]), torch.tensor([[9.0, 19, 13, 23]]), (4, 4))
    torch.testing.assert_close(found[0, 1:3, 1:3], mask[0])
    assert not found[0, 0].any()
    assert not found[0, :, 3].any()


def test_before_it_learns_a_refined_mask_is_the_one_that_came():
    made = MaskProp(config(refinement=RefinementConfig(side_px=24, channels=4, blocks=1)))
    masks, boxes = torch.rand(2, 28, 28), torch.tensor([[10.0, 10, 40, 30], [50, 50, 60, 90]])
    places = made.refinement.squares(boxes)
    assert places.tolist() == [[6.25, 1.25, 43.75, 38.75], [30.0, 45.0, 80.0, 95.0]]
    logits = made._refined(torch.rand(1, 3, SIDE_PX, SIDE_PX), torch.zeros(2, dtype=torch.long), masks, boxes, places)
    torch.testing.assert_close(logits.sigmoid(), spread(masks, boxes, places, (24, 24)).clamp(0.01, 0.99))


# ---- training ----------------------------------------------------------------------------------------------------


def test_the_loss_of_a_mask_is_what_its_overlap_lacks_and_what_is_left_of_one_that_is_gone_costs():
    found = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    assert objective.unlike(found, torch.tensor([[1.0, 1.0], [0.0, 0.0]])).item() == pytest.approx(1 - 1.5 / 2)
    assert objective.unlike(found, torch.zeros(2, 2)).item() == pytest.approx(1.5 / 2.5)
    assert objective.unlike(found * 0, torch.zeros(2, 2)).item() == 0
    gone = found.clone().requires_grad_()
    objective.unlike(gone, torch.zeros(2, 2)).backward()
    assert (gone.grad > 0).all()


def test_masks_that_stand_still_and_are_carried_to_where_they_are_cost_nothing_and_those_that_move_do():
    made = model(true_masks=1.0)
    with torch.no_grad():
        made.propagation.attention.weight[0, 0, 1, 1] = 1.0
        made.propagation.attention.bias.zero_()
    clips = moving_squares(clips=1, length=2)
    masks = torch.zeros_like(clips.objects.masks)
    masks[:, :, 0, 8:24, 8:24] = masks[:, :, 1, 32:56, 40:64] = True

    @torch.no_grad()
    def loss(masks: Tensor) -> float:
        """Features say where something is."""
        cells = F.max_pool2d(masks[0].any(1, keepdim=True).float(), STRIDE) * 80 - 40
        level = F.pad(cells, [0, 0, 0, 0, 0, C - 1])
        given = replace(clips, objects=replace(clips.objects, masks=masks))
        sizes = torch.tensor([[64, 96]] * 2)
        return float(
            objective.propagation_loss(made.config, made.detector, made.propagation, [level] * 2, given, sizes)
        )

    assert loss(masks) < 1e-3
    assert loss(masks.roll(16, -1)) < 1e-3
    assert loss(torch.cat([masks[:, :1], masks[:, 1:].roll(32, -1)], 1)) > 0.6


def test_cells_of_the_padding_are_nobody_s():
    inside = objective._inside(torch.tensor([[17, 24], [64, 96]]), (8, 12), 8)
    assert inside[0].nonzero().amax(0).tolist() == [2, 2]
    assert inside[1].all()


def test_single_frames_and_longer_clips_are_refused():
    part = model().part("whole")
    with pytest.raises(ValueError, match=r"MaskProp learns from pairs of frames, got clips of 3"):
        part.loss(moving_squares(clips=1, length=3))  # type: ignore[operator]


def test_what_cannot_be_is_refused_with_what_can():
    with pytest.raises(ValidationError, match=r"level 4 of the pyramid is not there: it has 4 maps of the backbone"):
        config(level=4)
    with pytest.raises(ValidationError, match=r"without attention a lone object would have every pixel"):
        config(attention=False)
    with pytest.raises(ValueError, match=r"config.refinement is null"):
        model().part("refinement")
