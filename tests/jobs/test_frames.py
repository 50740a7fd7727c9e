import os
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from jobs.archives.archive import VideoSource, list_videos
from jobs.archives.bad_videos import RETRYABLE, UNEXPECTED
from jobs.archives.frames import open_video
from jobs.archives.video import Clock, DecodedFrame
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode, mutated
from vis_models.config import BadVideo
from vis_models.types import VideoInfo

pytestmark = pytest.mark.unit

ODD = {  # file -> frames that INDEX.md of the shared data counts
    "-video-with-dash-.mp4": 5,
    "alpha_vp9.webm": 150,
    "animated.gif": 30,
    "av1.mkv": 125,
    "failing_audio.mp4": 280,
    "h264_10bit.mp4": 30,
    "multi_stream_nasa.mp4": 325,
    "no_duration.webm": 74,
    "raw_annexb_res_change.h264": 96,
    "rotate_0.mov": 3,
    "rotate_90.mov": 3,
}
WHOLE = {
    "huge_dims.mp4": 24,
    "name with spaces & ünïcode 视频.mp4": 3,
    "odd_dims_101x57.mp4": 6,
    "one_frame.mp4": 1,
    "vfr.mp4": 8,
    "video_named.jpg": 24,
    "frames_stray": 2,
}
DAMAGED = {  # file -> (code, frames before the damage)
    "corrupted_decord.mp4": ("damaged", 28),
    "no_timescale.mp4": ("damaged", 8),
    "crafted/truncated_mid_data.mp4": ("damaged", 8),
    "crafted/bit_flips.mp4": ("no_frames", 0),
    "crafted/frames_corrupt": ("bad_image", 3),
    "crafted/frames_missing": ("frame_gap", 9),
    "crafted/frames_mixed_size": ("size_changed", 2),
    "chunk_out_of_range.mp4": ("not_a_video", 0),
    "lfs_pointer.mp4": ("lfs_pointer", 0),
    "minimal_no_frames.mp4": ("no_video_stream", 0),
    "zero_bytes.webm": ("empty_file", 0),
    "crafted/empty.mp4": ("empty_file", 0),
    "crafted/text_named.mp4": ("not_a_video", 0),
    "crafted/truncated_moov_missing.mp4": ("not_a_video", 0),
    "crafted/huge_header.png": ("not_a_video", 0),
    "../odd/audio_only.wav": ("no_video_stream", 0),
}


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store.open(Settings(store=str(tmp_path / "lake")))


def source_of(path: Path, here: Store) -> VideoSource:
    (source,) = list_videos(str(path), here)
    return source


def decode(
    source: VideoSource, here: Store, size: tuple[int, int] = (48, 64)
) -> tuple[list[DecodedFrame], BadVideo | None]:
    frames: list[DecodedFrame] = []
    try:
        with open_video(source, here) as video:
            frames.extend(video.frames(size))
    except BadVideo as error:
        return frames, error
    return frames, None


def open_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # an address has at most 108 bytes
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(("name", "count"), ODD.items())
def test_odd_but_valid_media_decode_to_the_end(shared_data: Path, here: Store, name: str, count: int):
    frames, error = decode(source_of(shared_data / "data/real/odd" / name, here), here)
    assert error is None
    assert [frame.index for frame in frames] == list(range(count))
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    times = [frame.time_s for frame in frames]
    assert times == sorted(times)
    assert times[0] >= 0


@pytest.mark.parametrize(("name", "count"), WHOLE.items())
def test_crafted_media_that_are_whole_decode_to_the_end(shared_data: Path, here: Store, name: str, count: int):
    frames, error = decode(source_of(shared_data / "data/real/bad/crafted" / name, here), here)
    assert (len(frames), error) == (count, None)


@pytest.mark.parametrize(("name", "code", "kept"), [(name, *rest) for name, rest in DAMAGED.items()])
def test_a_damaged_video_keeps_the_frames_before_the_damage(
    shared_data: Path, here: Store, name: str, code: str, kept: int
):
    path = shared_data / "data/real/bad" / name
    frames, error = decode(source_of(path, here), here)
    assert error is not None
    assert (error.code, error.frames_kept, len(frames)) == (code, kept, kept)
    assert path.name in str(error)
    if kept and code != "frame_gap":
        assert f"The {kept} frames before it are kept (status partial)" in str(error)


def test_a_truncated_film_keeps_the_frames_before_the_damage(tmp_path: Path, here: Store):
    whole = barcode.write_film(tmp_path / "film.mp4", 5, 60, rate=10)
    index_first = {"movflags": "faststart"}  # as films for the web have it
    with av.open(str(whole)) as film, av.open(str(tmp_path / "web.mp4"), "w", options=index_first) as copy:
        stream = copy.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(film.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = (tmp_path / "web.mp4").read_bytes()
    (tmp_path / "web.mp4").write_bytes(data[: len(data) * 2 // 3])
    frames, error = decode(source_of(tmp_path / "web.mp4", here), here)
    assert error is not None
    assert error.code in ("damaged", "ends_early")
    assert 10 < error.frames_kept == len(frames) < 60
    model = barcode.Barcode()
    seen = [int(model.encode(barcode.as_frames([frame.pixels])).frame) for frame in frames]
    assert seen == list(range(len(frames)))


def test_a_matroska_film_that_is_cut_off_is_reported_though_the_decoder_is_content(tmp_path: Path, here: Store):
    path = barcode.write_film(tmp_path / "film.mkv", 5, 100, rate=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, error = decode(source_of(path, here), here)
    assert error is not None
    assert (error.code, error.frames_kept) == ("ends_early", len(frames))


def test_frames_come_in_order_with_their_times(tmp_path: Path, here: Store):
    source = source_of(barcode.write_film(tmp_path / "film.mp4", 9, 30, rate=25), here)
    with open_video(source, here) as video:
        frames = list(video.frames((64, 96)))
        assert (video.info, video.codec, video.fps) == (VideoInfo("film.mp4", 96, 128), "h264", Fraction(25))
        assert not video.clock.uneven
        assert video.clock.end_s == pytest.approx(30 / 25)
    codes = barcode.Barcode().encode(barcode.as_frames([frame.pixels for frame in frames]))
    assert codes.frame.tolist() == list(range(30))
    assert set(codes.film.tolist()) == {9}
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in range(30)])


def test_an_uneven_clock_is_kept(shared_data: Path, here: Store):
    source = source_of(shared_data / "data/real/bad/crafted/vfr.mp4", here)
    with open_video(source, here) as video:
        times = [frame.time_s for frame in video.frames((48, 64))]
        assert video.clock.uneven
    assert (times[0], times[1], times[-1]) == (0.0, pytest.approx(0.04), 6.0)


def test_a_film_is_shown_upright(shared_data: Path, here: Store):
    path = shared_data / "data/real/odd/rotate_90.mov"  # looked at: its letters stand upright after a clockwise turn
    with av.open(str(path)) as container:
        coded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with open_video(source_of(path, here), here) as video:
        assert (video.info.height, video.info.width) == (568, 320)
        upright = next(video.frames((568, 320))).pixels
    assert np.abs(np.rot90(coded, -1).astype(int) - upright).mean() < 2


def test_a_header_that_promises_another_size_is_not_believed(shared_data: Path, here: Store):
    with open_video(source_of(shared_data / "data/real/bad/crafted/huge_dims.mp4", here), here) as video:
        assert (video.info.height, video.info.width) == (240, 320)


def test_the_size_is_that_of_the_first_frame_when_it_changes(shared_data: Path, here: Store):
    with open_video(source_of(shared_data / "data/real/odd/raw_annexb_res_change.h264", here), here) as video:
        assert (video.info.height, video.info.width) == (464, 848)


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path, here: Store):
    secret = barcode.write_film(tmp_path / "secret/segment.ts", 1, 5)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    (tmp_path / "film.mp4").write_text(playlist)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    for name in ("film.mp4", "list.mp4"):
        frames, error = decode(source_of(tmp_path / name, here), here)
        assert not frames
        assert error is not None
        assert error.code == "not_a_video"


def test_a_film_that_is_gone_or_forbidden_is_named(tmp_path: Path, here: Store):
    source = source_of(barcode.write_film(tmp_path / "film.mp4", 1, 2), here)
    (tmp_path / "film.mp4").unlink()
    _, error = decode(source, here)
    assert error is not None
    assert (error.code, str(error)) == ("missing", f"{source.uri} is not there, expected a film. Check the manifest")


def test_a_frame_that_is_missing_or_a_pointer_is_named(tmp_path: Path, here: Store):
    folder = barcode.write_frames(tmp_path / "walk", 1, range(5))
    (folder / "00003.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    source = source_of(folder, here)
    frames, error = decode(source, here)
    assert error is not None
    assert (error.code, error.frames_kept, len(frames)) == ("lfs_pointer", 3, 3)
    assert "00003.jpg is a Git-LFS pointer" in str(error)
    assert "(frame 3 of 5)" in str(error)
    (folder / "00000.jpg").unlink()
    _, error = decode(source, here)
    assert error is not None
    assert (error.code, error.frames_kept) == ("missing", 0)


def test_an_image_that_claims_to_be_huge_is_refused(shared_data: Path, tmp_path: Path, here: Store):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/0.png").write_bytes((shared_data / "data/real/bad/crafted/huge_header.png").read_bytes())
    _, error = decode(source_of(tmp_path / "frames", here), here)
    assert error is not None
    assert error.code == "bad_image"


def test_frames_at_every_fifth_number_have_no_gap(tmp_path: Path, here: Store):
    source = source_of(barcode.write_frames(tmp_path / "walk", 1, range(0, 50, 5)), here)
    assert decode(source, here)[1] is None


def test_a_frame_folder_has_the_clock_that_it_is_given(tmp_path: Path, here: Store):
    source = source_of(barcode.write_frames(tmp_path / "walk", 1, range(4)), here)
    with open_video(source, here) as video:
        assert [frame.time_s for frame in video.frames((48, 64))] == [None] * 4
        assert (video.fps, video.clock.end_s) == (None, None)
    with open_video(replace(source, fps=2), here) as video:
        assert [frame.time_s for frame in video.frames((48, 64))] == [0, 0.5, 1, 1.5]
        assert (video.fps, video.clock.end_s) == (2, 2.0)


def test_masks_come_out_at_the_size_that_a_data_set_states(tmp_path: Path, here: Store):
    source = source_of(barcode.write_frames(tmp_path / "walk", 1, range(2), size=(96, 128)), here)
    with open_video(replace(source, height=95, width=128), here) as video:
        assert (video.info.height, video.info.width) == (95, 128)
        assert len(list(video.frames((48, 64)))) == 2
    _, error = decode(replace(source, height=50, width=128), here)
    assert error is not None
    assert (error.code, error.frames_kept) == ("size_changed", 0)


def test_a_frame_is_resized_as_in_training(tmp_path: Path, here: Store):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    (tmp_path / "walk").mkdir()
    Image.fromarray(pixels).save(tmp_path / "walk/0.png")
    (frame,), _ = decode(source_of(tmp_path / "walk", here), here, (30, 44))
    expected = np.asarray(Image.fromarray(pixels).resize((44, 30), Image.Resampling.BILINEAR))
    assert (frame.pixels == expected).all()


TRIAL = {  # video -> (size, mean of the first frame, frames): INDEX.md of the trial data
    "cover_first.mkv": ((96, 160), None, 20),
    "f_16bit": ((64, 96), 119.5, 3),
    "f_bmp": ((64, 96), 127.1, 3),
    "f_exif": ((96, 64), 127.1, 3),
    "f_webp": ((64, 96), 127.2, 3),
}


@pytest.mark.parametrize("name", TRIAL)
def test_inputs_that_were_handled_wrongly_when_tried_are_read_as_their_index_says(
    shared_data: Path, here: Store, name: str
):
    size, mean, count = TRIAL[name]
    with open_video(source_of(shared_data / "data/trial" / name, here), here) as video:
        assert (video.info.height, video.info.width) == size
        frames = list(video.frames(size))
        assert (len(frames), video.stream) == (count, 1 if name == "cover_first.mkv" else None)
    if mean:
        assert frames[0].pixels.mean() == pytest.approx(mean, abs=0.5)


def test_among_several_films_the_default_one_is_read_and_named(shared_data: Path, here: Store):
    with open_video(source_of(shared_data / "data/real/odd/multi_stream_nasa.mp4", here), here) as video:
        assert (video.info.height, video.info.width, video.stream) == (180, 320, 0)


def test_sound_with_a_cover_picture_is_no_film(tmp_path: Path, here: Store):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44_100)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "rgb24"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        silence.sample_rate = 44_100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    _, error = decode(source_of(tmp_path / "song.mp4", here), here)
    assert error is not None
    assert (error.code, "(a cover picture)" in str(error)) == ("no_video_stream", True)


MATRICES = {  # a, b, c, d of the display matrix -> what it does to a picture
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (-1, 0, 0, -1): lambda p: p[::-1, ::-1],
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1),
    (0, -1, -1, 0): lambda p: np.rot90(p, 2).swapaxes(0, 1),
    (0, 0, 0, 0): lambda p: p,  # damaged
    (0.7, 0.7, -0.7, 0.7): lambda p: p,  # oblique
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, here: Store, matrix: tuple[float, ...]):
    path = barcode.write_film(tmp_path / "film.mp4", 0b00011101, 3)
    plain = decode(source_of(path, here), here, (96, 128))[0][1].pixels
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)
    expected = MATRICES[matrix](plain)
    with open_video(source_of(path, here), here) as video:
        assert (video.info.height, video.info.width) == expected.shape[:2]
        shown = list(video.frames(expected.shape[:2]))[1].pixels
    assert (shown == expected).all()


def test_a_film_of_a_codec_that_nobody_knows_is_named(tmp_path: Path, here: Store):
    path = barcode.write_film(tmp_path / "film.mp4", 1, 5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"braw"))
    _, error = decode(source_of(path, here), here)
    assert error is not None
    assert (error.code, error.frames_kept) == ("unknown_codec", 0)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), open_socket])
def test_pipes_devices_and_sockets_are_no_films_and_no_frames(tmp_path: Path, here: Store, make: Callable):
    make(tmp_path / "x.mp4")
    _, error = decode(source_of(tmp_path, here), here)
    assert error is not None
    assert error.code == "not_a_file"
    walk = barcode.write_frames(tmp_path / "walk", 1, range(4))
    (walk / "00002.jpg").unlink()
    make(walk / "00002.jpg")
    frames, error = decode(source_of(walk, here), here)
    assert error is not None
    assert (error.code, error.frames_kept, len(frames)) == ("not_a_file", 2, 2)


def test_what_cannot_be_read_is_a_row_that_can_be_tried_again(tmp_path: Path, here: Store):
    memory = Path("/proc/self/mem")  # a regular file whose first page cannot be read
    if not memory.exists():
        pytest.skip("needs Linux's /proc")
    (tmp_path / "film.mp4").symlink_to(memory)
    walk = barcode.write_frames(tmp_path / "walk", 1, range(4))
    (walk / "00002.jpg").unlink()
    (walk / "00002.jpg").symlink_to(memory)
    for source, kept in zip(list_videos(str(tmp_path), here), (0, 2), strict=True):
        frames, error = decode(source, here)
        assert error is not None
        assert (error.code, error.frames_kept, len(frames)) == ("unreadable", kept, kept)
        assert error.code in RETRYABLE


def test_two_films_joined_by_cat_have_one_clock(tmp_path: Path, here: Store):
    parts = [barcode.write_film(tmp_path / name, 1, frames) for name, frames in (("a.ts", 100), ("b.ts", 50))]
    joined = tmp_path / "joined/film.ts"
    joined.parent.mkdir()
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_video(source_of(joined, here), here) as video:
        times = [frame.time_s for frame in video.frames((48, 64))]
        assert (video.clock.breaks, video.clock.end_s) == (1, pytest.approx(6))
    assert times == pytest.approx([index / 25 for index in range(150)])


def test_frames_that_come_out_of_order_do_not_stretch_the_clock():
    clock = Clock(Fraction(10))
    stamps = [0, 0.1, 0.3, 0.2, 0.4, 0.6, 0.5, 0.7]
    assert [clock.tick(stamp) for stamp in stamps] == [0, 0.1, 0.3, 0.3, 0.4, 0.6, 0.6, 0.7]
    assert clock.breaks == 0


@pytest.mark.parametrize("seconds", [1800, 3600, 86_400])
def test_a_slow_camera_has_the_clock_that_it_is_given(tmp_path: Path, here: Store, seconds: int):
    source = source_of(barcode.write_frames(tmp_path / "walk", 1, range(4)), here)
    with open_video(replace(source, fps=1 / seconds), here) as video:
        assert [frame.time_s for frame in video.frames((48, 64))] == [seconds * frame for frame in range(4)]
        assert (video.fps, video.clock.end_s) == (Fraction(1, seconds), 4 * seconds)


def test_frames_that_are_named_by_time_are_whole_and_have_its_clock(tmp_path: Path, here: Store):
    (tmp_path / "walk").mkdir()
    stamps = [1305031102.175304 + 0.033 * frame + 0.001 * (frame % 3) + (frame > 20) for frame in range(30)]
    for stamp in stamps:
        Image.new("RGB", (64, 48)).save(tmp_path / f"walk/{stamp:.6f}.png")
    source = source_of(tmp_path / "walk", here)
    frames, error = decode(source, here)
    assert error is None
    assert [frame.time_s for frame in frames] == pytest.approx([stamp - stamps[0] for stamp in stamps], abs=2e-6)
    with open_video(replace(source, fps=10), here) as video:  # the user knows better
        assert [frame.time_s for frame in video.frames((48, 64))] == pytest.approx([n / 10 for n in range(30)])


def test_names_that_are_no_unicode_are_read(tmp_path: Path, here: Store):
    film = barcode.write_film(tmp_path / "film.mp4", 1, 5)
    film.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")))
    barcode.write_frames(Path(os.fsdecode(os.fsencode(tmp_path) + b"/walk\xe9")), 1, range(4))
    film, walk = list_videos(str(tmp_path), here)
    assert len(decode(film, here)[0]) == 5
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/walk\xe9")) / "00002.jpg").write_text("none")
    frames, error = decode(walk, here)
    assert len(frames) == 2
    assert "walk%E9/00002.jpg is no whole image" in str(error).encode().decode()


def test_whatever_is_thrown_in_a_video_is_its_row(tmp_path: Path, here: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.archives.film.Film._time_s", lambda *_: 1 / 0)
    frames, error = decode(source_of(barcode.write_film(tmp_path / "film.mp4", 1, 5), here), here)
    assert error is not None
    assert (error.code, len(frames)) == (UNEXPECTED, 0)
    assert "ZeroDivisionError: division by zero (test_frames.py" in str(error)


@pytest.mark.parametrize("kind", mutated.KINDS)
def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path, here: Store, kind: str):
    whole = mutated.write(tmp_path / "whole", kind).read_bytes()
    path = tmp_path / f"film.{kind}"
    codes = set()
    for seed in range(12):
        path.write_bytes(mutated.mutate(whole, seed))
        _, error = decode(mutated.source_of(path, here), here)
        codes.add(error and error.code)
    assert codes != {None}
    assert codes <= mutated.ANSWERS


def test_films_and_frames_are_read_from_s3(tmp_path: Path, s3_settings: Settings):
    store = Store.open(s3_settings)
    barcode.write_film(tmp_path / "a/film.mp4", 3, 20)
    barcode.write_frames(tmp_path / "a/walk", 4, range(5))
    store.fs.put(str(tmp_path / "a"), f"{store.root}/a", recursive=True)
    film, walk = list_videos(store.uri("a"), store)
    assert len(decode(film, store)[0]) == 20
    assert len(decode(walk, store)[0]) == 5
    gone = replace(film, uri=film.uri + "x")
    assert decode(gone, store)[1].code == "missing"
