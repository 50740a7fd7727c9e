from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.archives.archive import VideoSource, list_videos
from jobs.archives.bad_videos import UNEXPECTED
from jobs.segmentation.records import MaskSpill
from jobs.segmentation.side_by_side import Faults, Outcome, SideBySide
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode
from tests.jobs.stalled import stalled_s3
from vis_models.config import BadVideo

pytestmark = pytest.mark.unit

LENGTHS = [1, 40, 7, 8, 23, 2, 31, 16, 5, 12, 9, 3]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films 1, 2, ... of many lengths; every third one is upright."""
    folder = tmp_path_factory.mktemp("films")
    for place, frames in enumerate(LENGTHS):
        size = (128, 96) if place % 3 == 0 else (96, 128)
        barcode.write_film(folder / f"{place + 1}.mp4", place + 1, frames, size)
    barcode.write_frames(folder / "20", 20, range(11))
    return folder


def sources_in(folder: Path) -> tuple[list[VideoSource], Store]:
    store = Store.open(Settings(store=str(folder / "lake")))
    return list_videos(str(folder), store), store


def play(
    folder: Path, videos_at_once: int = 4, frames_per_batch: int = 8, **more: Any
) -> tuple[dict[str, Outcome], MaskSpill]:
    sources, store = sources_in(folder)
    stage = SideBySide(
        more.get("model") or barcode.Barcode(),
        "cpu",
        store,
        videos_at_once=videos_at_once,
        frames_per_batch=frames_per_batch,
        threads=2,
    )
    spill = MaskSpill()
    outcomes = list(stage.play(sources, spill))
    spill.finish()
    assert sorted(outcome.source.video_id for outcome in outcomes) == sorted(source.video_id for source in sources)
    assert set(stage.seconds) == {"wait", "decode", "encode", "step", "rle"}
    return {outcome.source.video_id: outcome for outcome in outcomes}, spill


def seen(outcome: Outcome) -> dict[int, list[tuple]]:
    """Track -> (frame, area) of each mask."""
    assert outcome.record
    names = dict.fromkeys(("unit", "archive", "model", "category"), "x")
    common = names | {"plan_id": "p", "video_id": "v", "category_id": 1, "track_score": 0.5}
    return {
        track_id: [
            (row["frame_idx"], row["area_px"])
            for table in outcome.record.masks(track_id, common)
            for row in table.to_pylist()
        ]
        for track_id in outcome.record.tracks(0)[0]
    }


def expected(film: int, frames: int) -> dict[int, list[tuple]]:
    return {
        film: [(frame, 10 * (1 + frame % 20)) for frame in range(frames)],
        1000: [(frame, 100) for frame in range(0, frames, 2)],
        2000: [(frame, 100) for frame in range(frames)],
    }


@pytest.mark.parametrize(("videos_at_once", "frames_per_batch"), [(1, 1), (1, 16), (3, 2), (4, 8), (16, 64)])
def test_every_video_is_seen_whole_and_none_is_mixed_with_another(
    archive: Path, videos_at_once: int, frames_per_batch: int
):
    outcomes, _spill = play(archive, videos_at_once, frames_per_batch)
    lengths = {f"{place + 1}.mp4": frames for place, frames in enumerate(LENGTHS)} | {"20": 11}
    assert {name: outcome.record.frames for name, outcome in outcomes.items()} == lengths
    for name, outcome in outcomes.items():
        assert outcome.status == "done"
        assert seen(outcome) == expected(int(name.removesuffix(".mp4")), lengths[name])
        assert outcome.record.dropped_births == 1
        assert outcome.decode_s > 0
        assert outcome.infer_s > 0


def test_a_model_that_mixes_videos_up_would_be_caught(archive: Path):
    class Mixed(barcode.Barcode):
        def encode(self, frames: barcode.Frames) -> barcode.Codes:
            return super().encode(frames)[list(range(len(frames.pixels)))[::-1]]

    with pytest.raises(RuntimeError, match="do not follow"):
        play(archive, model=Mixed())


def test_damaged_videos_leave_the_others_alone(tmp_path: Path):
    for film in (1, 2, 3):
        barcode.write_film(tmp_path / f"{film}.mp4", film, 20)
    (tmp_path / "4.mp4").write_bytes(b"")
    barcode.write_frames(tmp_path / "5", 5, range(9))
    (tmp_path / "5/00006.jpg").write_bytes(b"\xff\xd8 no more")
    (tmp_path / "6.mp4").write_text("no film")
    outcomes, _spill = play(tmp_path, videos_at_once=2)
    statuses = {name: (outcome.status, outcome.error and outcome.error.code) for name, outcome in outcomes.items()}
    assert statuses == {
        "1.mp4": ("done", None),
        "2.mp4": ("done", None),
        "3.mp4": ("done", None),
        "4.mp4": ("failed", "empty_file"),
        "5": ("partial", "bad_image"),
        "6.mp4": ("failed", "not_a_video"),
    }
    assert seen(outcomes["5"]) == expected(5, 6)
    assert seen(outcomes["3.mp4"]) == expected(3, 20)


def test_a_fault_of_ours_in_one_video_is_its_row_and_in_many_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jobs.archives.film.Film._time_s", lambda *_: 1 / 0)
    barcode.write_frames(tmp_path / "5", 5, range(9))
    for film in (1, 2):
        barcode.write_film(tmp_path / f"{film}.mp4", film, 20)
    outcomes, _ = play(tmp_path)
    assert [outcome.error and outcome.error.code for outcome in outcomes.values()] == [UNEXPECTED, UNEXPECTED, None]
    assert "division by zero" in str(outcomes["1.mp4"].error)
    barcode.write_film(tmp_path / "3.mp4", 3, 20)
    with pytest.raises(ZeroDivisionError):
        play(tmp_path)


def test_faults_are_counted_over_all_that_a_worker_plays():
    faults = Faults()
    odd = Outcome(a_source(), error=BadVideo("odd", code=UNEXPECTED))
    for _ in range(9):
        faults.count(Outcome(a_source()))
    for _ in range(8):
        faults.count(odd)  # odd videos beside good ones are rows
    with pytest.raises(BadVideo, match="odd"):
        faults.count(odd)


def a_source() -> VideoSource:
    return VideoSource(video_id="1", uri="1.mp4", kind="film", content_id="", size_bytes=0)


def test_a_connection_that_stalls_ends_its_own_video_and_keeps_the_frames_before(tmp_path: Path):
    sources, _ = sources_in(barcode.write_film(tmp_path / "films/1.mp4", 1, 20).parent)
    image = (barcode.write_frames(tmp_path / "walk", 9, [0]) / "00000.jpg").read_bytes()
    names = tuple(f"{number}.jpg" for number in range(9))
    walk = replace(a_source(), kind="frames", frames=names)
    sources.append(replace(walk, video_id="9", uri="s3://bucket/9"))
    sources.append(replace(a_source(), video_id="film", uri="s3://bucket/film7.jpg"))
    with stalled_s3(image, "7.jpg", store=str(tmp_path / "lake"), decode_timeout_s=3) as settings:
        store = Store.open(settings)
        store.open_source("s3://bucket/0")[0].cat_file("bucket/0")  # the first connection takes its time
        model = barcode.Barcode(blind=True)
        stage = SideBySide(model, "cpu", store, videos_at_once=2, frames_per_batch=4, threads=1)
        outcomes = {outcome.source.video_id: outcome for outcome in stage.play(sources, MaskSpill())}
    ended = {name: (outcome.status, outcome.error and outcome.error.code) for name, outcome in outcomes.items()}
    assert ended == {"1.mp4": ("done", None), "9": ("partial", "timeout"), "film": ("failed", "timeout")}
    assert outcomes["9"].record.frames == 7
    assert "gave no frame for 3 s" in str(outcomes["9"].error)
    assert outcomes["9"].error.frames_kept == 7


def test_every_bad_and_tried_input_in_one_archive_has_one_outcome(shared_data: Path, tmp_path: Path):
    """None crashes, hangs or surprises; what becomes of each is in `test_frames.py`, the odd ones are a proof."""
    for part in ("real/bad", "trial"):
        (tmp_path / Path(part).name).symlink_to(shared_data / "data" / part)
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    sources = list_videos(f"{tmp_path}/*", store)
    model = barcode.Barcode(blind=True)
    stage = SideBySide(model, "cpu", store, videos_at_once=8, frames_per_batch=64, threads=2)
    outcomes = {outcome.source.video_id: outcome for outcome in stage.play(sources, MaskSpill())}
    assert sorted(outcomes) == sorted(source.video_id for source in sources)
    codes = {outcome.error.code for outcome in outcomes.values() if outcome.error}
    assert codes == {
        "bad_image", "damaged", "empty_file", "frame_gap", "lfs_pointer", "no_frames", "no_video_stream", "not_a_video",
        "size_changed",
    }  # fmt: skip
    whole = [f"trial/{name}" for name in ("cover_first.mkv", "f_16bit", "f_bmp", "f_exif", "f_webp")]
    assert [outcomes[name].status for name in whole] == ["done"] * 5
