from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jobs import tables
from jobs.archives.archive import read_archive
from jobs.reporting.overlay import draw_overlays
from jobs.segmentation.plans import Unit, write_listing
from jobs.settings import Settings
from jobs.store import Store
from tests import published
from tests.jobs import barcode
from vis_models import masks

pytestmark = pytest.mark.unit


def publish(
    store: Store, archive: Path, frames: int, size: tuple[int, int] = (96, 128), fps: float | None = None
) -> str:
    """A plan in which every video has a track 7 in its lower right quarter, in every frame but the first."""
    height, width = size
    right = np.zeros((1, height, width), bool)
    right[:, height // 2 :, width // 2 :] = True
    (rle,) = masks.encode(right)
    sources = list(read_archive(str(archive), store, fps).videos)
    write_listing(store, "p", [Unit(f"p/{source.video_id}", source) for source in sources])
    rows: dict[str, list[dict]] = {name: [] for name in tables.SCHEMAS}
    for source in sources:
        row = {field.name: None if field.nullable else 0 for schema in tables.SCHEMAS.values() for field in schema}
        row |= {
            "plan_id": "p",
            "unit": f"p/{source.video_id}",
            "archive": "a",
            "model": "m",
            "video_id": source.video_id,
            "uri": source.uri,
            "content_id": "",
            "run_id": "",
        }
        row |= {"track_id": 7, "category": "dog", "category_id": 1, "score": 0.9, "stitched": False, "rle": rle}
        row |= {"retryable": False}
        row |= {"height": height, "width": width, "n_frames": frames, "sampled_frames": frames, "status": "done"}
        rows["videos"].append(row)
        rows["tracks"].append(row)
        rows["masks"] += [row | {"frame_idx": frame} for frame in range(1, frames)]
    own = {name: [{key: r[key] for key in tables.SCHEMAS[name].names} for r in rows[name]] for name in rows}
    published.publish(store, "p", own, archive=str(archive))
    return "p"


def test_the_overlay_shows_the_film_with_its_masks_and_its_times(tmp_path: Path):
    barcode.write_film(tmp_path / "a/film ü.mp4", 3, 12, rate=10)
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    (uri,) = draw_overlays(store, publish(store, tmp_path / "a", 12)).films
    with av.open(uri) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == "h264"
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(12)])
    assert (frames[0].height, frames[0].width) == (384, 512), "four times its size"
    pixels = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]
    first = barcode.Barcode().encode(barcode.as_frames([pixels[0].astype(np.uint8)]))
    assert (first.film.item(), first.frame.item()) == (3, 0), "the film itself"
    plain, drawn = pixels[0][300:, 300:], pixels[5][300:, 300:]
    assert np.ptp(plain, axis=2).mean() < 10, "grey where no mask is"
    assert np.ptp(drawn, axis=2).mean() > 40, "tinted where one is"


def test_frames_of_odd_size_without_a_clock_become_a_film_too(tmp_path: Path):
    (tmp_path / "a/walk").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (101, 57), (9 * number, 0, 0)).save(tmp_path / f"a/walk/{number}.png")
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    (uri,) = draw_overlays(store, publish(store, tmp_path / "a", 5, size=(57, 101))).films
    with av.open(uri) as container:
        sizes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert sizes == [(398, 706)] * 5, "seven times the size, less the odd line and column"


def test_films_that_were_drawn_stay_and_none_leaves_the_store(store: Store, tmp_path: Path):
    barcode.write_film(tmp_path / "a/x/film.mp4", 1, 3)
    barcode.write_film(tmp_path / "a/y/film.mp4", 1, 3)
    plan_id = publish(store, tmp_path / "a", 3)
    reports: list[tuple] = []
    uris = draw_overlays(store, plan_id, lambda *report: reports.append(report)).films
    assert len(set(uris)) == 2
    assert reports[-1][:3] == ("overlay", 2, 2)
    keys = store.list("vis/v1/overlays")
    assert [store.uri(key) for key in keys] == sorted(uris)
    before = {key: store.fs.info(store.path(key)) for key in keys}
    assert draw_overlays(store, plan_id).films == uris
    assert {key: store.fs.info(store.path(key)) for key in keys} == before


def test_nothing_is_kept_of_a_film_whose_frames_are_not_those_of_the_tables(store: Store, tmp_path: Path):
    for name, frames in (("cut.mp4", 5), ("gone.mp4", 5), ("whole.mp4", 5)):
        barcode.write_film(tmp_path / "a" / name, 1, frames)
    plan_id = publish(store, tmp_path / "a", 5)
    (tmp_path / "a/gone.mp4").rename(tmp_path / "away.mp4")
    barcode.write_film(tmp_path / "a/cut.mp4", 1, 3)
    films, not_drawn = draw_overlays(store, plan_id)
    assert [Path(film).name[:5] for film in films] == ["whole"]
    assert [store.uri(key) for key in store.list("vis/v1/overlays")] == films
    assert not_drawn["cut.mp4"].startswith("3 frames were read, 5 are in the tables. The video has changed since")
    assert "gone.mp4 is not there" in not_drawn["gone.mp4"]
    (tmp_path / "away.mp4").rename(tmp_path / "a/gone.mp4")
    assert [Path(film).name[:5] for film in draw_overlays(store, plan_id).films] == ["gone.", "whole"]


def test_a_video_that_broke_off_has_a_film_as_long_as_its_rows(tmp_path: Path):
    (barcode.write_frames(tmp_path / "a/walk", 1, range(5)) / "00003.jpg").write_text("none")
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    ((uri,), not_drawn) = draw_overlays(store, publish(store, tmp_path / "a", 3))
    assert not not_drawn
    with av.open(uri) as container:
        assert len(list(container.decode(video=0))) == 3


def test_films_joined_by_cat_and_frames_of_one_time_become_films(tmp_path: Path):
    parts = [barcode.write_film(tmp_path / name, 1, 20) for name in ("a.ts", "b.ts")]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    ((uri,), _) = draw_overlays(store, publish(store, tmp_path / "a", 40))
    with av.open(uri) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([n / 25 for n in range(40)])


def test_a_folder_of_frames_is_drawn_with_the_clock_that_it_was_segmented_with(tmp_path: Path):
    barcode.write_frames(tmp_path / "a/walk", 1, range(4))
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    plan_id = publish(store, tmp_path / "a", 4, fps=2)
    ((uri,), _) = draw_overlays(store, plan_id)
    with av.open(uri) as container:
        assert [frame.time for frame in container.decode(video=0)] == [0, 0.5, 1, 1.5]
