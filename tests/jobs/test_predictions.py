import gzip
import json

import pyarrow as pa
import pytest

from jobs import tables
from jobs.evaluation import evaluations
from jobs.evaluation.compare import CompareJob, compare_two
from jobs.evaluation.evaluate import EvaluateJob, Evaluation, evaluate
from jobs.evaluation.predictions import MASK_COLUMNS, by_video, mask_tracks, results_file
from jobs.settings import Settings
from vis_models.config import BadConfig
from vis_models.data.holdout import HoldOut
from vis_models.metrics.average_precision import average_precision

pytestmark = pytest.mark.unit


def score(lake, **job) -> Evaluation:
    return evaluate(EvaluateJob(data=str(lake.data), **job), lake.settings)


def test_a_folder_stands_for_its_val_json_and_files_may_be_gzipped(labelled_lake):
    expected = score(labelled_lake).figures
    assert evaluate(EvaluateJob(data=str(labelled_lake.data.parent)), labelled_lake.settings).figures == expected
    packed = labelled_lake.data.with_suffix(".json.gz")
    packed.write_bytes(gzip.compress(labelled_lake.data.read_bytes()))
    assert evaluate(EvaluateJob(data=str(packed), plan="plan"), labelled_lake.settings).figures == expected


def test_a_reader_is_told_which_videos_were_not_scored_in_full(labelled_lake):
    assert "1 videos were not read to their end, what they lack counts as missed: 4" in score(labelled_lake).notes


def test_a_reader_is_told_when_tracks_were_not_written(draw_lake):
    assert any("under a score of 0.05" in note for note in score(draw_lake(min_score=0.05)).notes)


def test_a_track_that_may_be_of_several_categories_is_a_hypothesis_for_each(draw_lake):
    lake = draw_lake(also_square=0.95)
    expected = average_precision(lake.labels(), lake.results).summary()
    alone = [entry for entry in lake.results if entry["score"] != pytest.approx(0.95)]
    assert len(alone) == len(lake.results) - 2
    assert score(lake).figures == expected != average_precision(lake.labels(), alone).summary()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda labels: labels.update(annotations=[]), "labels of the official .* are not public"),
        (lambda labels: labels.pop("annotations"), "not public"),
        (lambda labels: labels.pop("categories"), "has no list 'categories'"),
        (lambda labels: labels["annotations"][1]["segmentations"].pop(), "5 segmentations for 6 frames"),
        (
            lambda labels: labels["annotations"][1]["segmentations"].__setitem__(0, 7),
            "annotation 2 of video 2, frame 0",
        ),
        (lambda labels: labels["videos"][0].update(id=77), "no such video"),
        (lambda labels: labels["videos"].pop(), "no such video"),
        (lambda labels: labels["videos"][1]["file_names"].pop(), "6 segmentations for 5 frames"),
        (lambda labels: labels.update(categories=[{"id": 1, "name": "ape"}, {"id": 2, "name": "owl"}]), "no category"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labelled_lake, spoil, message):
    labels = labelled_lake.labels()
    spoil(labels)
    with pytest.raises(BadConfig, match=message):
        evaluate(EvaluateJob(data=labelled_lake.write("bad.json", labels), plan="plan"), labelled_lake.settings)
    assert labelled_lake.store.list("vis/v1/evaluations") == []


def test_a_plan_of_other_videos_is_refused(labelled_lake):
    labels = labelled_lake.labels()
    for entry in labels["videos"]:
        entry["height"] = 50
    for entry in labels["annotations"]:
        entry["segmentations"] = [None] * 6
    with pytest.raises(BadConfig, match=r"video 1 of the plan has .* \(48, 64, 6\), .* says \(50, 64, 6\)"):
        evaluate(EvaluateJob(data=labelled_lake.write("taller.json", labels), plan="plan"), labelled_lake.settings)
    labels = labelled_lake.labels()
    labels["videos"], labels["annotations"] = labels["videos"][:1], labels["annotations"][:1]
    with pytest.raises(BadConfig, match=r"3 videos of the plan are not in .* \['2', '3', '4'\]"):
        evaluate(EvaluateJob(data=labelled_lake.write("fewer.json", labels), plan="plan"), labelled_lake.settings)


def test_results_that_do_not_fit_are_refused(labelled_lake):
    strange = [labelled_lake.results[0] | {"video_id": 9}]
    short = [labelled_lake.results[0] | {"segmentations": []}]
    for content, message in [(strange, r"1 video ids are not in"), (short, "1 defect that"), ({}, "expected a list")]:
        with pytest.raises(BadConfig, match=message):
            score(labelled_lake, results=labelled_lake.write("results.json", content))


def test_files_that_are_missing_or_torn_are_named(labelled_lake, tmp_path):
    torn = tmp_path / "torn.json"
    torn.write_text(json.dumps(labelled_lake.labels())[:-9])
    for data, message in [
        (str(torn), "not a whole JSON"),
        (str(tmp_path / "absent.json"), "does not exist"),
        (str(tmp_path / "val"), "holds no val.json"),
    ]:
        with pytest.raises(BadConfig, match=message):
            evaluate(EvaluateJob(data=data, plan="plan"), labelled_lake.settings)


def test_data_that_was_never_segmented_says_what_to_run(labelled_lake):
    other = labelled_lake.write("other.json", labelled_lake.labels())
    with pytest.raises(BadConfig, match=r"no published plan was made from .*other.json: run `vis segment"):
        evaluate(EvaluateJob(data=other), labelled_lake.settings)


def test_a_defect_is_refused_or_scored_as_the_reference_does_and_noted(labelled_lake):
    strange = [*labelled_lake.results, labelled_lake.results[0] | {"score": float("nan"), "category_id": 77}]
    results = labelled_lake.write("results.json", strange)
    with pytest.raises(BadConfig, match=r"2 defects .*\n.*no category 77.*\n.*score nan"):
        score(labelled_lake, results=results)
    done = score(labelled_lake, results=results, check="warn")
    assert done.figures == average_precision(labelled_lake.labels(), strange).summary()
    assert any("no category 77" in note for note in done.notes)


def test_a_track_that_is_twice_in_a_frame_is_refused(labelled_lake):
    (_, masks), *_ = by_video(
        tables.pages(labelled_lake.store, labelled_lake.store.plan("plan"), "masks", MASK_COLUMNS)
    )
    with pytest.raises(BadConfig, match=r"video 1: track 1 has more than one mask in frame 0 of 6"):
        mask_tracks(pa.concat_tables([masks, masks]).sort_by("track_id"), 6)
    with pytest.raises(BadConfig, match=r"video 1: track 1 has a mask in frame 5 of 5"):
        mask_tracks(masks, 5)


def test_a_folder_with_results_beside_its_labels_is_known(labelled_lake):
    store, folder = labelled_lake.store, str(labelled_lake.data.parent)
    assert results_file(store, folder) is None
    labelled_lake.write("results.json", [])
    assert results_file(store, folder) == f"{folder}/results.json"
    assert results_file(store, str(labelled_lake.data)) is None


def test_a_place_without_labels_is_named(labelled_lake):
    absent, folder = str(labelled_lake.data.parent / "absent.json"), str(labelled_lake.data.parent)
    with pytest.raises(BadConfig, match=r"absent.json does not exist, expected a YouTube-VIS JSON"):
        evaluate(EvaluateJob(data=absent), labelled_lake.settings)
    with pytest.raises(BadConfig, match="is a folder, expected a JSON file"):
        score(labelled_lake, results=folder)


def test_scores_of_any_size_are_ranked_and_the_reader_is_told(labelled_lake):
    expected = score(labelled_lake, results=labelled_lake.write("results.json", labelled_lake.results))
    logits = [entry | {"score": 20 * entry["score"] - 10} for entry in labelled_lake.results]
    done = score(labelled_lake, results=labelled_lake.write("logits.json", logits))
    assert done.figures == expected.figures
    assert any(note.startswith("scores go from") for note in done.notes)
    assert not any(note.startswith("scores go from") for note in expected.notes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda labels: labels["categories"].append({"id": 9, "name": "disc"}), "name disc is there 2 times"),
        (lambda labels: labels["annotations"].append(labels["annotations"][0]), "the id appears twice"),
        (lambda labels: labels["videos"][0].update(file_names=[]), "expected 'file_names', one per frame"),
        (lambda labels: labels["videos"][0].update(file_names=[None] * 6), "expected 'file_names', one per frame"),
        (lambda labels: labels["categories"][0].update(id=2**31), "expected a whole number for 'id'"),
        (lambda labels: labels["annotations"][0]["segmentations"].__setitem__(0, 0), "0 is no mask, expected null"),
    ],
)
def test_labels_that_say_two_things_are_refused(labelled_lake, spoil, message):
    labels = labelled_lake.labels()
    spoil(labels)
    with pytest.raises(BadConfig, match=message):
        evaluate(EvaluateJob(data=labelled_lake.write("bad.json", labels), plan="plan"), labelled_lake.settings)


def test_a_mark_of_the_byte_order_is_no_error_and_a_flipped_byte_is_named(labelled_lake, tmp_path):
    text = json.dumps(labelled_lake.results)
    (tmp_path / "bom.json").write_text(text, encoding="utf-8-sig")
    assert score(labelled_lake, results=str(tmp_path / "bom.json")).figures["AP"] > 0
    packed = bytearray(gzip.compress(text.encode()))
    packed[len(packed) // 2] ^= 255
    (tmp_path / "flipped.json.gz").write_bytes(packed)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name in ("flipped.json.gz", "deep.json"):
        with pytest.raises(BadConfig, match=f"{name} is not a whole JSON file"):
            score(labelled_lake, results=str(tmp_path / name))


def test_a_plan_and_results_are_not_scored_at_once(labelled_lake):
    with pytest.raises(BadConfig, match="one of them is scored, name one"):
        score(labelled_lake, results="results.json", plan="plan")


def test_what_was_scored_in_spite_of_defects_is_held_against_its_like_only(labelled_lake):
    clean = score(labelled_lake, results=labelled_lake.write("clean.json", labelled_lake.results))
    labelled_lake.results[0]["score"] = float("nan")
    spoiled = labelled_lake.write("spoiled.json", labelled_lake.results)
    first, second = (score(labelled_lake, results=spoiled, check="warn") for _ in range(2))
    assert first.rules == f"{clean.rules}, with defects"
    assert (first.before_id, second.before_id) == (None, first.evaluation_id)


def test_videos_without_a_track_are_told(labelled_lake):
    only = [entry for entry in labelled_lake.results if entry["video_id"] == 1]
    done = score(labelled_lake, results=labelled_lake.write("only.json", only))
    assert any("of 4 videos with objects have no track, their objects count as missed" in note for note in done.notes)


def test_a_store_that_cannot_be_written_is_named_before_anything_is_read(labelled_lake):
    with pytest.raises(BadConfig, match=r"/proc/absent.* cannot be written.*VIS_STORE"):
        evaluate(EvaluateJob(data="absent.json"), Settings(store="/proc/absent"))


def with_text_ids(labels: dict) -> dict:
    """The same labels, their videos and references to them numbered in text."""
    for key, part in (("videos", "id"), ("annotations", "video_id")):
        labels[key] = [entry | {part: str(entry[part])} for entry in labels[key]]
    return labels


def test_ids_of_videos_may_be_text_in_labels_and_numbers_in_results(labelled_lake):
    expected, results = score(labelled_lake).figures, labelled_lake.write("results.json", labelled_lake.results)
    labelled_lake.write("val.json", with_text_ids(labelled_lake.labels()))
    of_tables, of_file = score(labelled_lake), score(labelled_lake, results=results)
    assert of_tables.figures == of_file.figures == expected
    assert any("write video_id as a number, the labels do not" in note for note in of_file.notes)
    assert not any("video_id" in note for note in of_tables.notes)
    alone = evaluations.read(labelled_lake.store, of_tables.evaluation_id)[0]["video_id"].to_pylist()
    assert {*alone} == {None, "1", "2", "3", "4"}
    compared = compare_two(CompareJob(one=of_tables.evaluation_id, other=of_file.evaluation_id), labelled_lake.settings)
    assert (compared.difference, compared.videos) == (0, 4)


def test_a_held_out_part_of_videos_with_text_ids_is_scored_from_tables(labelled_lake):
    rule = HoldOut(share=0.5)
    expected = score(labelled_lake, holdout=rule).figures
    labelled_lake.write("val.json", with_text_ids(labelled_lake.labels()))
    assert score(labelled_lake, holdout=rule).figures == expected


def test_categories_of_a_model_and_of_labels_are_joined_by_name_in_whatever_order(labelled_lake):
    expected, labels = score(labelled_lake).figures, labelled_lake.labels()
    labels["categories"] = [{"id": 7, "name": "DISC"}, {"id": 3, "name": "square"}]
    labels["annotations"] = [a | {"category_id": {1: 3, 2: 7}[a["category_id"]]} for a in labels["annotations"]]
    labelled_lake.write("val.json", labels)
    assert score(labelled_lake).figures == expected


def test_labels_by_frames_score_tables_and_results_as_labels_by_tracks_do(labelled_lake):
    expected, results = score(labelled_lake).figures, labelled_lake.write("results.json", labelled_lake.results)
    labels = labelled_lake.labels()
    images, frames, annotations = [], {}, []
    for video in labels["videos"]:
        for n, name in enumerate(video.pop("file_names")):
            frames[video["id"], n] = len(images)
            images.append({"id": len(images), "video_id": video["id"], "frame_id": n, "file_name": name})
    for track in labels["annotations"]:
        for n, mask in enumerate(track["segmentations"]):
            one = {"image_id": frames[track["video_id"], n], "instance_id": track["id"], "segmentation": mask}
            annotations.append(one | {"category_id": track["category_id"], "area": track["areas"][n], "iscrowd": 0})
    labelled_lake.write("val.json", labels | {"images": images, "annotations": annotations})
    for done in (score(labelled_lake), score(labelled_lake, results=results)):
        assert done.figures == expected
        assert any("read as CocoVID" in note for note in done.notes)
