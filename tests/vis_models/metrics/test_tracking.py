"""Truth comes from TrackEval (golden files) and from arithmetic on small drawings."""

import math

import numpy as np
import pytest

from vis_models.metrics.clear import Switch
from vis_models.metrics.hota import ALPHAS
from vis_models.metrics.scenes import Scene, scenes
from vis_models.metrics.tracking import Tracking, by_category, class_mean, pooled, track_scene
from vis_models.metrics.youtube_vis import GroundTruth, results_by_video

from .golden import cases, golden
from .test_average_precision import found, random_world, square, world

pytestmark = pytest.mark.unit

CASES = cases(".tracking")


def score(truth: dict, results: list, min_score: float = 0.0) -> dict[int, Tracking]:
    """The counts of each category."""
    opened = GroundTruth(truth)
    grouped = results_by_video(opened, results)
    return by_category(
        [counted(opened, video, grouped.get(video, []), min_score=min_score) for video in opened.video_ids()]
    )


def counted(
    opened: GroundTruth, video: int, results: list, class_agnostic: bool = False, min_score: float = 0.0
) -> dict[int, Tracking]:
    """The counts of one video."""
    shown = scenes(opened.predictions(results), opened.truths(video), [*opened.categories], class_agnostic)
    return {category: track_scene(scene, min_score)[0] for category, scene in shown.items()}


def figures(truth: dict, results: list, min_score: float = 0.0) -> dict[str, float]:
    """Pooled."""
    return pooled(score(truth, results, min_score)).figures()


def switches(truth: dict, results: list) -> list[Switch]:
    opened = GroundTruth(truth)
    return track_scene(Scene(opened.truths(1), opened.predictions(results)), 0.0)[1]


def as_published(counts: Tracking) -> dict[str, dict]:
    """All that the reference writes, from our counts."""
    hota, clear, identity = counts.hota, counts.clear, counts.identity
    curves, masks = hota.curves(), max(1, clear.tp + clear.fn)
    objects = max(1, clear.mt + clear.pt + clear.ml)
    counted = clear.figures()
    return {
        "HOTA": curves
        | {"HOTA_TP": hota.tp, "HOTA_FN": hota.fn, "HOTA_FP": hota.fp}
        | {"HOTA(0)": curves["HOTA"][0], "LocA(0)": curves["LocA"][0]}
        | {"HOTALocA(0)": curves["HOTA"][0] * curves["LocA"][0]},
        "CLEAR": counted
        | {"CLR_TP": clear.tp, "CLR_FN": clear.fn, "CLR_FP": clear.fp, "CLR_Frames": clear.frames}
        | {"MOTP_sum": clear.iou, "sMOTA": (clear.iou - clear.fp - clear.idsw) / masks}
        | {"CLR_Re": clear.tp / masks, "CLR_Pr": clear.tp / max(1, clear.tp + clear.fp)}
        | {"CLR_F1": clear.tp / max(1, clear.tp + clear.fn / 2 + clear.fp / 2), "MODA": (clear.tp - clear.fp) / masks}
        | {"MOTAL": (clear.tp - clear.fp - (math.log10(clear.idsw) if clear.idsw else 0)) / masks}
        | {"MTR": clear.mt / objects, "PTR": clear.pt / objects, "MLR": clear.ml / objects},
        "Identity": identity.figures() | {"IDTP": identity.tp, "IDFN": identity.fn, "IDFP": identity.fp},
    }


@pytest.mark.parametrize("case", CASES)
def test_golden_eval_tracking_figures_are_the_reference_s(case):
    truth, results, expected = golden(case, ".tracking")
    counts = score(truth, results, expected["score_threshold"])
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    compared = 0
    for name, metrics in expected["classes"].items():
        if name == "cls_comb_cls_av":
            continue
        own = pooled(counts) if name == "cls_comb_det_av" else counts.get(ids[name], Tracking())
        for metric, ours in as_published(own).items():
            for key, value in metrics[metric].items():
                np.testing.assert_allclose(ours[key], value, rtol=0, atol=1e-9, err_msg=f"{name} {metric} {key}")
                compared += 1
    assert compared >= 2 * 46


def test_golden_eval_real_hota_is_what_its_publishers_say(shared_data):
    truth, results, _ = golden("real_sav_000208")
    ours = figures(truth, results)
    assert [ours[name] for name in ("HOTA", "DetA", "AssA")] == pytest.approx(
        [0.46560796, 0.31732796, 0.68435552], abs=1e-8
    )


def test_golden_eval_alphas_are_the_reference_s():
    np.testing.assert_allclose(ALPHAS, golden(CASES[0], ".tracking")[2]["alphas"], rtol=0, atol=1e-9)


FRACTIONS = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA", "OWTA", "MOTA", "IDF1", "IDR", "IDP")


@pytest.mark.parametrize("seed", range(5))
def test_a_perfect_result_scores_one_and_switches_nothing(seed):
    truth, _ = random_world(seed)
    truth["annotations"] = [object_ for object_ in truth["annotations"] if not object_["iscrowd"]]
    results = [found(a["segmentations"], 1.0, a["category_id"], a["video_id"]) for a in truth["annotations"]]
    perfect = score(truth, results)
    ours = pooled(perfect).figures()
    assert [ours[name] for name in FRACTIONS] == pytest.approx([1.0] * len(FRACTIONS))
    assert (ours["IDSW"], ours["PT"], ours["ML"]) == (0, 0, 0)
    assert class_mean(perfect)["HOTA"] == pytest.approx(1)


def test_an_identity_that_changes_halfway_costs_association_and_one_switch():
    four = square(4, frames=4)
    results = [found([*four[:2], None, None]), found([None, None, *four[2:]])]
    ours = figures(world(objects=[four]), results)
    assert (ours["DetA"], ours["AssA"], ours["AssRe"], ours["AssPr"]) == pytest.approx((1, 0.5, 0.5, 1))
    assert ours["HOTA"] == pytest.approx(math.sqrt(0.5))
    assert (ours["IDSW"], ours["Frag"], ours["MT"]) == (1, 0, 1)
    assert ours["MOTA"] == pytest.approx((4 - 0 - 1) / 4)
    assert ours["IDF1"] == pytest.approx(2 / (2 + 2 / 2 + 2 / 2))
    assert switches(world(objects=[four]), results) == [
        Switch(2, 0, before=0, after=1, frames_before=2, frames_after=2)
    ]


def test_a_switch_is_found_after_any_gap_and_a_return_is_another():
    five = square(4, frames=5)
    results = [found([five[0], None, None, None, five[4]]), found([None, None, None, five[3], None])]
    assert switches(world(objects=[five]), results) == [Switch(3, 0, 0, 1, 1, 1), Switch(4, 0, 1, 0, 1, 1)]


def test_a_flicker_costs_one_frame_and_a_track_that_never_returns_costs_many():
    seven = square(4, frames=7)
    flicker = [found([*seven[:3], None, *seven[4:]]), found([None, None, None, seven[3], None, None, None])]
    assert [s.cost_frames for s in switches(world(objects=[seven]), flicker)] == [1, 1]
    lost = [found([*seven[:3], *[None] * 4]), found([*[None] * 3, *seven[3:]])]
    assert [s.cost_frames for s in switches(world(objects=[seven]), lost)] == [3]
    late = [found([*seven[:5], *[None] * 2]), found([*[None] * 5, *seven[5:]])]
    assert [s.cost_frames for s in switches(world(objects=[seven]), late)] == [2]


def test_an_object_lost_while_others_are_seen_is_a_fragment():
    three, other = square(3, frames=3), square(3, at=5, frames=3)
    truth = world(objects=[three, other])
    ours = figures(truth, [found([three[0], None, three[2]]), found(other)])
    assert (ours["Frag"], ours["IDSW"], ours["MT"], ours["PT"]) == (1, 0, 1, 1)
    # Where a frame shows nothing at all the matches before it stay in force: the reference's rule.
    assert figures(truth, [found([three[0], None, three[2]])])["Frag"] == 0


def test_a_match_of_the_frame_before_outlives_a_better_one():
    truth = square(4, frames=2)
    worse = square(3)[0]  # IoU 9 / 16
    results = [found([truth[0], worse]), found([None, truth[1]])]
    ours = figures(world(objects=[truth]), results)
    assert ours["IDSW"] == 0
    assert ours["MOTP"] == pytest.approx((1 + 9 / 16) / 2)


def test_an_iou_of_nine_sixteenths_passes_eleven_of_nineteen_thresholds():
    ours = figures(world(objects=[square(4)]), [found(square(3))])
    assert (ours["HOTA"], ours["DetA"], ours["AssA"]) == pytest.approx((11 / 19, 11 / 19, 11 / 19))
    assert ours["LocA"] == pytest.approx((11 * 9 / 16 + 8) / 19)


def test_an_object_is_mostly_tracked_in_more_than_four_fifths_of_its_frames_and_mostly_lost_in_less_than_one():
    five = square(4, frames=5)
    for matched, expected in [(5, "MT"), (4, "PT"), (1, "PT"), (0, "ML")]:
        ours = figures(world(objects=[five]), [found([*five[:matched], *[None] * (5 - matched)])])
        assert {name: ours[name] for name in ("MT", "PT", "ML")} == {"MT": 0, "PT": 0, "ML": 0} | {expected: 1}


def test_superfluous_tracks_make_mota_negative():
    ours = figures(world(objects=[square(2)]), [found(square(2, at=n)) for n in (0, 3, 5)])
    assert ours["MOTA"] == pytest.approx((1 - 2 - 0) / 1)
    assert ours["FP_per_frame"] == 2


def test_a_mask_of_another_category_does_not_count_unless_categories_are_ignored():
    truth = world(objects=[square(4)])
    truth["categories"].append({"id": 2, "name": "disc"})
    results = [found(square(4), category=2)]
    assert figures(truth, results)["HOTA"] == 0
    opened = GroundTruth(truth)
    assert pooled(counted(opened, 1, results, class_agnostic=True)).figures()["HOTA"] == pytest.approx(1)


def test_crowds_and_unknown_categories_are_left_out():
    truth = world(objects=[square(4), square(3, at=5)])
    truth["annotations"][1]["iscrowd"] = 1
    results = [found(square(4)), found(square(2, at=5), category=9)]
    ours = figures(truth, results)
    assert (ours["MOTA"], ours["ML"], ours["IDF1"]) == (1, 0, 1)


def test_the_class_mean_skips_categories_that_the_ground_truth_does_not_show():
    truth = world(objects=[square(4), square(3, at=5)])
    truth["categories"] += [{"id": 2, "name": "disc"}, {"id": 3, "name": "ring"}, {"id": 4, "name": "star"}]
    truth["annotations"][1]["category_id"] = 2
    counts = score(truth, [found(square(4)), found(square(4), category=3)])
    assert class_mean(counts)["HOTA"] == pytest.approx(1 / 2)  # square 1, disc 0; ring and star do not count
    assert class_mean({}) == {}


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_predictions_the_names_of_videos_and_what_is_below_the_score_change_nothing(seed):
    truth, results = random_world(seed)
    expected = figures(truth, results, 0.3)
    assert 0 < expected["HOTA"] < 1
    shuffled = [results[n] for n in np.random.default_rng(seed).permutation(len(results))]
    assert figures(truth, shuffled, 0.3) == pytest.approx(expected)
    renamed = {1: 71, 2: 3, 3: 22}
    moved = {
        "videos": [video | {"id": renamed[video["id"]]} for video in truth["videos"]],
        "categories": truth["categories"],
        "annotations": [a | {"video_id": renamed[a["video_id"]]} for a in truth["annotations"]],
    }
    assert figures(moved, [r | {"video_id": renamed[r["video_id"]]} for r in results], 0.3) == pytest.approx(expected)
    assert figures(truth, [*results, results[0] | {"score": 0.0}], 0.3) == expected


def test_objects_without_tracks_and_tracks_without_objects_are_counted():
    missed = figures(world(objects=[square(4, frames=3)]), [])
    assert (missed["HOTA"], missed["ML"], missed["LocA"], missed["MOTA"]) == (0, 1, 1, 0)
    null = world(objects=[[None]])
    invented = pooled(score(null, [found(square(4))]))
    assert (invented.clear.fp, invented.clear.ml, invented.identity.fp, invented.objects_seen) == (1, 0, 1, False)


def test_tracks_of_a_category_without_objects_are_superfluous_in_all_three():
    truth = world(objects=[square(4, frames=2)])
    truth["categories"].append({"id": 2, "name": "disc"})
    counts = score(truth, [found(square(4, frames=2)), found([*square(3), None], category=2)])
    assert (counts[2].hota.fp.tolist(), counts[2].clear.fp, counts[2].identity.fp) == ([1] * 19, 1, 1)
    assert pooled(counts).figures()["DetA"] == pytest.approx(2 / 3)
