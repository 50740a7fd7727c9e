import subprocess
import sys

import duckdb
import numpy as np
import pytest

from jobs.evaluation import evaluations
from jobs.evaluation.evaluate import EvaluateJob, Evaluation, evaluate
from jobs.settings import Settings
from jobs.store import Store
from tests.conftest import REPOSITORY
from tests.drawn_results import Drawing, write
from vis_models.config import BadConfig
from vis_models.data.holdout import HoldOut, ListedVideo, split, split_name
from vis_models.metrics.average_precision import average_precision

pytestmark = pytest.mark.unit


def score(lake, **job) -> Evaluation:
    return evaluate(EvaluateJob(data=str(lake.data), **job), lake.settings)


def test_tables_and_a_results_file_of_the_same_tracks_score_the_same(labelled_lake):
    expected = average_precision(labelled_lake.labels(), labelled_lake.results).summary()
    assert 0 < expected["AP"] < 1
    assert score(labelled_lake).figures == expected
    assert score(labelled_lake, plan="plan").figures == expected
    assert score(labelled_lake, results=labelled_lake.write("results.json", labelled_lake.results)).figures == expected


def test_without_classes_the_figures_are_those_of_the_class_agnostic_evaluator(labelled_lake):
    expected = average_precision(labelled_lake.labels(), labelled_lake.results, class_agnostic=True).summary()
    done = score(labelled_lake, class_agnostic=True)
    assert done.figures == expected
    assert done.before_id is None


def test_every_figure_is_a_row_with_its_provenance(labelled_lake):
    done = score(labelled_lake, command="vis evaluate --data val.json")
    rows = duckdb.read_parquet(done.uri)
    whole = duckdb.sql("FROM rows WHERE category IS NULL AND video_id IS NULL AND recall IS NULL")
    figures = dict(whole.project("metric, value").fetchall())
    assert {name: value for name, value in figures.items() if "@" not in name} == (
        done.figures | done.tracking | {"objects": 5}
    )
    origin = rows.project("model_name, plan_id, run_id, tables_commit, command, evaluation_id").distinct().fetchall()
    assert origin == [("drawn", "plan", "run", "c0ffee", "vis evaluate --data val.json", done.evaluation_id)]
    assert duckdb.sql("FROM rows WHERE commit IS NULL OR length(data_sha256) <> 64").fetchall() == []
    curves = duckdb.sql("SELECT category, count(*) FROM rows WHERE metric = 'precision' GROUP BY 1 ORDER BY 1")
    assert curves.fetchall() == [("disc", 101), ("square", 101), (None, 101)]


def test_each_video_has_an_ap_of_its_own(labelled_lake):
    table = evaluations.read(labelled_lake.store, score(labelled_lake).evaluation_id)[0]
    rows = [row for row in table.to_pylist() if row["video_id"]]
    alone = {(row["video_id"], row["metric"]): row["value"] for row in rows}
    assert [alone[video, "AP"] for video in "1234"] == pytest.approx([1, (1 + 0.1) / 2, 0, 0])  # the disc: IoU 0.5
    assert [alone[video, "objects_found"] for video in "1234"] == [1, 2, 0, 0]


def test_an_evaluation_is_compared_with_the_one_before_and_none_is_overwritten(labelled_lake):
    first = score(labelled_lake)
    perfect = [row for row in labelled_lake.results if row["video_id"] == 1]
    second = score(labelled_lake, results=labelled_lake.write("results.json", perfect))
    assert (first.before_id, first.change) == (None, {})
    assert second.before_id == first.evaluation_id
    assert second.change["AP"] == pytest.approx(second.figures["AP"] - first.figures["AP"])
    assert "APl" not in second.change
    assert len(labelled_lake.store.list("vis/v1/evaluations")) == 2


def test_other_labels_are_another_data_set(labelled_lake):
    score(labelled_lake)
    labels = labelled_lake.labels()
    labels["annotations"][0]["iscrowd"] = 1
    changed = EvaluateJob(data=labelled_lake.write("changed.json", labels), plan="plan")
    assert evaluate(changed, labelled_lake.settings).before_id is None


def test_evaluations_lie_in_s3_as_they_lie_in_a_folder(labelled_lake, s3_settings):
    results = labelled_lake.write("results.json", labelled_lake.results)
    job = EvaluateJob(data=str(labelled_lake.data), results=results)
    first, second = evaluate(job, s3_settings), evaluate(job, s3_settings)
    assert second.before_id == first.evaluation_id
    assert set(second.change.values()) == {0}


def test_progress_counts_the_videos(labelled_lake):
    seen = []
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings, lambda *step: seen.append(step))
    assert seen == [("evaluate", n, 4, {}) for n in (1, 2, 3)]  # video 4 has no tracks


def test_an_unknown_evaluation_is_named(tmp_path):
    with pytest.raises(BadConfig, match="no evaluation absent"):
        evaluations.read(Store.open(Settings(store=str(tmp_path))), "absent")


def test_without_a_result_there_is_a_score_of_zero(labelled_lake):
    figures = score(labelled_lake, results=labelled_lake.write("results.json", [])).figures
    assert (figures["AP"], figures["AR100"], figures["APl"]) == (0, 0, -1)


def test_conventions_that_are_not_the_reference_s_are_part_of_the_rules(labelled_lake):
    assert score(labelled_lake).rules == "youtubevos/cocoapi@f3f9948a"
    other = score(labelled_lake, class_agnostic=True, limit=300, crowd="once")
    assert other.rules == "youtubevos/cocoapi@f3f9948a, class-agnostic, limit 300, crowd once"
    assert "AR300" in other.figures


def test_the_error_of_ap_is_stored_where_there_are_enough_videos(tmp_path):
    settings = Settings(store=str(tmp_path / "lake"))
    labels, results = write(Drawing(24, 4, 2, 2, 6), tmp_path, Store.open(settings))
    done = evaluate(EvaluateJob(data=str(labels), results=str(results)), settings)
    rows = evaluations.read(Store.open(settings), done.evaluation_id)[0]
    assert evaluations.summary(rows)["AP_error"] == done.error
    assert 0.01 < done.error < 0.2
    assert evaluate(EvaluateJob(data=str(labels), plan="drawn"), settings).figures == done.figures


def test_scoring_brings_no_torch_no_ray_and_no_prefect():
    scoring = "jobs.evaluation.evaluate, jobs.evaluation.compare"
    brings = f"import sys, {scoring}; print({{'torch', 'ray', 'prefect'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", brings], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_only_the_held_out_videos_are_scored_and_the_split_is_recorded(labelled_lake):
    labels, rule = labelled_lake.labels(), HoldOut(share=0.5)
    train, held = split([ListedVideo.of(video) for video in labels["videos"]], rule)
    assert [video.video_id for video in held] == [2, 3, 4]  # printf %04d 1 | sha256sum: 88..., over 0.5 * 2^64
    inside = {2, 3, 4}
    labels["videos"] = [video for video in labels["videos"] if video["id"] in inside]
    labels["annotations"] = [entry for entry in labels["annotations"] if entry["video_id"] in inside]
    few = [entry for entry in labelled_lake.results if entry["video_id"] in inside]
    expected = average_precision(labels, few).summary()
    broken = labelled_lake.results[0] | {"segmentations": []}  # of video 1, which takes no part
    assert broken["video_id"] == 1
    results = labelled_lake.write("results.json", [*labelled_lake.results, broken])
    whole = score(labelled_lake)
    of_file, of_plan = score(labelled_lake, holdout=rule, results=results), score(labelled_lake, holdout=rule)
    assert of_file.figures == of_plan.figures == expected
    assert whole.figures != expected
    assert (of_file.before_id, of_plan.before_id) == (None, of_file.evaluation_id)
    assert of_file.rules == "youtubevos/cocoapi@f3f9948a, hold-out 0.5"
    assert evaluations.read(labelled_lake.store, of_plan.evaluation_id)[1]["split"] == split_name(train, held)
    assert (
        f"only the 3 of 4 videos that rule 0.5 holds out are scored: split {split_name(train, held)}" in of_plan.notes
    )


def test_a_rule_that_holds_nothing_out_and_a_word_that_is_no_rule_are_refused(labelled_lake):
    with pytest.raises(BadConfig, match=r"the hold-out rule rgnn leaves none to score of 4 videos"):
        score(labelled_lake, holdout=HoldOut.named("rgnn"))
    for word in ("rgn", "1.5", "0", "nan"):
        with pytest.raises(BadConfig, match=f"hold-out rule '{word}': expected rgnn"):
            HoldOut.named(word)
    assert HoldOut.named("0.1") == HoldOut()


def test_tracking_figures_stand_beside_ap_and_every_switch_is_a_row(labelled_lake):
    (whole,) = [row for row in labelled_lake.results if row["video_id"] == 1]
    first = whole | {"segmentations": [*whole["segmentations"][:4], None, None]}
    second = whole | {"segmentations": [*[None] * 4, *whole["segmentations"][4:]]}
    invented = whole | {"score": 0.29}
    done = score(labelled_lake, results=labelled_lake.write("results.json", [first, invented, second]))
    assert (done.tracking["IDSW"], done.tracking["tracking_min_score"]) == (1, 0.3)
    assert done.tracking["DetA"] == pytest.approx(6 / 30)  # 5 objects of 6 frames
    assert done.tracking["AssA"] == pytest.approx((4 * 4 / 6 + 2 * 2 / 6) / 6)
    assert done.tracking["HOTA_class_mean"] == pytest.approx(done.tracking["HOTA"] * (30 / 18) ** 0.5 / 2)
    switches = duckdb.read_parquet(done.switches_uri).fetchall()
    assert switches == [(done.evaluation_id, "1", 4, "square", 1, 1, 3, 4, 2, 2)]
    rows = evaluations.read(labelled_lake.store, done.evaluation_id)[0].to_pylist()
    alone = {row["video_id"]: row["value"] for row in rows if row["metric"] == "DetA" and row["video_id"]}
    assert alone == pytest.approx({"1": 1, "2": 0, "3": 0, "4": 0})
    classes = {row["category"]: row["value"] for row in rows if row["metric"] == "IDSW" and row["category"]}
    assert classes == {"square": 1, "disc": 0}


def test_without_a_least_score_every_track_counts(labelled_lake):
    (whole,) = [row for row in labelled_lake.results if row["video_id"] == 1]
    results = labelled_lake.write("results.json", [whole, whole | {"score": 0.0}])
    assert score(labelled_lake, results=results).tracking["MOTA"] == pytest.approx(6 / 30)
    assert score(labelled_lake, results=results, tracking_min_score=0.0).tracking["MOTA"] == pytest.approx(0)


def test_golden_eval_a_results_file_prints_the_published_ap_and_hota(shared_data, tmp_path):
    folder = shared_data / "data" / "real" / "annotated" / "sav_000208"
    job = EvaluateJob(data=str(folder / "gt.ytvis.json.gz"), results=str(folder / "results.json.gz"))
    done = evaluate(job, Settings(store=str(tmp_path)))
    assert f"{done.figures['AP']:.6f} {done.tracking['HOTA']:.6f}" == "0.341914 0.465608"


def test_an_oracle_says_what_perfect_identities_would_give_and_is_compared_with_its_like_only(labelled_lake):
    cut = []
    for row in labelled_lake.results:
        halves = np.arange(6) < 3
        for half in (halves, ~halves):
            frames = [s if here else None for s, here in zip(row["segmentations"], half, strict=True)]
            cut.append(row | {"segmentations": frames})
    results = labelled_lake.write("results.json", cut)
    whole = score(labelled_lake)
    broken = score(labelled_lake, results=results)
    mended = score(labelled_lake, results=results, oracle="identity")
    assert broken.figures["AP"] < whole.figures["AP"] < mended.figures["AP"]  # the disc that is nowhere is gone
    assert (broken.tracking["IDSW"], mended.tracking["IDSW"]) == (2, 0)
    assert mended.before_id is None
    assert mended.notes[0].startswith("identity oracle, no score of a model: masks as predicted")
    assert score(labelled_lake, results=results, oracle="frame").figures == mended.figures
    assert score(labelled_lake, results=results, oracle="identity").before_id == mended.evaluation_id
    assert score(labelled_lake, oracle="clip").tracking["DetPr"] == pytest.approx(1)


def test_the_image_oracle_asks_for_a_model_where_there_are_only_tracks(labelled_lake):
    results = labelled_lake.write("results.json", labelled_lake.results)
    with pytest.raises(BadConfig, match="runs a model's tracker on the labelled objects: name a model"):
        score(labelled_lake, results=results, oracle="image")
    with pytest.raises(BadConfig, match=r"made of detections.*name the model with --model"):
        score(labelled_lake, oracle="image")


def test_a_score_that_says_nothing_has_a_word_why(labelled_lake):
    empty = score(labelled_lake, results=labelled_lake.write("results.json", []))
    assert "there is no track at all, so every object is missed" in empty.notes
    labels = labelled_lake.labels()
    for annotation in labels["annotations"]:
        annotation["iscrowd"] = 1
    crowds = labelled_lake.write("crowds.json", labels)
    done = evaluate(EvaluateJob(data=crowds, results=labelled_lake.write("r.json", [])), labelled_lake.settings)
    assert done.figures["AP"] == -1
    assert "the labels have no object that counts, only crowds: AP is -1, for there is nothing to find" in done.notes
