from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import pytest

from jobs import tables
from jobs.archives.archive import list_videos, read_archive
from jobs.archives.frames import open_video
from jobs.archives.sampling import asked
from jobs.archives.sources import Sampling, VideoSource
from jobs.archives.video import DecodedFrame
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode
from tests.jobs.test_members import tar
from vis_models.config import BadConfig, BadVideo

pytestmark = pytest.mark.unit
FRAMES, RATE = 100, 25
CONTAINERS = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "ts": "libx264", "webm": "libvpx"}


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake")))


def write(path: Path, codec: str, options: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options or {})
        stream.height, stream.width = 96, 128
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        stream.gop_size = 12
        for frame in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(barcode.draw(1, frame), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A film of 4 s, a key frame in 12 frames; `open.mp4` has B-frames that need the group before."""
    folder = tmp_path_factory.mktemp("films")

    def film(name: str) -> Path:
        path = folder / name
        if not path.exists():
            open_gop = {"x264-params": "open-gop=1:bframes=3:keyint=12:scenecut=0"}
            write(path, CONTAINERS[name.rpartition(".")[2]], open_gop if name.startswith("open") else None)
        return path

    return film


def numbers(frames: list[DecodedFrame]) -> list[int]:
    """What the pictures say which frame they are."""
    return barcode.Barcode().encode(barcode.as_frames([frame.pixels for frame in frames])).frame.tolist()


def look(source: VideoSource, sampling: Sampling, store: Store) -> tuple[list[DecodedFrame], int]:
    """(frames that are looked at, how many were decoded)."""
    with open_video(replace(source, sampling=sampling), store) as video:
        frames = list(video.frames((96, 128)))
        assert [frame.index for frame in frames] == list(range(len(frames)))
        return frames, video.decoded


@pytest.mark.parametrize("name", ["film.mp4", "open.mp4", "film.mkv", "film.avi", "film.ts", "film.webm"])
def test_a_time_range_shows_the_frames_that_a_whole_film_shows_then(films, here: Store, name: str):
    (source,) = list_videos(str(films(name)), here)
    whole, _ = look(source, Sampling(), here)
    assert numbers(whole) == list(range(FRAMES))
    for start_s, end_s in ((2.0, 3.0), (0.03, 0.5), (3.3, None), (1.19, 1.21), (0.0, 1.0)):
        frames, decoded = look(source, Sampling(start_s=start_s, end_s=end_s), here)
        wanted = [frame for frame in whole if start_s <= frame.time_s < (end_s or 9)]
        assert [frame.time_s for frame in frames] == [frame.time_s for frame in wanted]
        assert numbers(frames) == numbers(wanted)
        if name in ("film.mp4", "film.mkv"):
            assert decoded <= len(wanted) + 12, "it begins at the key frame before"


def test_one_frame_in_some_seconds_and_one_of_some_frames(films, here: Store):
    (source,) = list_videos(str(films("film.mp4")), here)
    frames, decoded = look(source, Sampling(every_s=1), here)
    assert ([frame.time_s for frame in frames], decoded) == ([0.0, 1.0, 2.0, 3.0], FRAMES)
    frames, _ = look(source, Sampling(every_s=0.5, start_s=1.01), here)
    assert [round(frame.time_s, 2) for frame in frames] == [1.04, 1.52, 2.04, 2.52, 3.04, 3.52]
    frames, decoded = look(source, Sampling(stride=30), here)
    assert (numbers(frames), decoded) == ([0, 30, 60, 90], FRAMES)
    frames, _ = look(source, Sampling(stride=30, start_s=0.4, end_s=2.0), here)
    assert numbers(frames) == [10, 40]


def test_key_frames_are_decoded_without_the_others(films, here: Store):
    (source,) = list_videos(str(films("film.mp4")), here)
    frames, decoded = look(source, Sampling(keyframes=True), here)
    assert numbers(frames) == list(range(0, FRAMES, 12))
    assert decoded == len(frames)
    assert [frame.time_s for frame in frames] == pytest.approx([frame / RATE for frame in range(0, FRAMES, 12)])


def test_a_range_without_a_frame_is_a_row_of_errors(films, here: Store):
    (source,) = list_videos(str(films("film.mp4")), here)
    with pytest.raises(BadVideo, match=r"no frame in the range .*from 60 s.*ends after 4.00 s") as raised:
        look(source, Sampling(start_s=60), here)
    assert raised.value.code == "empty_range"


def test_frames_of_a_folder_are_chosen_by_their_clock_or_counted(tmp_path: Path, here: Store):
    barcode.write_frames(tmp_path / "walk", 1, range(20))
    (source,) = read_archive(str(tmp_path / "walk"), here, 10, Sampling(start_s=0.5, end_s=1.0)).videos
    assert numbers(look(source, source.sampling, here)[0]) == [5, 6, 7, 8, 9]
    frames, decoded = look(source, Sampling(every_s=0.5), here)
    assert (numbers(frames), decoded) == ([0, 5, 10, 15], 4), "no other image is read"
    assert [frame.time_s for frame in frames] == [0, 0.5, 1.0, 1.5]
    (source,) = list_videos(str(tmp_path / "walk"), here)
    assert numbers(look(source, Sampling(stride=8), here)[0]) == [0, 8, 16]
    with pytest.raises(BadVideo, match=r"no clock.*--frame-folder-fps") as raised:
        look(source, Sampling(every_s=1), here)
    assert raised.value.code == "no_clock"


def test_stamps_in_names_are_a_clock(tmp_path: Path, here: Store):
    folder = barcode.write_frames(tmp_path / "walk", 1, range(4))
    for number in range(4):
        (folder / f"{number:05d}.jpg").rename(folder / f"{1_700_000_000 + 10 * number}.000000.jpg")
    (source,) = list_videos(str(folder), here)
    assert numbers(look(source, Sampling(start_s=5, end_s=25), here)[0]) == [1, 2]


def test_the_tables_say_which_frames_of_a_member_were_looked_at_and_when(films, tmp_path: Path):
    film = {"x.mp4": films("film.mp4").read_bytes()}
    tar(tmp_path / "a.tar", film)
    settings = Settings(store=str(tmp_path / "lake"), workers=1, cpus_per_worker=1)
    model = barcode.write_model(tmp_path / "model")
    job = SegmentJob(archive=str(tmp_path / "a.tar"), model=str(model), start_s=1, end_s=3, every_s=0.5)
    segment(job, settings, load=partial(barcode.load, blind=True))
    opened = tables.open(Store.open(settings))
    (video,) = opened["videos"].to_table().to_pylist()
    assert (video["video_id"], video["uri"]) == ("a.tar/x.mp4", f"{tmp_path}/a.tar#x.mp4")
    assert (video["status"], video["sampled_frames"]) == ("done", 4)
    assert 50 <= video["n_frames"] <= 62, "decoded, from the key frame before the start"
    masks = opened["masks"].to_table().to_pylist()
    assert {(row["frame_idx"], round(row["time_s"], 2)) for row in masks} == {(0, 1), (1, 1.52), (2, 2), (3, 2.52)}


def test_what_cannot_be_had_at_once_is_refused():
    assert str(asked(1, 4, every_s=0.5)) == "one frame in 0.5 s, from 1 s, to 4 s"
    assert str(asked()) == "every frame"
    with pytest.raises(BadConfig, match="one of --every-s, --stride and --keyframes"):
        asked(every_s=1, stride=2)
    with pytest.raises(BadConfig, match="got start 3 s and end 2 s"):
        asked(3, 2)
