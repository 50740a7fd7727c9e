"""Truth comes from the published evaluator (golden files), from arithmetic, and from a plain evaluator at the end."""

import re
from functools import cache, lru_cache
from itertools import product

import numpy as np
import pytest
from pycocotools import mask as coco

from vis_models.config import BadConfig
from vis_models.metrics.average_precision import RECALLS, AveragePrecision, average_precision
from vis_models.metrics.scenes import scenes
from vis_models.metrics.track_matching import Conventions, match_video
from vis_models.metrics.youtube_vis import GroundTruth, defects, defects_of_results, results_by_video

from .golden import cases, golden

pytestmark = pytest.mark.unit

CASES = cases()
each_case = pytest.mark.parametrize("case", CASES)


@cache
def scored(case: str) -> AveragePrecision:
    return average_precision(*golden(case)[:2])


@each_case
def test_golden_eval_the_twelve_figures_are_the_reference_s(case):
    assert scored(case).summary() == pytest.approx(golden(case)[2]["summary"], abs=1e-9, rel=0)


@each_case
def test_golden_eval_class_agnostic_figures_are_the_reference_s(case):
    truth, results, expected = golden(case)
    figures = average_precision(truth, results, class_agnostic=True).summary()
    assert figures == pytest.approx(expected["summary_class_agnostic"], abs=1e-9, rel=0)


@each_case
def test_golden_eval_each_category_has_the_reference_s_figures_and_curve(case):
    score = scored(case)
    for category, expected in golden(case)[2]["per_category"].items():
        figures, k = score.summary(int(category)), score.categories.index(int(category))
        for name in figures.keys() & expected.keys():
            assert figures[name] == pytest.approx(expected[name], abs=1e-9), (category, name)
        assert score.objects[k, 0] == expected["num_gt"]
        if expected["num_gt"]:
            np.testing.assert_allclose(score.curve(int(category)), expected["pr50"], rtol=0, atol=1e-9)
            np.testing.assert_allclose(score.recall[:, k, 0, -1], expected["recall_by_iou"], rtol=0, atol=1e-9)


@each_case
def test_golden_eval_each_pair_of_tracks_and_each_match_is_the_reference_s(case):
    content, results, expected = golden(case)
    truth = GroundTruth(content)
    grouped = results_by_video(truth, results)
    matches = {
        f"{video}/{category}": match
        for video in truth.video_ids()
        for category, match in match_video(
            scenes(truth.predictions(grouped.get(video, [])), truth.truths(video), [*truth.categories])
        ).items()
    }
    assert expected["ious"], "the case holds no pair"
    for key, iou in expected["ious"].items():
        np.testing.assert_allclose(matches[key].iou, np.reshape(iou, matches[key].iou.shape), rtol=0, atol=1e-9)
    for key, match in expected["matches"].items():
        assert matches[key].partner[0, 0].tolist() == match["iou50"]
        assert matches[key].partner[0, 5].tolist() == match["iou75"]
        assert matches[key].ignored[0, 0].astype(int).tolist() == match["dt_ignore50"]
        assert matches[key].objects[0] == match["gt_ignore"].count(0)


@each_case
def test_golden_eval_pairs_without_a_pixel_are_counted(case):
    assert scored(case).empty_pairs >= golden(case)[2]["warnings"]


def test_golden_eval_odd_files_are_named():
    truth, results, _ = golden("small_quirks_a")
    opened = GroundTruth(truth)
    assert any("id 0" in line for line in defects(opened))
    assert any("segmentations for" in line for line in defects_of_results(opened, results))


def test_a_perfect_prediction_scores_one_and_absent_sizes_minus_one():
    figures = average_precision(world(objects=[square(3, frames=2)]), [found(square(3, frames=2))]).summary()
    assert [figures["AP"], figures["APs"], figures["AR1"]] == pytest.approx([1, 1, 1])
    assert figures["APm"] == figures["ARl"] == -1


def test_an_iou_of_exactly_one_half_passes_the_first_of_ten_thresholds():
    half = [rle(np.pad(np.ones((2, 1), bool), ((0, 6), (0, 7))))]
    figures = average_precision(world(objects=[square(2)]), [found(half)]).summary()
    assert (figures["AP50"], figures["AP75"], figures["AP"]) == pytest.approx((1, 0, 0.1))


def test_a_better_scored_mistake_halves_the_precision():
    results = [found(square(2), score=0.4), found(square(2, at=5), score=0.9)]
    assert average_precision(world(objects=[square(2)]), results).summary()["AP"] == pytest.approx(0.5)


def test_one_of_two_objects_found_gives_a_curve_that_ends_at_recall_one_half():
    score = average_precision(world(objects=[square(2), square(2, at=5)]), [found(square(2))])
    np.testing.assert_allclose(score.curve(), RECALLS <= 0.5)


def test_track_iou_sums_pixels_over_frames():
    truth = [*square(2), *square(4)]  # 4 px, then 16 px
    seen = [None, *square(4)]
    score = average_precision(world(objects=[truth]), [found(seen)])  # IoU 16 / 20, mean of frames would be 0.5
    assert score.recall[:, 0, 0, -1].tolist() == [1] * 7 + [0] * 3


def test_without_results_every_slice_with_objects_is_zero_and_the_others_are_minus_one():
    figures = average_precision(world(objects=[square(2)]), []).summary()
    assert {name: value for name, value in figures.items() if value == -1}.keys() == {"APm", "APl", "ARm", "ARl"}
    assert {value for value in figures.values() if value != -1} == {0}


def test_labels_that_are_not_public_are_explained():
    with pytest.raises(BadConfig, match="not public"):
        average_precision(world(objects=[]), [])


def test_results_of_another_data_set_are_refused_with_the_first_five_ids():
    results = [found(square(2)) | {"video_id": video} for video in range(100, 107)]
    with pytest.raises(BadConfig, match=r"7 video ids .* \[100, 101, 102, 103, 104\]"):
        average_precision(world(objects=[square(2)]), results)


@pytest.mark.parametrize(
    ("table", "key"), [("videos", "file_names"), ("categories", "name"), ("annotations", "segmentations")]
)
def test_a_missing_key_is_named_with_its_entry(table, key):
    truth = world(objects=[square(2)])
    del truth[table][0][key]
    with pytest.raises(BadConfig, match=rf"{table}\[0\] has no key '{key}'"):
        average_precision(truth, [])


def test_a_sound_file_has_no_defects():
    truth = GroundTruth(world(objects=[square(2, frames=2)]))
    assert defects(truth) + defects_of_results(truth, [found(square(2, frames=2))]) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda truth, result: truth.update(id=0), "id 0"),
        (lambda truth, result: truth.update(areas=[4]), "1 areas for 2 frames"),
        (lambda truth, result: truth.update(areas=[4, float("nan")]), "an area is no number of pixels"),
        (lambda truth, result: truth.update(video_id=9), "no such video"),
        (lambda truth, result: truth.update(category_id=9), "no category 9"),
        (lambda truth, result: result.update(segmentations=[]), "0 segmentations for 2 frames"),
        (lambda truth, result: result.update(score=float("nan")), "score nan"),
        (
            lambda truth, result: result["segmentations"][0].update(size=[8, 9]),
            r"frame 0: mask of size \[8, 9\], expected \[8, 8\]",
        ),
    ],
)
def test_each_defect_is_named(spoil, word):
    truth, result = world(objects=[square(2, frames=2)]), found(square(2, frames=2))
    spoil(truth["annotations"][0], result)
    opened = GroundTruth(truth)
    (line,) = defects(opened) + defects_of_results(opened, [result])
    assert re.search(word, line)


@pytest.mark.parametrize("seed", range(12))
def test_the_figures_equal_those_of_a_plain_evaluator(seed):
    truth, results = random_world(seed)
    assert average_precision(truth, results).summary() == pytest.approx(plain_summary(truth, results), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_the_file_changes_nothing_where_no_scores_are_equal(seed):
    truth, results = random_world(seed)
    rng = np.random.default_rng(seed)
    results = [result | {"score": score} for result, score in zip(results, rng.random(len(results)), strict=True)]
    shuffled = [results[n] for n in rng.permutation(len(results))]
    assert average_precision(truth, shuffled).summary() == average_precision(truth, results).summary()


@pytest.mark.parametrize("seed", range(6))
def test_other_video_ids_in_the_same_order_change_nothing(seed):
    truth, results = random_world(seed)
    expected = average_precision(truth, results).summary()
    new = {1: 17, 2: 40, 3: 1000}
    for entry in [*truth["annotations"], *results]:
        entry["video_id"] = new[entry["video_id"]]
    for entry in truth["videos"]:
        entry["id"] = new[entry["id"]]
    assert average_precision(truth, results).summary() == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_of_a_track_with_a_score_of_zero_changes_nothing_where_it_finds_nothing_new(seed):
    truth, results = random_world(seed)
    results = [result | {"score": result["score"] + 0.1} for result in results]
    for entry in truth["annotations"]:
        entry["iscrowd"] = 0
    perfect = [
        found(entry["segmentations"], 0.9, entry["category_id"], entry["video_id"]) for entry in truth["annotations"]
    ]
    everything = perfect + results
    copies = [*everything, everything[0] | {"score": 0.0}, everything[-1] | {"score": 0.0}]
    before, after = (average_precision(truth, each).summary() for each in (everything, copies))
    assert after == before


def test_polygons_and_lists_of_runs_score_as_compressed_runs():
    truth = world(objects=[square(4)])
    spelled = {"size": [8, 8], "counts": [0, 4, 4, 4, 4, 4, 4, 4, 36]}
    for segmentation in (spelled, [[0, 0, 4, 0, 4, 4, 0, 4]]):
        result = found(square(4)) | {"segmentations": [segmentation]}
        assert average_precision(truth, [result]).summary()["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ({"size": [8, 8], "counts": "PP"}, "do not fill"),
        ({"size": [8, 8], "counts": "0\u00ff"}, "do not fill"),
        ({"size": [8, 9], "counts": "P2"}, "do not fill"),
        ({"size": "8x8", "counts": "P2"}, "size of an RLE"),
        ({"size": [8, 8], "counts": [3, -1, 62]}, "RLE runs are lengths"),
        ({"size": [8, 8], "counts": "0d0FR1"}, "do not fill"),  # runs 0, 20, -10, 54
        ("P2", "null, RLE or polygons"),
        ([["a", 0, 4, 0, 4, 4]], "in or near the frame"),
        ([[0, 0, 4, 0, 4, float("nan")]], "in or near the frame"),
    ],
)
def test_a_mask_that_is_none_is_refused_with_video_track_and_frame(segmentation, says):
    truth = world(objects=[square(2, frames=2)])
    result = found(square(2, frames=2))
    result["segmentations"][1] = segmentation
    with pytest.raises(BadConfig, match=rf"results: track 2 \(score 0.5\) of video 1, frame 1: .*{says}"):
        average_precision(truth, [found(square(2, frames=2)), result])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": "high"}, "expected a number for 'score', got 'high'"),
        ({"score": True}, "expected a number for 'score', got 'True'"),
        ({"segmentations": None}, "expected a list for 'segmentations', got 'None'"),
        ({"video_id": [1]}, r"expected a number or a text for 'video_id', got '\[1\]'"),
        ({"category_id": "disc"}, "expected a whole number for 'category_id', got 'disc'"),
    ],
)
def test_a_result_with_a_value_of_the_wrong_kind_is_refused_and_named(change, says):
    with pytest.raises(BadConfig, match=rf"results\[0\]: {says}"):
        average_precision(world(objects=[square(2)]), [found(square(2)) | change])


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("videos", {"height": "8"}, r"videos\[0\]: expected a whole number for 'height'"),
        ("annotations", {"areas": 4}, r"annotations\[0\]: expected a list for 'areas'"),
        ("annotations", {"areas": ["x"]}, r"annotations\[0\]: expected numbers or null in 'areas'"),
    ],
)
def test_labels_with_a_value_of_the_wrong_kind_are_refused_and_named(table, change, says):
    truth = world(objects=[square(2)])
    truth[table][0].update(change)
    with pytest.raises(BadConfig, match=says):
        average_precision(truth, [])
    truth[table][0] = 7
    with pytest.raises(BadConfig, match=rf"{table}\[0\] is '7', expected an object with"):
        average_precision(truth, [])


def test_labels_that_list_no_video_or_one_twice_are_named():
    truth = world(objects=[square(2)])
    twice = GroundTruth(truth | {"videos": truth["videos"] * 2})
    assert defects(twice) == ["ground truth: videos: id 1 is there 2 times"]
    with pytest.raises(BadConfig, match="lists no video"):
        GroundTruth(truth | {"videos": []})


def test_fewer_predictions_take_part_under_a_lower_limit():
    results = [found(square(2, at=5), score=0.9), found(square(2), score=0.4)]
    figures = average_precision(world(objects=[square(2)]), results, conventions=Conventions(limit=1)).summary()
    assert (figures["AP"], figures["AR1"]) == (0, 0)
    assert str(Conventions(limit=1)) == "limit 1"


def test_a_crowd_track_hides_any_number_of_predictions_one_or_none():
    truth = world(objects=[square(2), square(3, at=4)])
    truth["annotations"][1]["iscrowd"] = 1
    results = [found(square(3, at=4), score=0.9)] * 2 + [found(square(2), score=0.5)]
    precision = {
        crowd: average_precision(truth, results, conventions=Conventions(crowd=crowd)).summary()["AP"]
        for crowd in ("many", "once", "drop")
    }
    assert precision == pytest.approx({"many": 1, "once": 1 / 2, "drop": 1 / 3})


def rle(mask: np.ndarray) -> dict:
    coded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def square(side_px: int, at: int = 0, frames: int = 1, size_px: int = 8) -> list[dict]:
    mask = np.zeros((size_px, size_px), bool)
    mask[at : at + side_px, at : at + side_px] = True
    return [rle(mask)] * frames


def found(segmentations: list, score: float = 0.5, category: int = 1, video: int = 1) -> dict:
    segmentations = [dict(s) if s else None for s in segmentations]
    return {"video_id": video, "category_id": category, "score": score, "segmentations": segmentations}


def world(objects: list[list]) -> dict:
    """One video of 8x8 px and one category, named by its objects."""
    frames = len(objects[0]) if objects else 1
    return {
        "videos": [{"id": 1, "height": 8, "width": 8, "file_names": [f"{t}.jpg" for t in range(frames)]}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [annotation(n + 1, 1, 1, segmentations) for n, segmentations in enumerate(objects)],
    }


def annotation(id_: int, video: int, category: int, segmentations: list, crowd: int = 0) -> dict:
    areas = [int(coco.area(s)) if s else None for s in segmentations]
    keys = {"id": id_, "video_id": video, "category_id": category, "iscrowd": crowd}
    return keys | {"segmentations": segmentations, "areas": areas}


def random_world(seed: int) -> tuple[dict, list]:
    """Rectangles in three videos of different length; predictions are shaken copies, with equal scores among them."""
    rng = np.random.default_rng(seed)
    truth = {"videos": [], "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}], "annotations": []}
    results = []
    for video in rng.permutation(3) + 1:
        frames = int(rng.integers(1, 5))
        names = [f"{t}.jpg" for t in range(frames)]
        truth["videos"].append({"id": int(video), "height": 320, "width": 300, "file_names": names})
        for _ in range(rng.integers(1, 6)):
            side, crowd = int(rng.choice([20, 128, 200, 280])), int(rng.random() < 0.15)
            boxes = rng.integers(0, 20, (frames, 2))
            category = int(rng.choice([3, 7]))
            tracks = [rectangles(boxes, side, rng.random(frames) < 0.8)]
            for _ in range(rng.integers(0, 4)):
                shaken = boxes + rng.integers(-side // 6 - 1, side // 6 + 2, (frames, 2))
                tracks.append(rectangles(np.maximum(shaken, 0), side, rng.random(frames) < 0.9))
            id_ = len(truth["annotations"]) + 1
            truth["annotations"].append(annotation(id_, int(video), category, tracks[0], crowd))
            for track in tracks[1:]:
                results.append(found(track, round(float(rng.random()), 1), int(rng.choice([category, 3])), int(video)))
    return truth, results


def rectangles(corners: np.ndarray, side_px: int, visible: np.ndarray) -> list:
    track = []
    for (top, left), seen in zip(corners, visible, strict=True):
        mask = np.zeros((320, 300), bool)
        mask[top : top + side_px, left : left + side_px] = True
        track.append(rle(mask) if seen else None)
    return track


def plain_summary(truth: dict, results: list) -> dict[str, float]:
    """The rules of the reference once more: bitmaps, one pair, one threshold and one object at a time."""
    sizes = {"": (0, 1e10), "s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}
    categories = [category["id"] for category in truth["categories"]]
    pairs = [pair for pair in product(results, truth["annotations"]) if may_match(*pair)]
    iou = {(id(dt), id(gt)): plain_iou(dt, gt) for dt, gt in pairs}

    def mean(values):
        counted = [value for value in values if value > -1]
        return sum(counted) / len(counted) if counted else -1

    def figure(size, limit, thresholds, which):
        slices = product(categories, thresholds)
        return mean(plain_score(truth, results, iou, category, sizes[size], limit, t)[which] for category, t in slices)

    all_ = [0.5 + 0.05 * step for step in range(10)]
    summary = {"AP": figure("", 100, all_, 0), "AP50": figure("", 100, [0.5], 0), "AP75": figure("", 100, [0.75], 0)}
    summary |= {f"AP{size}": figure(size, 100, all_, 0) for size in "sml"}
    summary |= {f"AR{limit}": figure("", limit, all_, 1) for limit in (1, 10, 100)}
    return summary | {f"AR{size}": figure(size, 100, all_, 1) for size in "sml"}


def may_match(dt: dict, gt: dict) -> bool:
    return (dt["video_id"], dt["category_id"]) == (gt["video_id"], gt["category_id"])


def plain_score(truth, results, iou, category, size, limit, threshold) -> tuple[float, float]:
    """AP and recall of one category, area range, limit and threshold."""
    ranked, objects = [], 0
    for video in sorted(video["id"] for video in truth["videos"]):
        gts = [a for a in truth["annotations"] if (a["video_id"], a["category_id"]) == (video, category)]
        free = [(a, bool(a["iscrowd"]) or not size[0] <= plain_area(a) <= size[1]) for a in gts]
        objects += sum(not ignored for _, ignored in free)
        dts = [r for r in results if (r["video_id"], r["category_id"]) == (video, category)]
        for dt in sorted(dts, key=lambda r: -r["score"])[:limit]:
            near = [(gt, ignored) for gt, ignored in free if iou[id(dt), id(gt)] >= threshold - 1e-12]
            near = [pair for pair in near if not pair[1]] or near
            if near:
                best = max(range(len(near)), key=lambda n: (iou[id(dt), id(near[n][0])], n))
                ranked.append((dt["score"], None if near[best][1] else True))
                free = [pair for pair in free if pair[0] is not near[best][0] or pair[0]["iscrowd"]]
            else:
                ranked.append((dt["score"], False if size[0] <= plain_area(dt) <= size[1] else None))
    if not objects:
        return -1, -1
    outcome = [hit for _, hit in sorted(ranked, key=lambda pair: -pair[0]) if hit is not None]
    points = [(sum(outcome[:n]) / objects, sum(outcome[:n]) / n) for n in range(1, len(outcome) + 1)]
    best = [max([p for r, p in points if r >= wanted / 100 - 1e-12], default=0) for wanted in range(101)]
    return sum(best) / 101, sum(outcome) / objects


def plain_area(track) -> float:
    areas = [coco.area(s) for s in track["segmentations"] if s]
    return float(np.mean(areas)) if areas else 0


@lru_cache(maxsize=256)
def plain_mask(counts: str, height: int, width: int) -> np.ndarray:
    return coco.decode({"size": [height, width], "counts": counts}).astype(bool)


def plain_iou(one, other) -> float:
    both = either = 0
    for a, b in zip(one["segmentations"], other["segmentations"], strict=True):
        a, b = (plain_mask(s["counts"], *s["size"]) if s else np.zeros((1, 1), bool) for s in (a, b))
        both, either = both + (a & b).sum(), either + (a | b).sum()
    return both / either if either else 0
