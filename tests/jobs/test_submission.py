import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jobs.evaluation import evaluations
from jobs.evaluation.evaluate import EvaluateJob, evaluate
from jobs.evaluation.submission import Submission, SubmissionJob, record_server_score, write_submission
from jobs.reporting.report import ReportJob, write_report
from vis_models.config import BadConfig
from vis_models.masks import encode

pytestmark = pytest.mark.unit


@pytest.fixture
def server_file(labelled_lake) -> str:
    """The labels file as a server publishes it: without labels."""
    return labelled_lake.write("val.json", labelled_lake.labels() | {"annotations": None})


def send(lake, server_file: str, tmp_path: Path, **job) -> Submission:
    return write_submission(SubmissionJob(data=server_file, out=tmp_path / "out/sent.zip", **job), lake.settings)


def inside(zipped: Path) -> list[dict]:
    with zipfile.ZipFile(zipped) as archive:
        assert archive.namelist() == ["results.json"]
        return json.loads(archive.read("results.json"))


def test_the_zip_holds_the_tracks_of_the_tables_as_the_server_reads_them(labelled_lake, server_file, tmp_path):
    done = send(labelled_lake, server_file, tmp_path)
    assert inside(done.path) == labelled_lake.results
    assert (done.tracks, done.videos, done.videos_in_all) == (len(labelled_lake.results), 3, 4)
    assert any("not read to their end" in note for note in done.notes)


def test_a_results_file_is_sent_as_it_is_and_the_same_tracks_give_the_same_zip(labelled_lake, server_file, tmp_path):
    results = labelled_lake.write("results.json", labelled_lake.results)
    first = send(labelled_lake, server_file, tmp_path, results=results)
    content = first.path.read_bytes()
    assert inside(first.path) == labelled_lake.results
    assert send(labelled_lake, server_file, tmp_path).sha256 == first.sha256
    assert first.path.read_bytes() == content


def test_polygons_and_uncompressed_runs_are_sent_as_compressed_rle(labelled_lake, server_file, tmp_path):
    entry = labelled_lake.results[0]
    expected = [*entry["segmentations"]]
    rectangle = np.zeros((48, 64), bool)
    rectangle[10:20, 5:25] = True
    expected[0] = {"size": [48, 64], "counts": encode(rectangle[None])[0].decode()}
    expected[1] = {"size": [48, 64], "counts": encode(np.ones((1, 48, 64), bool))[0].decode()}
    entry["segmentations"][0] = [[5, 10, 25, 10, 25, 20, 5, 20]]
    entry["segmentations"][1] = {"size": [48, 64], "counts": [0, 48 * 64]}
    done = send(
        labelled_lake, server_file, tmp_path, results=labelled_lake.write("results.json", labelled_lake.results)
    )
    assert inside(done.path)[0]["segmentations"] == expected


def spoil_mask(entry: dict, **changes) -> None:
    frame = next(t for t, mask in enumerate(entry["segmentations"]) if mask)
    entry["segmentations"][frame] = entry["segmentations"][frame] | changes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda entry: entry.update(video_id=99), r"no video 99 in .*val\.json, expected ids .*\[1, 2, 3\]"),
        (lambda entry: entry.update(video_id="one"), "no video 'one'"),
        (lambda entry: entry.update(category_id=3), r"no category 3 .*\[1, 2\]"),
        (lambda entry: entry.update(category_id=True), "no category True"),
        (lambda entry: entry.update(score=math.nan), "score nan, expected a finite number"),
        (lambda entry: entry.update(score=math.inf), "score inf"),
        (lambda entry: entry.update(score="0.5"), "score '0.5'"),
        (lambda entry: entry.pop("score"), "no key 'score'"),
        (lambda entry: entry["segmentations"].pop(), "expected a list of 6 segmentations, one .* got 5 of them"),
        (lambda entry: entry.update(segmentations=None), "expected a list of 6 segmentations, .* got NoneType"),
        (lambda entry: spoil_mask(entry, size=[64, 48]), r"mask of size \[64, 48\], expected \[48, 64\]"),
        (lambda entry: spoil_mask(entry, counts=[0, 3071]), "frame 0: RLE runs sum to 3071, expected 3072"),
        (
            lambda entry: spoil_mask(entry, counts=None),
            "frame 0: the counts of an RLE are a text or a",
        ),
        (lambda entry: spoil_mask(entry, counts="11"), r"frame 0: the runs of the RLE do not fill its size \[48, 64\]"),
        (lambda entry: spoil_mask(entry, counts="é"), "frame 0: the runs of the RLE do not fill its size"),
        (lambda entry: entry["segmentations"].__setitem__(0, [[1, 1, 9, 1]]), "frame 0: a polygon is a list x, y,"),
        (lambda entry: entry["segmentations"].__setitem__(0, 7), "frame 0: a segmentation is null, RLE or polygons"),
        (lambda entry: entry["segmentations"].__setitem__(0, ""), "frame 0: '' is no mask, expected null"),
        (lambda entry: entry.update(score=10**400), "score 10000"),
    ],
)
def test_an_entry_that_the_server_would_not_understand_is_named(labelled_lake, server_file, tmp_path, spoil, message):
    spoil(labelled_lake.results[1])
    results = labelled_lake.write("results.json", labelled_lake.results)
    with pytest.raises(BadConfig, match=rf"1 entries would fail .*\n  results\[1\], video .*: {message}"):
        send(labelled_lake, server_file, tmp_path, results=results)
    assert list((tmp_path / "out").iterdir()) == []


def test_every_wrong_entry_is_counted_and_named_once(labelled_lake, server_file, tmp_path):
    for entry in labelled_lake.results[:2]:
        entry |= {"video_id": 99, "score": math.nan}
    results = labelled_lake.write("results.json", labelled_lake.results)
    with pytest.raises(BadConfig, match="2 entries") as refused:
        send(labelled_lake, server_file, tmp_path, results=results)
    assert str(refused.value).count("results[") == 2


def test_more_tracks_than_the_server_counts_are_told(labelled_lake, server_file, tmp_path):
    for count, told in ((100, False), (101, True)):
        many = labelled_lake.write("many.json", [labelled_lake.results[0] | {"extra": math.nan}] * count)
        done = send(labelled_lake, server_file, tmp_path, results=many)
        assert any("more than 100 tracks" in note for note in done.notes) == told
        assert "extra" not in inside(done.path)[0]  # nor anything else that the server does not ask for


def test_a_plan_and_results_are_not_sent_at_once_nor_to_a_folder(labelled_lake, server_file, tmp_path):
    with pytest.raises(BadConfig, match="one of them is sent, name one"):
        send(labelled_lake, server_file, tmp_path, results="results.json", plan="plan")
    with pytest.raises(BadConfig, match="is a folder, expected the name of a zip"):
        write_submission(SubmissionJob(data=server_file, out=tmp_path), labelled_lake.settings)


def test_files_in_each_other_s_place_and_a_place_that_cannot_be_written_are_named(labelled_lake, server_file, tmp_path):
    results = labelled_lake.write("results.json", labelled_lake.results)
    with pytest.raises(BadConfig, match=r"results\.json holds a list: this is a list of results"):
        send(labelled_lake, results, tmp_path, results=server_file)
    with pytest.raises(BadConfig, match=r"/proc/absent/s\.zip cannot be written: .*--out"):
        write_submission(
            SubmissionJob(data=server_file, results=results, out=Path("/proc/absent/s.zip")), labelled_lake.settings
        )


def test_nothing_to_send_is_refused(labelled_lake, server_file, tmp_path):
    with pytest.raises(BadConfig, match="no track to send"):
        send(labelled_lake, server_file, tmp_path, results=labelled_lake.write("results.json", []))


def test_the_score_of_the_server_is_a_row_that_leads_back_to_the_model(labelled_lake, tmp_path):
    own = evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings)
    sent = send(labelled_lake, str(labelled_lake.data), tmp_path).path
    said = {"AP": 35.3, "AR10": 0.9}
    kept = record_server_score(str(labelled_lake.data), sent, said, labelled_lake.settings, "vis submission")
    assert (kept.subject, kept.data) == ("model drawn", str(labelled_lake.data))
    assert kept.figures == pytest.approx({"AP": 0.353, "AR10": 0.009})
    name = evaluations.id_of(kept.uri)
    rows, provenance, notes = evaluations.read(labelled_lake.store, name)
    assert evaluations.summary(rows) == pytest.approx({"AP": 0.353, "AR10": 0.009})
    assert [provenance[key] for key in ("model_name", "plan_id", "command")] == ["drawn", "plan", "vis submission"]
    assert provenance["rules"] == "the benchmark's server"
    assert "for the zip" in notes[0]
    assert evaluations.find(labelled_lake.store, plan_id="plan") == own.evaluation_id  # what was scored here
    page = write_report(ReportJob(), labelled_lake.settings)
    assert page.evaluation_id == own.evaluation_id
    assert "AP 0.353 AR10 0.009" in Path(page.uri).read_text()
    assert "<dd>0.353" in Path(write_report(ReportJob(evaluation=name), labelled_lake.settings).uri).read_text()
    assert evaluate(EvaluateJob(data=str(labelled_lake.data)), labelled_lake.settings).before_id == own.evaluation_id


def test_a_score_without_its_zip_or_with_a_name_that_no_server_gives_is_refused(labelled_lake, server_file, tmp_path):
    with pytest.raises(BadConfig, match="is not there"):
        record_server_score(server_file, tmp_path / "absent.zip", {"AP": 1}, labelled_lake.settings)
    (tmp_path / "other.zip").write_bytes(b"PK")
    with pytest.raises(BadConfig, match="was not written by `vis submission`"):
        record_server_score(server_file, tmp_path / "other.zip", {"AP": 1}, labelled_lake.settings)
    sent = send(labelled_lake, server_file, tmp_path).path
    for figures, message in [
        ({"mAP": 0.3}, "mAP is no figure"),
        ({"AP": 353.0}, "AP=353"),
        ({"AP": -1}, "AP=-1"),
        ({"AP": 35.3, "AP50": 0.6}, "both percent"),
    ]:
        with pytest.raises(BadConfig, match=message):
            record_server_score(server_file, sent, figures, labelled_lake.settings)
    other = labelled_lake.write("other.json", labelled_lake.labels() | {"info": "another file"})
    with pytest.raises(BadConfig, match=f"was written for {server_file}, not for {other}"):
        record_server_score(other, sent, {"AP": 1}, labelled_lake.settings)
    assert labelled_lake.store.list("vis/v1/evaluations") == []


def test_the_score_of_a_server_that_keeps_its_labels_has_a_page(labelled_lake, server_file, tmp_path):
    sent = send(labelled_lake, server_file, tmp_path).path
    said = record_server_score(server_file, sent, {"AP": 35.3}, labelled_lake.settings)
    page = write_report(ReportJob(evaluation=said.uri), labelled_lake.settings)  # by its address, as it was printed
    assert page.evaluation_id == evaluations.id_of(said.uri)
    assert "<dd>0.353" in Path(page.uri).read_text()


def test_ids_are_sent_as_the_server_writes_them(labelled_lake, tmp_path):
    labels = labelled_lake.labels() | {"annotations": None}
    labels["videos"] = [video | {"id": str(video["id"])} for video in labels["videos"]]
    data, results = labelled_lake.write("val.json", labels), labelled_lake.write("results.json", labelled_lake.results)
    expected = [entry | {"video_id": str(entry["video_id"])} for entry in labelled_lake.results]
    assert inside(send(labelled_lake, data, tmp_path).path) == expected
    of_file = send(labelled_lake, data, tmp_path, results=results)
    assert inside(of_file.path) == expected
    assert any("write video_id as a number, the labels do not" in note for note in of_file.notes)


def test_what_is_no_list_of_videos_or_no_results_is_named(labelled_lake, server_file, tmp_path):
    meta = labelled_lake.write("meta.json", {"videos": {"a": {"objects": {}}}})
    with pytest.raises(BadConfig, match=r"meta\.json: this is the meta\.json of YouTube-VOS"):
        send(labelled_lake, meta, tmp_path)
    with pytest.raises(BadConfig, match=r"val\.json: these are labels: they go where the labels are named"):
        send(labelled_lake, server_file, tmp_path, results=server_file)
