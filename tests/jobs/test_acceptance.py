import json
from pathlib import Path

import pytest

from jobs.evaluation import acceptance, evaluations, outcomes
from jobs.evaluation.acceptance import JudgeJob, Verdict, accept, accepted, alarm, history, judge
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.settings import Settings
from jobs.store import Store
from tests.drawn_results import Drawing, write
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit


@pytest.fixture
def drawn(tmp_path: Path):
    """(settings, score): `score(spoil)` is an evaluation of 24 drawn videos whose results `spoil` has changed."""
    settings = Settings(store=str(tmp_path / "lake"))
    labels, results = write(Drawing(24, 4, 2, 2, 6), tmp_path, Store.open(settings))

    def score(spoil=lambda entries: entries) -> str:
        changed = tmp_path / "changed.json"
        changed.write_text(json.dumps(spoil(json.loads(results.read_text()))))
        return evaluate(EvaluateJob(data=str(labels), results=str(changed)), settings).evaluation_id

    return settings, score


def judged(evaluation_id: str, settings: Settings) -> Verdict:
    return judge(JudgeJob(evaluation_id=evaluation_id), settings)


def without_masks(entries: list[dict]) -> list[dict]:
    """Every track is lost half-way."""
    return [
        entry | {"segmentations": [None if t >= 2 else s for t, s in enumerate(entry["segmentations"])]}
        for entry in entries
    ]


def without_one_track(entries: list[dict]) -> list[dict]:
    best = max(entries, key=lambda each: each["score"])
    return [entry for entry in entries if entry is not best]


def test_the_first_is_accepted_and_the_same_again_is_too(drawn):
    settings, score = drawn
    first, second = score(), score(lambda entries: entries[::-1])
    verdict = judged(first, settings)
    assert (verdict.accepted, verdict.regressed, verdict.against) == (True, False, None)
    verdict = judged(second, settings)
    assert (verdict.accepted, verdict.regressed, verdict.against) == (True, False, first)
    assert verdict.compared.p_value == 1
    assert [(record.evaluation_id, record.because, record.instead_of) for record in history(Store.open(settings))] == [
        (first, "first", None),
        (second, "not worse", first),
    ]


def test_a_loss_beyond_chance_is_a_regression_until_a_person_accepts_it(drawn):
    settings, score = drawn
    good, bad = score(), score(without_masks)
    judged(good, settings)
    verdict = judged(bad, settings)
    assert (verdict.accepted, verdict.regressed, verdict.against) == (False, True, good)
    assert verdict.compared.difference < 0
    assert verdict.compared.p_value < 0.05
    assert str(verdict).startswith("REGRESSION: AP changed by -0.")
    assert f"now, `{bad}`" in alarm(verdict)
    store = Store.open(settings)
    assert accepted(store, bad) == good
    record = accept(bad, settings, "vis evaluate --accept")
    assert (record.because, record.instead_of, record.command) == ("asked for", good, "vis evaluate --accept")
    assert accepted(store, good) == bad
    assert not judged(score(without_masks), settings).regressed
    assert [each.because for each in history(store)] == ["first", "asked for", "not worse"]


def test_a_loss_within_chance_is_no_regression_and_does_not_become_the_measure(drawn):
    settings, score = drawn
    good, other = score(), score(without_one_track)
    judged(good, settings)
    verdict = judged(other, settings)
    assert verdict.compared.difference < 0
    assert (verdict.accepted, verdict.regressed) == (False, False)
    assert "which stays accepted" in str(verdict)
    assert accepted(Store.open(settings), other) == good


def test_other_rules_have_an_accepted_evaluation_of_their_own(labelled_lake):
    for job in ({}, {"limit": 7}):
        done = evaluate(EvaluateJob(data=str(labelled_lake.data), **job), labelled_lake.settings)
        assert judged(done.evaluation_id, labelled_lake.settings).against is None


def test_what_was_accepted_lies_in_s3_as_in_a_folder(labelled_lake, s3_settings):
    results = labelled_lake.write("results.json", labelled_lake.results)
    job = EvaluateJob(data=str(labelled_lake.data), results=results)
    first, second = (evaluate(job, s3_settings).evaluation_id for _ in range(2))
    assert judged(first, s3_settings).against is None
    assert judged(second, s3_settings).against == first


def test_judging_the_measure_again_says_so_and_writes_nothing(drawn):
    settings, score = drawn
    first = score()
    judged(first, settings)
    verdict = judged(first, settings)
    assert (verdict.accepted, verdict.regressed, verdict.against) == (True, False, first)
    assert str(verdict).startswith("accepted already")
    assert [record.because for record in history(Store.open(settings))] == ["first"]


def test_two_judges_at_once_cannot_lower_the_measure(drawn, monkeypatch):
    settings, score = drawn
    low, middle, best = score(without_masks), score(without_one_track), score()
    judged(low, settings)
    compare_two = acceptance.compare_two

    def while_another_judges(*args):
        monkeypatch.setattr(acceptance, "compare_two", compare_two)
        assert judged(best, settings).accepted
        return compare_two(*args)

    monkeypatch.setattr(acceptance, "compare_two", while_another_judges)
    assert judged(middle, settings).accepted
    assert [record.evaluation_id for record in history(Store.open(settings))] == [low, best, middle]
    assert accepted(Store.open(settings), low) == best


def test_a_gain_beyond_chance_is_no_regression(drawn):
    settings, score = drawn
    bad, good = score(without_masks), score()
    judged(bad, settings)
    verdict = judged(good, settings)
    assert verdict.compared.significant
    assert (verdict.accepted, verdict.regressed) == (True, False)


def test_a_measure_that_lost_its_matches_is_replaced_as_the_message_says(drawn):
    settings, score = drawn
    gone, other = score(), score(without_masks)
    judged(gone, settings)
    Path(settings.store, outcomes.FOLDER, f"{gone}.parquet").unlink()
    with pytest.raises(BadConfig, match=rf"{gone} lost its matches .* accept another one"):
        judged(other, settings)
    verdict = judge(JudgeJob(evaluation_id=other, accept=True), settings)
    assert (str(verdict), verdict.regressed) == (f"accepted: as asked for, instead of {gone}", False)
    assert judged(score(), settings).against == other


def test_other_labels_have_an_accepted_evaluation_of_their_own(labelled_lake):
    for labels in (labelled_lake.labels(), labelled_lake.labels() | {"info": "another version"}):
        results = labelled_lake.write("results.json", labelled_lake.results)
        job = EvaluateJob(data=labelled_lake.write("labels.json", labels), results=results)
        assert judged(evaluate(job, labelled_lake.settings).evaluation_id, labelled_lake.settings).against is None


def test_the_score_of_an_oracle_is_not_accepted(labelled_lake):
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), oracle="identity"), labelled_lake.settings)
    with pytest.raises(BadConfig, match="is no score of a model"):
        accept(done.evaluation_id, labelled_lake.settings)


def test_the_score_of_an_oracle_is_neither_accepted_nor_the_newest_where_it_has_defects(labelled_lake):
    spoilt = [row | {"segmentations": row["segmentations"][:-1]} for row in labelled_lake.results]
    results = labelled_lake.write("results.json", spoilt)
    job = EvaluateJob(data=str(labelled_lake.data), results=results, oracle="identity", check="warn")
    done = evaluate(job, labelled_lake.settings)
    assert done.rules.endswith("identity oracle, with defects")
    for wanted in (accept, judged):
        with pytest.raises(BadConfig, match="is no score of a model"):
            wanted(done.evaluation_id, labelled_lake.settings)
    assert evaluations.find(labelled_lake.store) is None
    assert history(labelled_lake.store) == []


def test_only_what_exists_can_be_accepted(tmp_path):
    settings = Settings(store=str(tmp_path))
    for wanted in (accept, judged):
        with pytest.raises(BadConfig, match="no evaluation absent"):
            wanted("absent", settings)
    assert Store.open(settings).list(evaluations.FOLDER) == []
