import json
from pathlib import Path

import pytest

from jobs.evaluation.compare import CompareJob, compare_two
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.evaluation.standings import markdown, standings
from jobs.evaluation.submission import SubmissionJob, record_server_score, write_submission
from jobs.settings import Settings
from jobs.store import Store
from tests.drawn_results import Drawing, write
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


@pytest.fixture
def files(tmp_path: Path) -> tuple[Settings, str, str, str]:
    """(settings, labels, results, the same results of videos over 3 without every second track)."""
    settings = Settings(store=str(tmp_path / "lake"))
    labels, results = write(Drawing(24, 4, 2, 2, 6), tmp_path, Store.open(settings))
    fewer = [entry for n, entry in enumerate(json.loads(results.read_text())) if n % 2 or entry["video_id"] <= 3]
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    return settings, str(labels), str(results), str(tmp_path / "fewer.json")


def test_two_files_and_their_evaluations_compare_the_same(files):
    settings, labels, one, other = files
    done = [evaluate(EvaluateJob(data=labels, results=results), settings) for results in (one, other)]
    of_files = compare_two(CompareJob(one=one, other=other, gt=labels), settings)
    of_ids = compare_two(CompareJob(one=done[0].evaluation_id, other=done[1].evaluation_id), settings)
    assert of_ids.model_copy(update={"one": of_files.one, "other": of_files.other}) == of_files
    assert (of_ids.one.ap, of_ids.other.ap) == pytest.approx([each.figures["AP"] for each in done], abs=1e-12)
    assert (of_ids.one.error, of_ids.other.error) == pytest.approx([each.error for each in done])
    assert of_ids.difference == pytest.approx(done[0].figures["AP"] - done[1].figures["AP"], abs=1e-12)
    assert compare_two(CompareJob(one=done[0].uri, other=done[1].uri), settings).difference == of_ids.difference
    assert of_ids.videos == 24
    assert of_ids.difference > 0
    assert of_ids.p_value < 0.05


def test_videos_that_changed_are_listed_by_how_much_and_the_others_are_not(files):
    settings, labels, one, other = files
    changed = compare_two(CompareJob(one=one, other=other, gt=labels), settings).changed
    gaps = [abs(video.one - video.other) for video in changed]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] > 0
    assert not {"1", "2", "3"} & {video.video_id for video in changed}


def test_few_videos_have_a_difference_without_an_interval(labelled_lake):
    worse = labelled_lake.write("worse.json", labelled_lake.results[:1])
    best = labelled_lake.write("best.json", labelled_lake.results)
    done = compare_two(CompareJob(one=best, other=worse, gt=str(labelled_lake.data)), labelled_lake.settings)
    assert done.difference > 0
    assert (done.error, done.one.error, done.other.error) == (None, None, None)


def test_evaluations_of_other_labels_or_rules_are_not_compared(labelled_lake):
    first = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    other = evaluate(EvaluateJob(data=str(labelled_lake.data), limit=7), labelled_lake.settings)
    with pytest.raises(BadConfig, match=r"do not have the same rules: .*limit 7"):
        compare_two(CompareJob(one=first.evaluation_id, other=other.evaluation_id), labelled_lake.settings)
    changed = labelled_lake.write("changed.json", labelled_lake.labels() | {"info": "another version"})
    newer = evaluate(EvaluateJob(data=changed, plan="plan"), labelled_lake.settings)
    with pytest.raises(BadConfig, match=r"do not have the same labels: .*val\.json .* and .*changed\.json"):
        compare_two(CompareJob(one=first.evaluation_id, other=newer.evaluation_id), labelled_lake.settings)
    with pytest.raises(BadConfig, match="no evaluation absent"):
        compare_two(CompareJob(one=first.evaluation_id, other="absent"), labelled_lake.settings)


def test_defects_of_results_files_are_refused_or_noted(labelled_lake):
    labelled_lake.results[0]["segmentations"] = labelled_lake.results[0]["segmentations"][:-1]
    short = labelled_lake.write("short.json", labelled_lake.results)
    folder = str(labelled_lake.data.parent)  # stands for the val.json in it
    with pytest.raises(BadConfig, match="1 defect that would make the score meaningless"):
        compare_two(CompareJob(one=short, other=short, gt=folder), labelled_lake.settings)
    done = compare_two(CompareJob(one=short, other=short, gt=folder, check="warn"), labelled_lake.settings)
    assert any("5 segmentations for 6 frames" in note for note in done.notes)


def test_the_score_of_a_server_is_not_compared(labelled_lake, tmp_path):
    done = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    sent = write_submission(SubmissionJob(data=str(labelled_lake.data), out=tmp_path / "s.zip"), labelled_lake.settings)
    said = record_server_score(str(labelled_lake.data), sent.path, {"AP": 0.3}, labelled_lake.settings)
    with pytest.raises(BadConfig, match="the score of a server says nothing about single videos"):
        compare_two(CompareJob(one=done.uri, other=said.uri), labelled_lake.settings)


def test_three_evaluations_stand_in_one_table_against_the_first(files):
    settings, labels, one, other = files
    done = [evaluate(EvaluateJob(data=labels, results=results), settings) for results in (one, other, one)]
    found = standings([each.evaluation_id for each in done], settings)
    assert [each.figures["AP"] for each in found] == pytest.approx([each.figures["AP"] for each in done])
    assert [each.figures["HOTA"] for each in found] == pytest.approx([each.tracking["HOTA"] for each in done])
    assert found[0].to_first is None
    assert found[1].to_first.difference == pytest.approx(done[0].figures["AP"] - done[1].figures["AP"])
    assert found[2].to_first.difference == 0
    first, second, third = (line.split("|")[1:-1] for line in markdown(found).splitlines()[2:])
    assert first[-1].strip() == ""
    assert second[-1].strip().startswith(f"{-100 * found[1].to_first.difference:+.1f} ± ")
    assert third[-1].strip() == "+0.0 ± 0.0 (p 1.000)"


def test_three_results_files_stand_in_one_table_too(files):
    settings, labels, one, other = files
    found = standings([one, other, one], settings, gt=labels)
    assert [each.name for each in found] == [Path(one).name, "fewer.json", Path(one).name]
    assert [set(each.figures) for each in found] == [{"AP"}] * 3
