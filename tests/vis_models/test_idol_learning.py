"""What IDOL's losses ask for: matching and contrast by arithmetic, and clips of every kind."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vis_models.idol import losses, matching
from vis_models.idol.config import IdolConfig
from vis_models.idol.matching import Costs
from vis_models.idol.model import Idol
from vis_models.layers.backbone_config import ResNetConfig
from vis_models.truths import masks_at_cells
from vis_models.types import Clips, Frames, VideoInfo

from .drawn import HEIGHT, WIDTH, moving_squares

pytestmark = pytest.mark.unit


def costs(cost: list[list[float]], overlap: float = 0.1) -> Costs:
    """Of queries (rows) and objects; a small overlap gives every object one query."""
    return Costs(torch.tensor(cost), torch.full((len(cost), len(cost[0])), overlap))


# ---- matching --------------------------------------------------------------------------------------------------------


def test_an_object_gets_as_many_of_its_cheapest_queries_as_its_overlaps_sum_up_to():
    overlap = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.5, 0.3], [0.0, 0.2], [0.0, 0.0]])
    cost = torch.tensor([[1.0, 9], [2, 9], [3, 4], [9, 1], [0, 2]])
    objects, best = matching.assign(Costs(cost, overlap))
    assert objects.tolist() == [0, -1, -1, 1, 0]  # 2.2 and 0.5: two queries and one
    assert best.tolist() == [4, 3]


def test_of_two_objects_that_want_one_query_the_cheaper_gets_it_and_the_other_the_next_that_is_free():
    objects, best = matching.assign(costs([[1.0, 2], [5, 3], [4, 9]]))
    assert objects.tolist() == [0, 1, -1]
    assert best.tolist() == [0, 1]


def test_more_objects_than_queries_leave_objects_without_one_and_no_objects_leave_all_queries():
    objects, best = matching.assign(costs([[1.0, 2, 3, 4], [9, 8, 7, 6]]))
    assert sorted(objects.tolist()) == [0, 3]
    assert best.tolist() == [0, -1, -1, 1]
    none = Costs(torch.zeros(3, 0), torch.zeros(3, 0))
    assert [each.tolist() for each in matching.assign(none)] == [[-1, -1, -1], []]


def test_a_query_outside_of_all_objects_costs_more_than_any_within_and_the_core_costs_least():
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.65, 0.5, 0.4, 0.4], [0.95, 0.95, 0.4, 0.4]])
    found = matching.costs(torch.full((3, 2), 0.5), boxes, boxes[:1], torch.tensor([1])).cost[:, 0]
    assert (found > 0).tolist() == [False, True, True]
    assert 90 < found[1] < 110
    assert 10_000 < found[2] < 10_200


def test_by_overlap_what_lies_between_is_neither_like_nor_unlike():
    given = Costs(torch.zeros(3, 1), torch.tensor([[0.8], [0.5], [0.1]]))
    positive, negative = matching.by_overlap(given, 0.7, 0.3)
    assert (positive[:, 0].tolist(), negative[:, 0].tolist()) == ([True, False, False], [False, False, True])


# ---- contrast --------------------------------------------------------------------------------------------------------


def test_two_positives_and_three_negatives_make_six_pairs():
    key = torch.tensor([1.0, 0])
    positives = torch.tensor([[0.0, 5], [2, 5]]).log1p()  # products with the key: log 1, log 3
    negatives = torch.tensor([[0.0, 5], [1, 5], [4, 5]]).log1p()  # log 1, log 2, log 5
    pairs = sum(n / p for n in (1, 2, 5) for p in (1, 3))
    assert losses.contrast(key, positives, negatives).exp().item() == pytest.approx(1 + pairs)


def test_large_products_do_not_overflow_and_without_pairs_there_is_nothing_to_learn():
    key = torch.tensor([1000.0], requires_grad=True)
    one = torch.tensor([[1.0]])
    assert losses.contrast(key, one, 2 * one).item() == pytest.approx(1000)
    assert losses.contrast(key, 2 * one, one).item() == 0
    for pair in ((one[:0], one), (one, one[:0])):
        nothing = losses.contrast(key, *pair)
        assert torch.autograd.grad(nothing, key)[0].item() == nothing.item() == 0


def test_under_half_precision_the_contrast_is_the_same():
    torch.manual_seed(0)
    pair = torch.randn(32), torch.randn(3, 32), torch.randn(5, 32)
    plain = losses.contrast(*pair), losses.cosine_loss(*pair)
    with torch.autocast("cpu", torch.bfloat16):
        assert (losses.contrast(*pair), losses.cosine_loss(*pair)) == plain


def test_the_cosine_with_a_positive_shall_be_one_and_with_a_negative_zero():
    key, positives = torch.tensor([3.0, 0]), torch.tensor([[2.0, 0], [0, 3.0]])
    negatives = torch.tensor([[-1.0, 0], [0, 1.0], [1.0, 1.0]])
    assert losses.cosine_loss(key, positives, negatives).item() == pytest.approx((0 + 1 + 1 + 0 + 0.5) / 5)
    many = torch.cat([torch.ones(99, 1), torch.zeros(99, 1)], 1)  # each alike, cosine one
    assert losses.cosine_loss(key, positives[:1], many).item() == pytest.approx(10 / 11)
    assert losses.cosine_loss(key, positives[:0], many).item() == pytest.approx(1)


def test_true_masks_are_read_in_the_middle_of_the_cells_of_a_picture_that_is_padded_further():
    masks = torch.zeros(1, 10, 12, dtype=torch.bool)
    masks[0, 6, 10] = True
    cells = masks_at_cells(masks, (4, 4), stride=4)
    assert cells.nonzero().tolist() == [[0, 1, 2]]


# ---- whole -----------------------------------------------------------------------------------------------------------


def model(**changes: Any) -> Idol:
    torch.manual_seed(0)
    base = {
        "num_classes": 3,
        "backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1)),
        "queries": 6,
        "channels": 16,
        "heads": 2,
        "points": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "hidden": 16,
        "norm_groups": 4,
        "dropout": 0.0,
    }
    return Idol(IdolConfig.model_validate(base | changes))


def learned(given: Clips, part: str = "whole", **changes: Any) -> dict[str, Tensor]:
    """The terms, each finite, as is every gradient."""
    made = model(**changes)
    terms = made.part(part).loss(given)  # type: ignore[operator]
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
    return {name: term.detach() for name, term in terms.items()}


BOXES = {"class", "l1", "giou", "mask", "dice"}


def seen(clips: Clips, visible: list[bool]) -> Clips:
    """With objects in these frames alone."""
    objects, kept = clips.objects, torch.tensor(visible)[None, :, None]
    masks = objects.masks & kept[..., None, None]
    return replace(clips, objects=replace(objects, masks=masks, visible=objects.visible & kept))


def test_a_pair_teaches_boxes_and_embeddings_a_single_frame_boxes_alone_and_longer_clips_are_refused():
    assert learned(moving_squares(length=2)).keys() == BOXES | {"embed"}
    assert learned(moving_squares(length=2), cosine_weight=3.0).keys() == BOXES | {"embed", "cosine"}
    assert learned(moving_squares(length=1), part="detector").keys() == BOXES
    with pytest.raises(ValueError, match="or from pairs, a key and a reference frame, got clips of 3 frames"):
        learned(moving_squares(length=3))


@pytest.mark.parametrize(("visible", "embeds"), [([True, True], True), ([True, False], False), ([False, True], False)])
def test_embeddings_learn_of_objects_that_both_frames_show(visible: list[bool], embeds: bool):
    terms = learned(seen(moving_squares(length=2), visible), cosine_weight=1.0)
    assert (float(terms["embed"]) > 0) == (float(terms["cosine"]) > 0) == embeds
    assert (float(terms["dice"]) > 0) == visible[0]


def test_frames_of_two_sizes_in_a_batch_are_learned_from_as_each_is_alone():
    large, small = moving_squares(clips=1, length=2), moving_squares(clips=1, length=2)
    height, width = HEIGHT - 20, WIDTH - 30
    cut = small.objects.masks.clone()
    cut[..., height:, :], cut[..., width:] = False, False
    frames = small.frames.clone()
    frames[..., height:, :], frames[..., width:] = 0, 0
    boxes = small.objects.boxes_px.minimum(torch.tensor([width, height, width, height]))
    small = Clips(frames, replace(small.objects, masks=cut, boxes_px=boxes), torch.tensor([[[height, width]] * 2]))
    large = replace(large, sizes_px=torch.tensor([[[HEIGHT, WIDTH]] * 2]))
    made = model().eval()
    with torch.no_grad():
        alone = made.loss(small)
        pixels = torch.cat([large.frames, small.frames])
        objects = type(large.objects).join([large.objects, small.objects])
        both = made.loss(Clips(pixels, objects, torch.cat([large.sizes_px, small.sizes_px])))
        other = made.loss(large)
    assert all(value.isfinite() for value in both.values())
    for name in ("embed",):  # the mean over objects, as many in each
        assert float(both[name]) == pytest.approx(float(alone[name] + other[name]) / 2, rel=1e-3)


def test_more_objects_than_queries_and_one_query_alone_can_be_learned_from():
    assert learned(moving_squares(length=2, objects=2), queries=1).keys() == BOXES | {"embed"}


def test_the_order_of_objects_and_of_clips_changes_nothing():
    given, made = moving_squares(clips=2, length=2), model().eval()
    objects = given.objects
    turned = replace(
        given,
        frames=given.frames.flip(0),
        objects=type(objects)(
            masks=objects.masks.flip(0, 2),
            boxes_px=objects.boxes_px.flip(0, 2),
            visible=objects.visible.flip(0, 2),
            labels=objects.labels.flip(0, 1),
            crowd=objects.crowd.flip(0, 1),
        ),
    )
    with torch.no_grad():
        first, second = made.loss(given), made.loss(turned)
    assert {name: float(value) for name, value in first.items()} == pytest.approx(
        {name: float(value) for name, value in second.items()}, rel=1e-4
    )


def test_an_id_head_learns_which_object_of_the_training_set_each_is():
    given = moving_squares(length=2)
    with pytest.raises(ValueError, match="clips that say which object of the training set each is"):
        learned(given, embed_loss="id")
    named = replace(given, identities=torch.tensor([[0, 1], [2, 70]]))
    made = model(embed_loss="id", identities=50)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    first, last = None, 0.0
    for _ in range(30):
        optimizer.zero_grad()
        loss = made.part("whole").loss(named)["embed"]  # type: ignore[operator]
        loss.backward()
        optimizer.step()
        first, last = first or float(loss), float(loss)
    assert first is not None
    assert last < first / 2


def test_embeddings_can_be_chosen_by_overlap():
    assert learned(moving_squares(length=2), select="iou").keys() == BOXES | {"embed"}


def test_a_film_of_one_frame_has_its_verdicts():
    made = model(min_score=0.0, new_score=0.0).eval()
    state = made.start([VideoInfo("still", HEIGHT, WIDTH)])
    (tracks,), state = made.step(made.encode(Frames(moving_squares(1, 1).frames[0])), state)
    shown = tracks.sightings[0].track_ids
    assert shown
    assert [verdict.track_id for verdict in made.finish(state)[0].verdicts] == shown


def test_only_what_detects_learns_from_single_frames():
    made = model()
    made.part("detector")
    frozen = {name.split(".")[1] for name, p in made.named_parameters() if not p.requires_grad}
    assert frozen == {"backbone", "reid_embed_head"}
    made.part("whole")
    frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
    assert {name.split(".")[2] for name in frozen} == {"conv1", "bn1", "layer1"}
