import json
import re
import shutil
from pathlib import Path

import pytest

from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.reporting.report import ReportJob, write_report
from jobs.settings import Settings
from jobs.store import Store, now
from tests.drawn_results import Drawing, write
from vis_models.config import BadConfig

pytestmark = pytest.mark.unit

HOSTILE = "<script>alert(1)</script>"


def report(lake, **job) -> str:
    return Path(write_report(ReportJob(**job), lake.settings).uri).read_text()


def text_of(page: str) -> str:
    """What a person reads, on one line."""
    body = page.split("</style>")[1]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_figures_stand_with_all_that_made_them(labelled_lake):
    job = EvaluateJob(data=str(labelled_lake.data), command="vis evaluate val.json")
    done = evaluate(job, labelled_lake.settings)
    text = text_of(report(labelled_lake, command="vis report"))
    for name in ("AP", "AP50", "AR10"):
        assert f"{name} {done.figures[name]:.3f}" in text
    origins = ["0123456789abcdef" * 4, "c0ffee", "beef", "min_score 0", done.evaluation_id]
    commands = ["vis train", "vis segment val.json", "vis evaluate val.json", "vis report"]
    assert [origin for origin in [*origins, *commands, str(labelled_lake.data)] if origin not in text] == []
    assert "The first evaluation of these labels" in text
    assert "AP medium –" in text  # every drawn object is small


def test_the_change_since_the_evaluation_before_is_shown(labelled_lake):
    worse = labelled_lake.write("results.json", [row for row in labelled_lake.results if row["video_id"] == 1])
    first = evaluate(EvaluateJob(data=str(labelled_lake.data), results=worse), labelled_lake.settings)
    second = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    text = text_of(report(labelled_lake))
    gain = second.figures["AP"] - first.figures["AP"]
    assert gain > 0
    assert f"AP {second.figures['AP']:.3f} +{gain:.3f}" in text
    assert first.evaluation_id in text
    assert f"AP {second.figures['AP']:.3f} (no interval: that takes 20 videos with objects)" in text
    assert (
        f"The change of AP may be chance : +{gain:.3f}, p 1.000" in text
    )  # one video with a difference proves nothing
    assert "What changed 1 of 4 videos have another AP than before" in text


def test_a_change_beyond_chance_is_called_so_and_the_videos_that_made_it_are_listed(tmp_path):
    settings = Settings(store=str(tmp_path / "lake"))
    labels, results = write(Drawing(24, 4, 2, 2, 6), tmp_path, Store.open(Settings(store=str(tmp_path / "drawn"))))
    entries = json.loads(results.read_text())
    for frames in (4, 2):  # the second time the masks stop half-way
        cut = [entry | {"segmentations": entry["segmentations"][:frames] + [None] * (4 - frames)} for entry in entries]
        results.write_text(json.dumps(cut))
        done = evaluate(EvaluateJob(data=str(labels), results=str(results)), settings)
    text = text_of(Path(write_report(ReportJob(), settings).uri).read_text())
    assert f"AP {done.figures['AP']:.3f} ± {1.96 * done.error:.3f} , 95 %" in text
    assert re.search(r"The change of AP is more than chance : −0\.\d{3} ± 0\.\d{3}, p 0\.00\d", text)
    assert "The largest changes" in text


def test_the_best_and_the_worst_videos_are_drawn_with_their_labels(labelled_lake):
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    page = report(labelled_lake, videos=1, pictures=4)
    best, worst = page.split("Best videos")[1].split("Worst videos")
    assert [page.count("<article"), best.count("<image "), worst.count("<image ")] == [2, 8, 8]
    assert "1 AP 1.000 1 of 1 objects found" in text_of("</style>" + best)
    # the disc of video 3 was looked for 20 px below where it is
    assert "disc not covered, best IoU 0.00" in text_of("</style>" + worst)


@pytest.mark.parametrize("text_ids", [False, True])
def test_an_object_has_the_colour_of_the_track_that_covers_it(labelled_lake, text_ids):
    if text_ids:
        labels = labelled_lake.labels()
        for key, part in (("videos", "id"), ("annotations", "video_id")):
            labels[key] = [entry | {part: str(entry[part])} for entry in labels[key]]
        labelled_lake.write("val.json", labels)
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    page = report(labelled_lake, videos=2)
    two = page.split("<b>2</b>")[1].split("</article>")[0]
    tracks, objects = (re.findall("background: (#[0-9a-f]{6})", part) for part in two.split("<span>labels</span>"))
    assert tracks == objects
    assert len(set(tracks)) == 2


def test_tracks_under_the_score_are_counted_instead_of_drawn(labelled_lake):
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    text = text_of(report(labelled_lake, min_score=0.6))  # the disc of video 2 has 0.5
    assert "1 more with a low score" in text
    assert "disc not covered" in text.split("Best videos")[1]


def test_without_labels_the_page_counts_and_shows_the_fullest_videos(labelled_lake):
    page = report(labelled_lake)
    text = text_of(page)
    assert "there is nothing to score against" in text
    assert "square 2 2 12 0.75" in text  # objects, videos, masks, mean score
    assert text.index("Videos with the most objects") < text.index(" 2 model") < text.index(" 1 model")
    assert page.count("<image ") == 3 * 5
    assert "missing 1 yes video 4 is not there" in text
    assert "18 frames in 1.0 s of work: 18.0 frames a second" in text
    assert "encode 60 %" in text


@pytest.mark.parametrize("labelled", [True, False])
def test_text_from_outside_is_escaped(draw_lake, labelled):
    lake = draw_lake(disc=HOSTILE, error=HOSTILE)
    if labelled:
        evaluate(EvaluateJob(data=str(lake.data), command=HOSTILE), lake.settings)
    page = report(lake, command=HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 3


def test_nothing_is_fetched_from_elsewhere(labelled_lake):
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    sources = re.findall(r'(?:src|href)="([^"]+)"', report(labelled_lake))
    assert sources
    assert [source[:30] for source in sources if not source.startswith(("data:", "#"))] == []


def test_frames_that_are_gone_leave_a_word_instead_of_a_picture(labelled_lake):
    shutil.rmtree(labelled_lake.data.parent / "val" / "JPEGImages" / "0001")
    text = text_of(report(labelled_lake))
    assert "0001/00000.jpg is not there" in text


def test_labels_that_changed_since_are_not_drawn(labelled_lake):
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    labelled_lake.data.write_text(labelled_lake.data.read_text() + " ")
    page = report(labelled_lake, videos=1, pictures=4)
    assert "no longer what they were" in text_of(page)
    assert page.count("<image ") == 8


def test_a_results_file_alone_makes_a_page_of_figures(tmp_path, labelled_lake):
    elsewhere = Settings(store=str(tmp_path / "elsewhere"))
    results = labelled_lake.write("results.json", labelled_lake.results)
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), elsewhere)
    written = write_report(ReportJob(), elsewhere)
    assert (written.plan_id, written.evaluation_id) == (None, done.evaluation_id)
    text = text_of(Path(written.uri).read_text())
    assert f"AP {done.figures['AP']:.3f}" in text
    assert results in text
    assert f"Scored: {'/'.join(results.split('/')[-2:])}" in text
    evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), elsewhere)
    again = text_of(Path(write_report(ReportJob(), elsewhere).uri).read_text())
    assert re.search(r"objects\) \. Changes are against .*, of \S*results\.json \(", again)


def test_a_page_lies_in_s3_as_it_lies_in_a_folder(draw_lake, s3_settings):
    lake = draw_lake(settings=s3_settings)
    done = evaluate(EvaluateJob(data=str(lake.data)), lake.settings)
    written = write_report(ReportJob(videos=1), lake.settings)
    (key,) = lake.store.list("vis/v1/reports")
    assert lake.store.uri(key) == written.uri
    assert f"{done.figures['AP']:.3f}" in lake.store.read_bytes(key).decode()


def test_progress_counts_the_videos_that_are_drawn(labelled_lake):
    seen = []
    write_report(ReportJob(videos=1), labelled_lake.settings, lambda *step: seen.append(step))
    assert seen == [("draw videos", 1, 2, {}), ("draw videos", 2, 2, {})]


def test_what_does_not_exist_is_named(labelled_lake, tmp_path):
    done = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    empty = Settings(store=str(tmp_path / "empty"))
    for job, settings, message in [
        (ReportJob(plan="absent"), labelled_lake.settings, "no published plan absent"),
        (ReportJob(evaluation="absent"), labelled_lake.settings, "no evaluation absent"),
        (ReportJob(evaluation=done.evaluation_id, plan="other"), labelled_lake.settings, "scored plan plan, not other"),
        (ReportJob(), empty, "run `vis segment` or `vis evaluate` first"),
    ]:
        with pytest.raises(BadConfig, match=message):
            write_report(job, settings)


def test_identities_are_told_with_the_score_and_the_worst_switches(labelled_lake):
    halves = []
    for row in labelled_lake.results:
        if row["video_id"] == 1:
            frames = row["segmentations"]
            halves += [row | {"segmentations": [*frames[:4], None, None]}]
            halves += [row | {"segmentations": [*[None] * 4, *frames[4:]], "score": row["score"] / 2}]
    results = labelled_lake.write("results.json", halves)
    done = evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), labelled_lake.settings)
    text = text_of(report(labelled_lake, evaluation=done.evaluation_id)).split("Identities")[1]
    assert "score of 0.30 or more" in text
    assert f"all, pooled {done.tracking['HOTA']:.3f} {done.tracking['DetA']:.3f}" in text
    assert f"mean of the categories {done.tracking['HOTA_class_mean']:.3f}" in text
    assert "1 4 square 1 1 2 4 2" in text.split("The switches")[1]  # video, frame, object, tracks, frames


def test_an_evaluation_without_switches_says_so(labelled_lake):
    evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    assert "No object changed its identity" in text_of(report(labelled_lake))


def test_the_page_is_about_what_is_newest_a_score_or_an_archive(labelled_lake):
    store, results = labelled_lake.store, labelled_lake.write("results.json", labelled_lake.results)
    of_plan = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    written = write_report(ReportJob(videos=0), labelled_lake.settings)
    assert (written.plan_id, written.evaluation_id) == ("plan", of_plan.evaluation_id)
    of_results = evaluate(EvaluateJob(data=str(labelled_lake.data), results=results), labelled_lake.settings)
    evaluate(EvaluateJob(data=str(labelled_lake.data), oracle="identity", check="warn"), labelled_lake.settings)
    written = write_report(ReportJob(videos=0), labelled_lake.settings)
    assert (written.plan_id, written.evaluation_id) == (None, of_results.evaluation_id)
    written = write_report(ReportJob(plan="plan", videos=0), labelled_lake.settings)
    assert (written.plan_id, written.evaluation_id) == ("plan", of_plan.evaluation_id)
    snapshot = store.plan("plan")
    store.write_plan(snapshot.model_copy(update={"created_at": now()}))
    assert write_report(ReportJob(videos=0), labelled_lake.settings).plan_id == "plan"
