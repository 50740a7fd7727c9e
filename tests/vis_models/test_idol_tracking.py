"""How IDOL tracks: similarity, memory bank, births and ends, by arithmetic."""

from typing import Any

import pytest
import torch

from vis_models.idol import association, tracker
from vis_models.idol.config import IdolConfig
from vis_models.idol.state import IdolEncoded, IdolState
from vis_models.types import Tracks, VideoInfo

pytestmark = pytest.mark.unit

SIDE_PX, CLASSES, D = 64, 3, 4
RED, BLUE, GREEN, NOTHING = [9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0], [0.0, 0, 0, 0]


def config(**changes: Any) -> IdolConfig:
    return IdolConfig(num_classes=CLASSES, channels=D, heads=2, norm_groups=2, tracks=4, **changes)


def frame(*found: tuple[int, list[float], list[float]]) -> IdolEncoded:
    """Detections, best first: left side of a box of 8 pixels, chances of the classes, embedding."""
    left = torch.tensor([float(x) for x, *_ in found]).view(-1)
    masks = torch.full((len(found), SIDE_PX // 4, SIDE_PX // 4), -5.0)
    for mask, x in zip(masks, left.tolist(), strict=True):
        mask[:2, int(x) // 4 : int(x) // 4 + 2] = 5
    return IdolEncoded(
        boxes_px=torch.stack([left, left * 0, left + 8, left * 0 + 8], 1)[None],
        chances=torch.tensor([list(chances) for _, chances, _ in found]).view(1, -1, CLASSES),
        embedding=torch.tensor([list(embedding) for *_, embedding in found]).view(1, -1, D),
        count=torch.tensor([len(found)]),
        frame_px=torch.tensor([[SIDE_PX, SIDE_PX]]),
        masks=(masks,),
    )


def one(x: int, embedding: list[float], score: float = 0.9) -> tuple[int, list[float], list[float]]:
    return x, [score, 0.0, 0.0], embedding


def play(rules: IdolConfig, *frames: IdolEncoded) -> tuple[list[Tracks], IdolState]:
    state, said = IdolState.empty(rules, [VideoInfo("", SIDE_PX, SIDE_PX)], torch.zeros(())), []
    for each in frames:
        tracks, state = tracker.step(rules, each, state)
        said.append(tracks)
    return said, state


def ids(said: list[Tracks]) -> list[list[int]]:
    return [tracks.sightings[0].track_ids for tracks in said]


# ---- similarity ------------------------------------------------------------------------------------------------------


def test_a_pair_is_as_alike_as_the_mean_of_its_share_of_the_row_and_of_the_column():
    found, known = torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([[2.0, 0], [0, 0]])
    # Products: 2 and 0 in the first row, 0 and 0 in the second
    e = torch.tensor(2.0).exp().item()
    expected = [[e / (e + 1), (1 / (e + 1) + 0.5) / 2], [(0.5 + 1 / (e + 1)) / 2, 0.5]]
    seen = torch.tensor([1, 1])
    assert association.similarity(config(), found, known, seen).tolist() == [pytest.approx(row) for row in expected]


def test_embeddings_that_nobody_normalised_do_not_overflow_not_even_in_half_precision():
    found = torch.tensor([[200.0, 0], [0, 200.0]], dtype=torch.float16)  # products of 40 000, e^40000 of them
    for weight in ("released", "paper"):
        alike = association.similarity(config(temporal_weight=weight), found, found, torch.tensor([3, 1]))
        assert alike.tolist() == [[1, 0], [0, 1]]


def test_under_half_precision_products_and_pixels_are_counted_in_full():
    torch.manual_seed(0)
    found, known, seen = torch.randn(3, 64), torch.randn(2, 64), torch.tensor([1, 2])
    masks = torch.rand(3, 40, 40) > 0.4
    alike, overlap = association.similarity(config(), found, known, seen), association.mask_iou(masks, masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(association.similarity(config(), found, known, seen), alike)
        assert torch.equal(association.mask_iou(masks, masks), overlap)


def test_in_the_paper_the_time_that_a_track_exists_counts_where_nothing_else_does():
    nothing, seen = torch.zeros(1, 2), torch.tensor([3, 1])
    paper = association.similarity(config(temporal_weight="paper"), nothing, torch.zeros(2, 2), seen)
    assert paper[0].tolist() == pytest.approx([((1 + 3) / (4 + 2) + 1) / 2, ((1 + 1) / (4 + 2) + 1) / 2])
    for rules in (config(), config(temporal_weight="paper", temporal=False)):
        assert association.similarity(rules, nothing, torch.zeros(2, 2), seen)[0].tolist() == [0.75, 0.75]


def test_the_newest_embedding_counts_most():
    bank = torch.eye(3)[None]  # the newest is the first axis
    scores, three, two = torch.tensor([[0.5, 0.9, 0.1]]), torch.tensor([3]), torch.tensor([2])

    def known(rules: IdolConfig, held: torch.Tensor) -> list[float]:
        return association.remembered(rules, bank, scores, held)[0].tolist()

    paper = [0.5 + 3, 0.5 + 3 / 2, 0.5 + 1]
    assert known(config(temporal_weight="paper"), three) == pytest.approx([each / sum(paper) for each in paper])
    released = [0.5 + 1, 0.9 + 2 / 3, 0.1 + 1 / 3]
    assert known(config(), three) == pytest.approx([each / sum(released) for each in released])
    fewer = [0.5 + 1, 0.9 + 1 / 2]
    assert known(config(), two) == pytest.approx([*(each / sum(fewer) for each in fewer), 0])
    assert known(config(temporal=False), three) == [1, 0, 0]


def test_of_tracks_that_are_all_alike_enough_the_one_that_exists_longest_is_taken_and_only_once():
    similar, seen = torch.tensor([[0.7, 0.6], [0.6, 0.55], [0.9, 0.9]]), torch.tensor([1, 5])
    assert association.assign(config(), similar, seen).tolist() == [1, 0, association.NEW]
    assert association.assign(config(temporal_weight="paper"), similar, seen).tolist() == [0, 1, association.NEW]
    assert association.assign(config(match_score=0.65), similar, seen).tolist() == [0, association.NEW, 1]


# ---- detections ------------------------------------------------------------------------------------------------------


def test_a_query_that_nearly_covers_a_better_one_of_its_class_is_a_duplicate_and_one_is_always_left():
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 95], [0, 0, 100, 80], [0, 0, 100, 95]])
    chances = torch.tensor([[0.5, 0], [0.6, 0], [0.4, 0.3], [0.1, 0.45]])
    assert association.detections(config(), chances, boxes).tolist() == [1, 3, 2]
    assert association.detections(config(min_score=0.8), chances, boxes).tolist() == [1]
    assert association.detections(config(detections=2), chances, boxes).tolist() == [1, 3]


def test_of_two_masks_that_are_nearly_one_the_better_is_left_whatever_their_classes():
    masks = torch.zeros(4, 1, 10, dtype=torch.bool)
    masks[0, 0, :6], masks[1, 0, 1:7], masks[2, 0, 3:9] = True, True, True
    assert association.unlike_better(config(), masks).tolist() == [True, False, True, True]
    assert association.unlike_better(config(mask_nms_iou=0.3), masks).tolist() == [True, False, False, True]


# ---- tracks ----------------------------------------------------------------------------------------------------------


def test_looks_tell_two_apart_that_change_places():
    said, _ = play(config(), frame(one(0, RED), one(40, BLUE)), frame(one(0, BLUE), one(40, RED)))
    assert ids(said) == [[0, 1], [1, 0]]


def test_with_other_cues_the_place_decides_where_looks_say_nothing_and_the_class_against_them():
    first = frame(one(0, NOTHING), one(40, NOTHING))
    assert ids(play(config(match="multicue"), first, frame(one(38, NOTHING)))[0]) == [[0, 1], [1]]
    other = frame((0, [0.0, 0.9, 0.0], [0.5, 0, 0, 0]))
    said, _ = play(config(match="multicue"), frame(one(0, [1.0, 0, 0, 0])), other)
    assert ids(said) == [[0], [1]]
    assert ids(play(config(), frame(one(0, [1.0, 0, 0, 0])), other)[0]) == [[0], [0]]


def test_a_detection_that_continues_nothing_begins_a_track_if_it_is_likely_and_is_told_apart_if_not():
    said, _ = play(config(), frame(one(0, RED), one(40, BLUE, score=0.2), one(20, GREEN, score=0.21)))
    assert ids(said) == [[0, 1]]
    masks = torch.zeros(3, 1, 10, dtype=torch.bool)
    masks[0, 0, :6], masks[1, 0, 7:], masks[2, 0, :3] = True, True, True
    taken, scores = torch.full((3,), association.NEW), torch.tensor([0.9, 0.1, 0.1])
    told = association.begin(config(), taken, scores, masks)
    assert told.tolist() == [association.NEW, association.BACKDROP, association.LEFT_OVER]


@pytest.mark.parametrize(("missing", "known"), [(9, True), (10, False)])
def test_a_track_is_known_again_until_it_was_ten_frames_out_of_sight(missing: int, known: bool):
    shown, other = frame(one(0, RED), one(40, BLUE)), frame(one(40, BLUE))
    said, _ = play(config(least_sightings=0), shown, *[other] * missing, shown)
    assert ids(said)[-1] == ([0, 1] if known else [2, 1])
    ended = [verdict.track_id for tracks in said for verdict in tracks.verdicts]
    assert ended == ([] if known else [0])


def test_a_track_that_was_seen_too_seldom_is_taken_back_and_comes_again_under_another_id():
    shown, other = frame(one(0, RED), one(40, BLUE)), frame(one(40, BLUE))
    said, state = play(config(), *[other] * 7, shown, shown, other, other, other, shown, other)
    assert [tracks.withdrawn for tracks in said[:12]] == [()] * 10 + [(1,), ()]
    assert ids(said)[7:13] == [[1, 0], [1, 0], [0], [0], [0], [2, 0]]
    told = [verdict.track_id for tracks in [*said, tracker.finish(config(), state)] for verdict in tracks.verdicts]
    assert sorted(told) == [0, 2]


def test_before_the_ninth_frame_nothing_is_taken_back_nor_later_what_was_seen_three_times():
    shown, other = frame(one(0, RED), one(40, BLUE)), frame(one(40, BLUE))
    said, _ = play(config(), shown, *[other] * 8)
    assert [tracks.withdrawn for tracks in said] == [()] * 9
    said, _ = play(config(), shown, shown, shown, *[other] * 8)
    assert not any(tracks.withdrawn for tracks in said)


def test_a_track_is_told_as_every_class_that_is_likely_in_the_mean_of_its_frames():
    frames = [frame((0, chances, RED)) for chances in ([0.9, 0.2, 0.0], [0.5, 0.7, 0.06])]
    (verdict,) = tracker.finish(config(), play(config(), *frames)[1]).verdicts
    assert (verdict.category, verdict.score) == (0, pytest.approx(0.7))
    assert verdict.others == ((1, pytest.approx(0.45)),)


def test_a_film_with_more_objects_than_slots_drops_births_or_gives_up_the_longest_lost():
    colours = torch.eye(4).mul(9).tolist()
    many = frame(*(one(8 * n, colour) for n, colour in enumerate([*colours, [-9.0, 0, 0, 0]])))
    said, _ = play(config(), many)
    assert (ids(said), said[0].dropped_births) == ([[0, 1, 2, 3]], 1)
    one_by_one = [frame(one(0, colour)) for colour in [*colours, [-9.0, -9.0, -9.0, -9.0]]]
    said, _ = play(config(slot_recycling=True, match_score=1.0), *one_by_one)
    assert ids(said) == [[0], [1], [2], [3], [4]]
    assert [verdict.track_id for verdict in said[4].verdicts] == [0]


def test_masks_come_out_at_the_size_of_the_video_without_the_padding_of_the_input():
    masks = torch.full((1, 8, 8), -1.0)
    masks[0, :4, 4:] = 1.0  # of an input of 32 x 32 pixels, of which 24 x 24 are picture
    given = frame(one(0, RED))
    given = IdolEncoded(**vars(given) | {"masks": (masks,), "frame_px": torch.tensor([[24, 24]])})
    (mask,) = given.masks_of(0, [0], (48, 72), stride=4).whole()
    assert mask[:28, 54:].all()
    assert not mask[33:].any()
    assert not mask[:, :47].any()
    assert len(given.masks_of(0, [], (48, 72), stride=4)) == 0
