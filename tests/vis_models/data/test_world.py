import json
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.annotations import read_youtube_vis
from vis_models.data.world import (
    CATEGORIES,
    FIRST_INDEX,
    MIN_VISIBLE_PX,
    WorldConfig,
    draw_video,
    write_archive,
    write_youtube_vis,
)
from vis_models.data.world_paint import SHAPES
from vis_models.data.world_scene import OFF_STAGE, Scene

pytestmark = pytest.mark.unit

EASY, HARD = WorldConfig(frames=8), WorldConfig(level="hard", frames=8)
SMALL = WorldConfig(height=48, width=80, frames=3)


def test_one_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        config = SMALL.model_copy(update={"seed": seed, "level": "hard"})
        write_youtube_vis(config, tmp_path / name / "set", train=3, val=1)
        write_archive(config, tmp_path / name / "films", videos=2)
    first, second, third = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == third.keys()
    assert all(first[file] != third[file] for file in first)


@pytest.mark.parametrize("config", [EASY, HARD], ids=["easy", "hard"])
def test_the_masks_are_what_a_slow_redraw_by_arithmetic_finds(config: WorldConfig):
    scene = next(scene for scene in scenes(config) if len(scene.objects) > 2 and not scene.occluders[1:])
    scene.occluders.clear()  # stones have no formula
    for time in (0, 5):
        _, owner = scene.frame(time)
        expected = slow_owner(scene, time)
        wrong = owner != expected
        assert len(np.unique(owner)) > 2
        assert not (wrong & inside_of_regions(expected)).any()  # only where an outline passes through the pixel
        assert wrong.mean() < 0.01


def test_a_pixel_belongs_to_one_object_and_a_tiny_rest_to_none():
    for index in range(6):
        video = draw_video(HARD, index)
        areas_px = np.stack([track.masks.sum((1, 2)) for track in video.tracks])
        assert np.stack([track.masks for track in video.tracks]).sum(0).max() == 1
        assert areas_px[areas_px > 0].min() >= MIN_VISIBLE_PX
        assert areas_px.max(1).min() > 0


@pytest.mark.parametrize(("config", "thirds"), [(EASY, 1), (HARD, 2)], ids=["easy", "hard"])
def test_some_objects_are_alike_in_one_third_of_the_easy_and_two_of_the_hard_videos(config: WorldConfig, thirds: int):
    for index, scene in enumerate(scenes(config, count=12)):
        textures = [(thing.look.shape, thing.look.pattern, thing.look.seed) for thing in scene.objects]
        assert (len(set(textures)) < len(textures)) == (index % 3 < thirds)


def test_objects_are_as_many_and_as_large_as_the_easy_level_says():
    casts = [scene.objects for scene in scenes(SMALL, count=60)]
    assert {len(things) for things in casts} == {1, 2, 3, 4}
    things = [thing for things in casts for thing in things]
    assert {CATEGORIES[thing.category_id - 1] for thing in things} == set(CATEGORIES)
    sizes = np.array([thing.size_at(7.0 * time) for thing in things for time in range(9)])
    assert sizes.min() >= 0.1 - 1e-9
    assert sizes.max() <= 0.4 + 1e-9
    assert sizes.min() < 0.13
    assert sizes.max() > 0.37


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_silhouette_fills_its_units_on_its_longer_side(name: str):
    outline = SHAPES[name][0]
    assert np.abs(outline).max() <= 1.16  # a triangle turns about its centre of mass
    assert np.ptp(outline, axis=0).max() == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize(("name", "other"), combinations(CATEGORIES, 2))
def test_two_categories_differ_in_a_fifth_of_their_pixels_at_12_px_however_they_are_turned(name: str, other: str):
    mine = silhouette(name, angle=0.0)
    for angle in np.linspace(0, 2 * np.pi, 36):
        yours = silhouette(other, float(angle))
        assert (mine & yours).sum() / (mine | yours).sum() <= 0.8


def test_objects_hide_and_come_back_under_the_same_identity_and_enter_and_leave():
    seen = [track.masks.any((1, 2)) for index in range(20) for track in draw_video(WorldConfig(), index).tracks]
    runs = [[bool(there[0]), *(bool(now) for before, now in pairwise(there) if now != before)] for there in seen]
    assert [True, False, True] in [run[:3] for run in runs]
    assert any(not there[0] and there[-1] for there in seen)
    assert any(there[0] and not there[-1] for there in seen)


def test_a_world_is_the_same_at_another_resolution():
    large = EASY.model_copy(update={"height": 192, "width": 320})
    for index in range(4):
        tracks, twice = draw_video(EASY, index).tracks, draw_video(large, index).tracks
        assert [(t.track_id, t.category_id) for t in tracks] == [(t.track_id, t.category_id) for t in twice]
        for track, finer in zip(tracks, twice, strict=True):
            for mask, fine in zip(track.masks, finer.masks, strict=True):
                if mask.sum() > 50:
                    assert np.argwhere(fine).mean(0) / 2 == pytest.approx(np.argwhere(mask).mean(0), abs=1.5)


def test_an_object_far_outside_comes_back_on_the_other_side_unseen_in_between():
    scene = Scene(WorldConfig(frames=400), 0)
    areas_px = np.stack([np.bincount(scene.frame(time)[1].ravel(), minlength=5)[1:] for time in range(0, 400, 4)])
    assert (areas_px[-40:, : len(scene.objects)] > 0).any(0).all()  # still on the road after 400 frames
    for thing in scene.objects:
        places = np.array([scene.on_screen(thing, float(time), np.zeros(2)) for time in range(400)])
        jumps = np.flatnonzero(np.abs(np.diff(places, axis=0)).max(1) > 0.5)
        assert len(jumps)
        for time in (*jumps, *jumps + 1):
            assert (np.abs(places[time] - (scene.aspect / 2, 0.5)) - (scene.aspect / 2, 0.5)).max() > 0.3


@pytest.mark.parametrize("level", ["easy", "hard"])
def test_the_written_truth_is_the_drawn_truth(tmp_path: Path, level: str):
    config = SMALL.model_copy(update={"level": level})
    write_youtube_vis(config, tmp_path, train=3, val=2)
    for split, count in (("train", 3), ("val", 2)):
        videos = read_youtube_vis(tmp_path / f"{split}.json")
        videos.check_frames()
        assert [category.name for category in videos.categories] == list(CATEGORIES)
        assert len(videos.videos) == count
        for number, video in enumerate(videos.videos):
            drawn = draw_video(config, FIRST_INDEX[split] + number)
            frames = np.stack([video.read_frame(index) for index in range(config.frames)])
            assert np.abs(frames - drawn.frames.astype(float)).mean() < 8  # JPEG at 48x80
            assert [label.category_id for label in video.tracks] == [track.category_id for track in drawn.tracks]
            for label, track in zip(video.tracks, drawn.tracks, strict=True):
                for rle, mask in zip(label.rles, track.masks, strict=True):
                    found = np.zeros_like(mask) if rle is None else masks.decode(rle, 48, 80)
                    assert (found == mask).all()
                    assert rle is not None or not mask.any()


def test_written_boxes_and_areas_are_those_of_the_masks_and_null_where_the_object_is_hidden(tmp_path: Path):
    write_youtube_vis(HARD, tmp_path, train=2, val=0)
    truth = json.loads((tmp_path / "train.json").read_text())
    assert truth["info"]["config"] == HARD.model_dump()
    tracks = [track for index in range(2) for track in draw_video(HARD, index).tracks]
    hidden = 0
    for annotation, track in zip(truth["annotations"], tracks, strict=True):
        for t, mask in enumerate(track.masks):
            if mask.any():
                rows, columns = np.nonzero(mask)
                corner = [columns.min(), rows.min()]
                assert annotation["bboxes"][t] == [*corner, *(columns.max() + 1, rows.max() + 1) - np.array(corner)]
                assert annotation["areas"][t] == mask.sum()
            else:
                hidden += 1
                assert [annotation[key][t] for key in ("segmentations", "bboxes", "areas")] == [None] * 3
    assert hidden


def test_training_validation_and_archive_share_no_video():
    first = [draw_video(SMALL, start).frames for start in FIRST_INDEX.values()]
    assert not any((a == b).all() for a, b in ((first[0], first[1]), (first[1], first[2]), (first[0], first[2])))


def test_a_film_of_the_archive_shows_the_scene(tmp_path: Path):
    write_archive(EASY, tmp_path, videos=1)
    with av.open(str(tmp_path / "000000.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    drawn = draw_video(EASY, FIRST_INDEX["archive"]).frames
    assert frames.shape == drawn.shape
    assert np.abs(frames - drawn.astype(float)).mean() < 8


def test_a_complete_world_is_left_alone_and_a_half_drawn_one_is_finished(tmp_path: Path):
    reports = []

    def draw() -> None:
        write_youtube_vis(SMALL, tmp_path, 2, 1, lambda stage, done, total, info: reports.append((stage, done, total)))

    draw()
    assert reports == [("draw train", 1, 2), ("draw train", 2, 2), ("draw val", 1, 1)]
    whole = contents(tmp_path)
    draw()
    assert len(reports) == 3
    marker = tmp_path / "world.json"
    marker.write_text(marker.read_text().replace("true", "false"))
    (tmp_path / "train.json").unlink()
    draw()
    assert contents(tmp_path) == whole


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(BadConfig, match="other files"):
        write_youtube_vis(SMALL, tmp_path, 1, 1)
    write_archive(SMALL, tmp_path / "films", 1)
    with pytest.raises(BadConfig, match="another drawn world"):
        write_archive(SMALL.model_copy(update={"seed": 9}), tmp_path / "films", 1)


@pytest.mark.parametrize("wrong", [{"height": 97}, {"width": 10}, {"level": "medium"}, {"frames": 0}, {"speed": 2}])
def test_a_world_that_cannot_be_is_refused(wrong: dict):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        WorldConfig(**wrong)


# ------------------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def scenes(config: WorldConfig, count: int = 60) -> Iterator[Scene]:
    return (Scene(config, index) for index in range(count))


def slow_owner(scene: Scene, time: int) -> np.ndarray:
    """Who owns each pixel: every pixel centre, moved, turned and scaled back into each shape, against its outline."""
    height, width = scene.config.height, scene.config.width
    owner = np.zeros((height, width), int)
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).reshape(-1, 2)
    camera = np.round(scene.camera.at(float(time)) * height) / height
    stage = np.array([width / height, 1]) + 2 * OFF_STAGE
    for number, thing in enumerate(scene.objects, start=1):
        place = (thing.path.at(float(time)) - camera + OFF_STAGE) % stage - OFF_STAGE
        angle = thing.angle + thing.spin * time
        back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        own = (centres - place * height) @ back / (thing.size_at(float(time)) * height / 2)
        inside = [in_polygon(own, outline) for outline in SHAPES[thing.look.shape]]
        hit = inside[0] & ~inside[1] if len(inside) == 2 else inside[0]
        owner[hit.reshape(height, width)] = number
    return owner


def silhouette(name: str, angle: float) -> np.ndarray:
    """A category 12 px wide, as pixel centres see it."""
    centres = (np.stack(np.meshgrid(np.arange(18), np.arange(18)), -1).reshape(-1, 2) - 8.5) / 6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inside = [in_polygon(centres @ turn, outline) for outline in SHAPES[name]]
    return inside[0] & ~inside[1] if len(inside) == 2 else inside[0]


def in_polygon(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Even-odd rule: how often does a ray to the right cross the outline?"""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        crosses = (y0 > points[:, 1]) != (y1 > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (points[:, 0] < x0 + (points[:, 1] - y0) / (y1 - y0) * (x1 - x0))
    return inside


def inside_of_regions(owner: np.ndarray) -> np.ndarray:
    """Pixels whose eight neighbours have the same owner."""
    padded = np.pad(owner, 1, mode="edge")
    height, width = owner.shape
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.all([neighbour == owner for neighbour in around], axis=0)
