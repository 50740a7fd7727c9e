import gc
import tracemalloc

import pytest
import torch

from jobs import tables
from jobs.segmentation import records
from jobs.segmentation.records import MaskSpill, VideoRecord, track_row
from vis_models import masks
from vis_models.types import Masks, Sighting, Tracks, Verdict, VideoInfo

pytestmark = pytest.mark.unit

INFO = VideoInfo("film.mp4", 20, 30)
ORIGIN = {"plan_id": "p", "unit": "u", "archive": "a", "model": "m"}
NAMES = ["cat", "dog", "cow"]
COMMON = ORIGIN | {"video_id": "film.mp4", "category_id": 3, "category": "dog", "track_score": 0.5}


def square(frame: int, x: int, side: int, track_id: int = 1, score: float = 0.5) -> Tracks:
    """One track in one frame: a square at (x, 0), or nothing where side is 0."""
    mask = torch.zeros(1, INFO.height, INFO.width, dtype=torch.bool)
    mask[0, :side, x : x + side] = True
    return Tracks([Sighting(frame, [track_id], [score], Masks.of(mask))], [])


def verdict(track_id: int = 1, score: float = 0.7, category: int = 0) -> Tracks:
    return Tracks([], [Verdict(track_id, category, score)])


def record(spill: MaskSpill, frames: int, fps: float | None = 10) -> VideoRecord:
    video = VideoRecord(INFO, 0, spill)
    for frame in range(frames):
        video.frame(frame / fps if fps else None)
    return video


def rows(video: VideoRecord, track_id: int) -> list[dict]:
    return [row for table in video.masks(track_id, COMMON) for row in table.to_pylist()]


def test_a_track_is_summed_up():
    video = record(MaskSpill(), frames=9)
    for seen in [square(2, 0, 2, score=0.4), square(3, 4, 4, score=0.8), square(4, 4, 0), square(6, 1, 2, score=0.6)]:
        video.add(seen)
    video.add(verdict(score=0.7))
    tracks, low = video.tracks(min_score=0.05)
    row = track_row(1, tracks[1], NAMES)
    assert low == 0
    assert (row["first_frame"], row["last_frame"], row["n_obs"], row["gap_count"]) == (2, 6, 3, 1)
    assert (row["start_s"], row["end_s"], row["duration_s"]) == pytest.approx((0.2, 0.6, 0.4))
    assert (row["score"], row["score_mean"], row["score_max"]) == pytest.approx((0.7, 0.6, 0.8))
    assert (row["area_mean_px"], row["area_max_px"]) == (8, 16)
    assert (row["x0_px"], row["y0_px"], row["x1_px"], row["y1_px"]) == (0, 0, 8, 4)
    assert set(row) | {*ORIGIN, "video_id", "category_id", "category"} == set(tables.TRACKS.names)


def test_masks_come_back_track_by_track_though_they_waited_in_many_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "SPILL_ROWS", 7)
    spill = MaskSpill()
    video = record(spill, frames=20)
    for frame in range(20):
        video.add(square(frame, frame, 3, track_id=5))
        video.add(square(frame, 1, 1 + frame % 4, track_id=2))
    spill.finish()
    two, five = rows(video, 2), rows(video, 5)
    assert [row["frame_idx"] for row in two] == [row["frame_idx"] for row in five] == list(range(20))
    assert [row["area_px"] for row in two] == [(1 + frame % 4) ** 2 for frame in range(20)]
    assert [row["x0_px"] for row in five] == list(range(20))
    pixels = masks.decode(five[7]["rle"], five[7]["height_px"], five[7]["width_px"])
    assert pixels[:3, 7:10].all()
    assert pixels.sum() == 9
    assert {key: five[0][key] for key in COMMON} == COMMON
    assert five[3]["time_s"] == pytest.approx(0.3)


def test_videos_with_equal_track_ids_stay_apart():
    spill = MaskSpill()
    one, two = VideoRecord(INFO, 0, spill), VideoRecord(INFO, 1, spill)
    for frame in range(3):
        one.frame(frame)
        one.add(square(frame, 0, 1))
        two.frame(frame)
        two.add(square(frame, 0, 2))
    spill.finish()
    assert [row["area_px"] for row in rows(one, 1)] == [1, 1, 1]
    assert [row["area_px"] for row in rows(two, 1)] == [4, 4, 4]


def test_tracks_under_the_minimum_are_counted_and_tracks_without_a_mask_are_not():
    video = record(MaskSpill(), frames=1)
    for track_id, score, side in [(1, 0.05, 2), (2, 0.049, 2), (3, 0.9, 0), (4, 0.9, 2)]:
        video.add(square(0, 0, side, track_id))
        video.add(verdict(track_id, score))
    video.add(verdict(99, 0.9))
    kept, low = video.tracks(min_score=0.05)
    assert (list(kept), low) == ([1, 4], 1)
    assert list(video.tracks(min_score=0)[0]) == [1, 2, 4]


def test_a_verdict_may_come_before_the_video_ends_and_a_model_may_look_back():
    video = record(MaskSpill(), frames=5)
    video.add(square(3, 0, 2))
    video.add(verdict(category=2))
    assert video.tracks(0)[0][1].category == 2
    assert video.tracks(0)[0][1].start_s == pytest.approx(0.3)


def test_a_model_that_forgets_a_verdict_or_changes_its_mind_is_stopped():
    video = record(MaskSpill(), frames=1)
    video.add(square(0, 0, 2))
    with pytest.raises(AssertionError, match=r"no verdict about tracks \[1\] of film.mp4"):
        video.tracks(0)
    video.add(verdict())
    with pytest.raises(AssertionError, match="two verdicts about track 1"):
        video.add(verdict())


def test_an_object_that_may_be_of_several_classes_is_one_track_that_names_them_all():
    video = record(MaskSpill(), frames=1)
    video.add(square(0, 0, 2))
    video.add(Tracks([], [Verdict(1, 2, 0.7, ((0, 0.4), (1, 0.1)))]))
    row = track_row(1, video.tracks(0)[0][1], NAMES)
    assert (row["score"], row["other_classes"]) == (0.7, [("cat", 0.4), ("dog", 0.1)])
    assert tables.TRACKS.field("other_classes").nullable


def test_what_a_model_takes_back_is_no_track_and_needs_no_verdict():
    video = record(MaskSpill(), frames=4)
    for frame in range(2):
        video.add(square(frame, 0, 2, track_id=frame))
    video.add(Tracks([], [], withdrawn=(0,)))
    video.add(verdict(1))
    assert list(video.tracks(0)[0]) == [1]
    assert video.tracks(0.9) == ({}, 1)


def test_without_a_clock_there_are_no_times():
    spill = MaskSpill()
    video = record(spill, frames=2, fps=None)
    video.add(square(1, 0, 2))
    video.add(verdict())
    spill.finish()
    assert rows(video, 1)[0]["time_s"] is None
    row = track_row(1, video.tracks(0)[0][1], NAMES)
    assert (row["start_s"], row["end_s"], row["duration_s"]) == (None, None, None)


def test_a_spill_without_masks_is_read_as_nothing():
    spill = MaskSpill()
    video = record(spill, frames=3)
    spill.finish()
    assert rows(video, 1) == []


def test_memory_does_not_grow_with_the_length_of_a_video(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "SPILL_ROWS", 100)
    video = VideoRecord(INFO, 0, MaskSpill())

    def grown_by(frames: range) -> int:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for frame in frames:
            video.frame(frame / 10)
            video.add(square(frame, 0, 4))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        grown_by(range(200))
        grown = grown_by(range(200, 2200))
    finally:
        tracemalloc.stop()
    # 8 bytes per frame for its time and 24 per spilled run of rows; one row alone would be some hundred bytes
    assert grown < 2000 * 40
