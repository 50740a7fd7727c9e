"""What VisSTG's losses ask for: centres by arithmetic, edges, and pairs of every kind."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch

from vis_models.layers.backbone_config import ResNetConfig
from vis_models.truths import Truth, masks_at_cells, shares_of_cells
from vis_models.types import Clips
from vis_models.vis_stg import centres, objective
from vis_models.vis_stg.config import VisStgConfig
from vis_models.vis_stg.grid import Grid
from vis_models.vis_stg.model import VisStg
from vis_models.vis_stg.tracker import masks_of

from .drawn import HEIGHT, WIDTH, moving_squares

pytestmark = pytest.mark.unit

GRID = Grid(((8, 12), (4, 6)), (4, 8))


def model(**changes: Any) -> VisStg:
    torch.manual_seed(0)
    base = {
        "num_classes": 3,
        "image_size": (HEIGHT, WIDTH),
        "backbone": ResNetConfig(depth=18, width=8, blocks=(1, 1, 1, 1), stem_pool=False),
        "frozen_stages": 0,
        "channels": 8,
        "level_px": (16.0, 32.0),
        "head_convs": 1,
        "norm_groups": 0,
        "gnn_iterations": 1,
    }
    return VisStg(VisStgConfig.model_validate(base | changes))


def pairs(clips: int = 2, objects: int = 2) -> Clips:
    return moving_squares(clips, 2, objects)


# ---- centres ---------------------------------------------------------------------------------------------------------


def test_an_object_is_a_bump_on_the_level_of_its_size_and_nothing_elsewhere():
    boxes = torch.tensor([[8.0, 4.0, 24.0, 20.0], [0.0, 0.0, 32.0, 32.0]])
    level = objective.level_of(VisStgConfig(level_px=(16.0, 32.0)), boxes)
    assert level.tolist() == [0, 1]  # up to 16 pixels; up to 32
    found = centres.targets(GRID, boxes, torch.tensor([2, 0]), level, 3)
    fine, coarse = GRID.maps(found.heat[None])
    assert fine[0, 2, 3, 4] == coarse[0, 0, 1, 2] == 1
    assert fine[0, 0].count_nonzero() == coarse[0, 2].count_nonzero() == 0
    assert 0 < fine[0, 2, 3, 5] == fine[0, 2, 2, 4] < 1
    assert found.size.tolist() == [[4.0, 4.0], [4.0, 3.0]]  # in cells; the map's last row cuts the second
    assert found.offset.tolist() == [[0.0, 0.0], [0.0, 0.5]]


def test_of_two_bumps_of_a_class_the_higher_counts_and_classes_do_not_meet():
    boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0], [8.0, 4.0, 24.0, 20.0], [8.0, 4.0, 24.0, 20.0]])
    level = torch.zeros(3, dtype=torch.long)
    both = centres.targets(GRID, boxes, torch.tensor([0, 0, 1]), level, 2).heat
    alone = [centres.targets(GRID, boxes[[n]], torch.tensor([0]), level[:1], 2).heat[0] for n in range(2)]
    assert torch.equal(both[0], torch.maximum(*alone))
    assert torch.equal(both[1], alone[1])


def test_heat_is_asked_for_at_centres_and_the_nearer_to_one_the_less_it_is_missed():
    wanted = torch.tensor([[[1.0, 0.5, 0.0]]])
    even = torch.zeros(1, 1, 3)
    assert centres.heat_loss(even, wanted).item() == pytest.approx(log(2) / 4 * (1 + 0.5**4 + 1))
    assert centres.heat_loss(even, 0 * wanted).item() == pytest.approx(log(2) / 4 * 3)  # no centre: undivided
    assert centres.heat_loss(even.repeat(1, 2, 1), wanted.repeat(1, 2, 1)).item() == pytest.approx(
        centres.heat_loss(even, wanted).item()
    )


def test_peaks_of_two_levels_are_told_in_pixels_and_neighbours_of_a_peak_are_none():
    heat = torch.zeros(1, 2, GRID.cells)
    fine, coarse = GRID.maps(heat)
    fine[0, 0, 2, 3], fine[0, 0, 2, 4], coarse[0, 1, 1, 5] = 0.9, 0.8, 0.7
    size = torch.full((1, 2, GRID.cells), 2.0)
    found = centres.decode(GRID, GRID.row([fine, coarse]), size, torch.full_like(size, 0.25), 2)
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.7])
    assert found.labels[0].tolist() == [0, 1]
    assert found.boxes_px[0].tolist() == [[9.0, 5.0, 17.0, 13.0], [34.0, 2.0, 50.0, 18.0]]


# ---- pairs -----------------------------------------------------------------------------------------------------------


def edges_asked(clips: Clips, **changes: Any) -> float:
    """What edges cost that all say "even": log 2 where any are asked."""
    made = model(**changes)
    assert made.network.same is not None
    for parameter in made.network.same.parameters():
        torch.nn.init.zeros_(parameter)
    return made.loss(clips)["link"].item()


def owned(boxes_px: list[list[float]], level: list[int], side: int = 3) -> list[list[int]]:
    """The cells that learn from each object of a frame."""
    boxes, labels = torch.tensor(boxes_px).view(-1, 4), torch.zeros(len(level), dtype=torch.long)
    found = centres.targets(GRID, boxes, labels, torch.tensor(level, dtype=torch.long), 1)
    truth = Truth(boxes, labels, torch.zeros(len(level), 32, 48, dtype=torch.bool), labels, torch.zeros(0, 4))
    cells, there = objective.Pairs(GRID, [truth], [found]).around(0, side)
    return [cell[own].tolist() for cell, own in zip(cells, there, strict=True)]


def test_a_cell_between_two_objects_learns_from_the_nearer_and_a_centre_always_from_its_own():
    left, right = [4.0, 4.0, 20.0, 20.0], [8.0, 4.0, 24.0, 20.0]  # centres in columns 3 and 4 of row 3
    alone = owned([left], [0])[0]
    assert alone == [12 * row + column for row in (2, 3, 4) for column in (2, 3, 4)]
    both = owned([left, right], [0, 0])
    assert not set(both[0]) & set(both[1])
    assert set(both[0]) | set(both[1]) == {12 * row + column for row in (2, 3, 4) for column in (2, 3, 4, 5)}
    assert [12 * 3 + 3 in both[0], 12 * 3 + 4 in both[1]] == [True, True]
    assert owned([left, right], [0, 1])[0] == alone  # on another level nobody is near
    assert owned([left, [60.0, 4.0, 76.0, 20.0]], [0, 0]) == [alone, []]  # beside the picture
    assert owned([], []) == []
    assert owned([left, left], [0, 0]) == [alone, [12 * 3 + 3]]  # nothing tells these apart


def test_a_mask_learns_shares_of_cells_or_what_is_in_their_middle():
    masks = torch.zeros(1, 10, 12, dtype=torch.bool)
    masks[0, 2:8, 1:6] = True
    shares = shares_of_cells(masks, (4, 4), stride=4)
    assert shares.tolist() == [[[3 / 8, 1 / 4, 0, 0], [3 / 4, 1 / 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert shares.sum() * 16 == masks.sum()
    clips = pairs()
    assert float(model(mask_shares=True).loss(clips)["mask"]) != float(model(mask_shares=False).loss(clips)["mask"])


def test_an_edge_of_a_mask_that_knows_shares_lies_within_a_pixel_of_where_it_is():
    """Wherever a square of 13 pixels lies on cells of 4: what is read in their middles is off by up to two."""
    least = {True: 1.0, False: 1.0}
    for left in range(8, 12):
        masks = torch.zeros(1, 32, 32, dtype=torch.bool)
        masks[0, left : left + 13, left : left + 13] = True
        for shares, read in ((True, shares_of_cells), (False, masks_at_cells)):
            logits = read(masks, (8, 8), 4).float().logit(eps=1e-3)
            drawn = masks_of(logits, 4, (32, 32), (32, 32)).whole()
            least[shares] = min(least[shares], float((drawn & masks[0]).sum() / (drawn | masks[0]).sum()))
    assert least[True] > 0.85
    assert least[False] < 0.75


def test_edges_are_asked_between_objects_of_one_class_alone_unless_any_may_be_the_same():
    clips = pairs(objects=2)
    assert edges_asked(clips) == pytest.approx(log(2))
    swapped = replace(clips.objects, visible=torch.tensor([[[True, False], [False, True]]] * 2))
    assert edges_asked(replace(clips, objects=swapped)) == 0  # the target shows one class, the reference the other
    assert edges_asked(replace(clips, objects=swapped), window=101, same_class=False) == pytest.approx(log(2))
    alike = replace(swapped, labels=torch.zeros_like(swapped.labels))
    assert edges_asked(replace(clips, objects=alike), window=101) == pytest.approx(log(2))
    assert edges_asked(replace(clips, objects=alike), window=3) == 0  # out of reach of each other


def test_an_edge_to_another_object_of_the_class_learns_no_and_to_itself_yes():
    clips = pairs(objects=2)
    alike = replace(clips.objects, labels=torch.zeros_like(clips.objects.labels))
    for visible, answer in (([[True, False], [True, False]], 5.0), ([[True, False], [False, True]], -5.0)):
        seen = replace(alike, visible=torch.tensor([visible] * 2))
        made = model(window=101)
        assert made.network.same is not None
        for parameter in made.network.same.parameters():
            torch.nn.init.zeros_(parameter)
        torch.nn.init.constant_(made.network.same.layers[-1].bias, answer)
        assert made.loss(replace(clips, objects=seen))["link"].item() < 0.01


def test_masks_are_learned_on_both_frames_and_detection_on_the_reference_only_where_asked():
    clips = pairs()
    hidden = clips.objects.visible.clone()
    hidden[:, 0] = False  # the target shows nothing
    clips = replace(clips, objects=replace(clips.objects, visible=hidden))
    terms = model().loss(clips)
    assert float(terms["mask"]) > 0
    assert float(terms["size"]) == float(terms["offset"]) == 0
    assert float(model(learn_reference=True).loss(clips)["size"]) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gnn_iterations": 3, "messages": "mean"},
        {"association": "embedding", "propagation": False},
        {"association": "offset"},
        {"fusion": "concat", "association": "embedding"},
        {"fusion": "none", "association": "embedding", "propagation": False},
    ],
)
@pytest.mark.parametrize("seen", ["both", "target", "reference", "none"])
def test_every_row_learns_from_pairs_of_which_either_frame_may_show_nothing(changes: dict[str, Any], seen: str):
    clips = pairs()
    visible = clips.objects.visible.clone()
    visible[:, 0] &= seen in ("both", "target")
    visible[:, 1] &= seen in ("both", "reference")
    made = model(**changes)
    trained = made.part("whole")
    terms = made.loss(replace(clips, objects=replace(clips.objects, visible=visible)))
    torch.stack(list(terms.values())).sum().backward()
    assert set(terms) == {"heat", "size", "offset", "mask", "link"}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.parameters() if p.requires_grad)


@pytest.mark.parametrize("length", [1, 3])
def test_clips_that_are_no_pairs_are_refused_with_what_to_set(length: int):
    with pytest.raises(
        ValueError, match=rf"learns from pairs.* got clips of {length} frames: set the stage's sampling"
    ):
        model().loss(moving_squares(1, length))


def test_pictures_of_several_sizes_are_learned_together():
    clips = moving_squares(2, 2)
    sizes = torch.tensor([[[HEIGHT, WIDTH]] * 2, [[40, 90]] * 2])
    terms = model(image_size=None).loss(replace(clips, sizes_px=sizes))
    assert all(term.isfinite() for term in terms.values())
