import csv
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.drawn_open_images import LEFT, MIDS, RIGHT, Release
from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.annotations import Category, VideoSet, as_youtube_vis
from vis_models.data.categories import spelled_alike
from vis_models.data.coco import read_in_categories
from vis_models.data.mask_archives import MaskArchive
from vis_models.data.open_images import MAPS, names_in, read_open_images

pytestmark = pytest.mark.unit

YTVIS_2019 = re.findall(
    r"\w+",
    """person giant_panda lizard parrot skateboard sedan ape dog snake monkey hand rabbit duck cat cow fish train horse
    turtle bear motorbike giraffe leopard fox deer owl surfboard airplane truck zebra tiger elephant snowboard boat
    shark mouse frog eagle earless_seal tennis_racket""",
)
YTVIS_2021 = re.findall(
    r"\w+",
    """airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox frog giant_panda
    giraffe horse leopard lizard monkey motorbike mouse parrot person rabbit shark skateboard snake snowboard squirrel
    surfboard tennis_racket tiger train truck turtle whale zebra""",
)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Three images: a dog and a turtle; a tortoise, a crowd of people and a dog without a mask; a drum."""
    drawn = Release(tmp_path / "openimages")
    drawn.image("00aa")
    drawn.object("00aa", "Dog", LEFT)
    drawn.object("00aa", "Sea turtle", RIGHT, png_px=(120, 80))
    drawn.image("f0bb", width=64, height=48)
    drawn.object("f0bb", "Tortoise", LEFT, png_px=(32, 24))
    drawn.object("f0bb", "Person", RIGHT, png_px=(64, 48), group=1)
    drawn.object("f0bb", "Dog", RIGHT, png_px=None)
    drawn.image("0acc")
    drawn.object("0acc", "Drum", LEFT)
    return drawn


def objects(videos: VideoSet) -> dict[str, list[tuple[str, bool]]]:
    names = {category.id: category.name for category in videos.categories}
    return {str(v.video_id): [(names[track.category_id], track.crowd) for track in v.tracks] for v in videos.videos}


def test_every_image_with_a_mask_of_a_wanted_class_is_a_video_of_one_frame(release: Release):
    videos = read_open_images(release.write(), ["Dog", "Sea turtle", "Tortoise", "Person"])
    assert objects(videos) == {
        "00aa": [("Dog", False), ("Sea turtle", False)],
        "f0bb": [("Tortoise", False), ("Person", True)],  # the dog without a mask leaves no trace
    }
    first, second = videos.videos
    assert (first.height, first.width, first.file_names) == (40, 60, ("train/00aa.jpg",))
    assert (second.height, second.width) == (48, 64)
    assert second.read_frame(0).shape == (48, 64, 3)
    numbers = [track.track_id for video in videos.videos for track in video.tracks]
    assert len({*numbers}) == len(numbers)
    assert videos.notes == ()


def test_a_mask_of_any_size_lies_on_its_image(release: Release):
    first, second = read_open_images(release.write(), ["Dog", "Sea turtle", "Tortoise", "Person"]).videos
    for video in (first, second):
        for track, half in zip(video.tracks, ("left", "right"), strict=True):
            expected = np.zeros((video.height, video.width), bool)
            middle = video.width // 2
            expected[:, :middle] = half == "left"
            expected[:, middle:] = half == "right"
            (rle,) = track.rles
            assert rle is not None
            assert (masks.decode(rle, video.height, video.width) == expected).all()
            assert track.rles[-1] == track.rles[0] == [*track.rles[0:1]][-1]
            with pytest.raises(IndexError):
                track.rles[1]


def test_only_the_box_of_a_mask_makes_it_a_crowd(tmp_path: Path):
    drawn = Release(tmp_path)
    drawn.image("00aa")
    drawn.object("00aa", "Dog", LEFT)
    drawn.object("00aa", "Dog", RIGHT, png_px=None, group=1)  # a pack beside it
    drawn.object("00aa", "Person", LEFT, png_px=None, group=1)  # people in the same place
    drawn.object("00aa", "Dog", (0.25, 0.75, 0.1, 0.9), group=1)
    drawn.object("00aa", "Dog", (0.1, 0.2, 0.1, 0.2), depiction=1)
    videos = read_open_images(drawn.write(), ["Dog"])
    assert objects(videos) == {"00aa": [("Dog", False), ("Dog", True), ("Dog", False)]}


def test_all_splits_that_are_there_are_read(release: Release):
    release.write()
    more = Release(release.folder, "validation")
    more.image("11aa")
    more.object("11aa", "Dog")
    videos = read_open_images(more.write(), ["Dog"])
    assert [video.file_names for video in videos.videos] == [("train/00aa.jpg",), ("validation/11aa.jpg",)]


def test_images_may_lie_elsewhere_and_archives_in_the_folder_itself(release: Release, tmp_path: Path):
    folder = release.write()
    (folder / "train").rename(tmp_path / "train")
    for archive in (folder / "train-masks").iterdir():
        archive.rename(folder / archive.name)
    (folder / "train-masks").rmdir()
    (folder / "oidv6-train-annotations-bbox.csv").rename(folder / "train-annotations-bbox.csv")
    (folder / "oidv7-class-descriptions-boxable.csv").unlink()  # as V5 has it, without a header
    (folder / "class-descriptions-boxable.csv").write_text(f"{MIDS['Dog']},Dog\n{MIDS['Drum']},Drum\n")
    videos = read_open_images(folder, ["Dog", "Drum"], tmp_path)
    assert objects(videos) == {"00aa": [("Dog", False)], "0acc": [("Drum", False)]}
    videos.check_frames()


# What is missing


def test_a_mask_that_is_not_in_its_archive_is_left_out_and_said(release: Release):
    file = release.object("00aa", "Dog", RIGHT)
    del release.archives["0"][file]
    videos = read_open_images(release.write(), ["Dog", "Panda"])
    assert objects(videos) == {"00aa": [("Dog", False)]}
    assert videos.notes == (
        f"{release.folder}: masks that are not in their archive: 1 ({file})",
        f"{release.folder}: classes without a mask: 1 (Panda)",
    )


def test_a_mask_of_another_shape_than_its_image_is_left_out_and_said(release: Release):
    file = release.object("0acc", "Dog", LEFT, png_px=(40, 60))  # of the image before it was turned
    videos = read_open_images(release.write(), ["Dog"])
    assert objects(videos) == {"00aa": [("Dog", False)]}
    assert videos.notes == (f"{release.folder}: masks of another shape than their image: 1 ({file})",)


def test_an_image_that_is_missing_is_named_by_the_check_of_all_frames(release: Release):
    (release.folder / "train" / "f0bb.jpg").unlink()
    videos = read_open_images(release.write(), ["Dog", "Tortoise"])
    assert [(v.video_id, v.height, v.width) for v in videos.videos] == [("00aa", 40, 60), ("f0bb", 24, 32)]
    with pytest.raises(BadConfig, match=r"video f0bb: expected a frame at .*train/f0bb\.jpg.* 1 of 2 frames"):
        videos.check_frames()


ABSENT = {
    "oidv7-class-descriptions-boxable.csv": "v7/oidv7-class-descriptions-boxable.csv",
    "oidv6-train-annotations-bbox.csv": "v6/oidv6-train-annotations-bbox.csv",
    "train-annotations-object-segmentation.csv": "v5/train-annotations-object-segmentation.csv",
    "train-masks/train-masks-f.zip": "v5/train-masks/train-masks-f.zip",
    "train": "s3://open-images-dataset/train",
}


@pytest.mark.parametrize(("part", "address"), ABSENT.items(), ids=ABSENT)
def test_a_part_that_is_missing_is_named_with_where_it_is_published(release: Release, part: str, address: str):
    path = release.write() / part
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(BadConfig, match=rf"expected .*{re.escape(path.name)}.*published at .*{address}") as refusal:
        read_open_images(release.folder, ["Dog", "Tortoise"])
    assert str(path.parent) in str(refusal.value)


def test_a_folder_of_another_data_set_is_refused(tmp_path: Path):
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(BadConfig, match=r"got only train\.json\..* name the JSON itself"):
        read_in_categories(tmp_path, (Category(id=1, name="dog"),))


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        (
            "train-annotations-object-segmentation.csv",
            "LabelName",
            "Label",
            r"segmentation\.csv, first line: expected the columns .*LabelName.*got \['MaskPath', 'ImageID', 'Label'",
        ),
        ("oidv6-train-annotations-bbox.csv", "IsGroupOf", "Groups", r"bbox\.csv, first line: .*IsGroupOf, "),
        ("oidv6-train-annotations-bbox.csv", "1.000000", "wide", r"bbox\.csv: expected rows .*'wide'"),
        (
            "train-annotations-object-segmentation.csv",
            ",00aa,",
            ",00aa,/m/1,",
            r"segmentation\.csv: expected rows of 10",
        ),
        ("train-annotations-object-segmentation.csv", ",00aa,", ",../00aa,", r"ImageID: expected .*'\.\./00aa'"),
        ("oidv7-class-descriptions-boxable.csv", "/m/", "m/", "expected rows such as /m/01g317,Person, got none"),
    ],
)
def test_a_broken_csv_is_refused_by_file_and_reason(release: Release, file: str, old: str, new: str, complaint: str):
    path = release.write() / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadConfig, match=complaint):
        read_open_images(release.folder, ["Dog"])


def test_an_archive_that_is_cut_off_or_changes_later_is_refused(release: Release):
    path = release.write() / "train-masks" / "train-masks-0.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(BadConfig, match=r"train-masks-0\.zip: expected a zip archive of masks"):
        read_open_images(release.folder, ["Dog"])
    path.write_bytes(whole)
    (video,) = read_open_images(release.folder, ["Dog"]).videos
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(BadConfig, match=r"train-masks-0\.zip: 00aa_m0bt9lr_00000000\.png: expected a PNG"):
        video.tracks[0].rles[0]


def test_an_unknown_class_is_refused_with_the_name_that_was_meant(release: Release):
    with pytest.raises(BadConfig, match=r"'Sea turtel'\. Did you mean 'Sea turtle'\?"):
        read_open_images(release.write(), ["Dog", "Sea turtel"])
    with pytest.raises(BadConfig, match="expected masks of Panda, got none"):
        read_open_images(release.folder, ["Panda"])


# In the categories of a set of videos


def categories(*names: str) -> tuple[Category, ...]:
    return tuple(Category(id=10 * number, name=name) for number, name in enumerate(names, start=1))


def test_two_classes_may_be_one_category(release: Release):
    release.write()
    with (release.folder / "oidv7-class-descriptions-boxable.csv").open("a") as file:
        file.write("/m/09dzg,Turtle\n/m/04yx4,Man\n/m/03bt1vf,Woman\n/m/01bl7v,Boy\n/m/05r655,Girl\n")
    ours = categories("turtle", "dog", "person")
    videos, dropped = read_in_categories(release.folder, ours)
    assert videos.categories == ours
    assert objects(videos) == {
        "00aa": [("dog", False), ("turtle", False)],
        "f0bb": [("turtle", False), ("person", True)],
    }
    assert dropped == {}


def test_any_other_data_set_gets_the_classes_of_its_names_and_those_it_is_told(release: Release):
    ours = categories("DRUM", "hound", "gadget")
    videos, _ = read_in_categories(release.write(), ours)
    assert objects(videos) == {"0acc": [("DRUM", False)]}
    videos, _ = read_in_categories(release.folder, ours, {"Dog": "hound"})
    assert objects(videos) == {"00aa": [("hound", False)], "0acc": [("DRUM", False)]}
    with pytest.raises(BadConfig, match=r"classes: expected at least one, got none.*names="):
        read_in_categories(release.folder, categories("gadget"))


def map_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize(("path", "names"), zip(MAPS, (YTVIS_2019, YTVIS_2021), strict=True))
def test_each_map_speaks_of_all_40_categories_and_of_no_class_twice(path: Path, names: list[str], tmp_path: Path):
    rows = map_rows(path)
    assert [*dict.fromkeys(row["category"] for row in rows)] == names
    classes = [row["open_images"] for row in rows if row["open_images"]]
    assert len({*classes}) == len(classes)
    alike = [row for row in rows if spelled_alike(row["category"]) == spelled_alike(row["open_images"])]
    assert all(row["note"] for row in rows if row not in alike)
    assert names_in(names, tmp_path) == {row["open_images"]: row["category"] for row in rows if row["open_images"]}


def test_what_a_class_is_called_depends_on_the_release(tmp_path: Path):
    old, new = (names_in(names, tmp_path) for names in (YTVIS_2019, [name.replace("_", " ") for name in YTVIS_2021]))
    assert (old["Car"], new["Car"]) == ("sedan", "car")
    assert (old["Owl"], new["Owl"]) == ("owl", "bird")
    assert (old["Panda"], new["Panda"]) == ("giant_panda", "giant panda")  # as the other set spells it
    assert "Van" not in old
    assert "ape" not in old.values()


# How much is in memory


def test_masks_stay_in_their_archive_until_one_is_looked_at(release: Release):
    videos = read_open_images(release.write(), ["Dog", "Tortoise"])
    for archive in (release.folder / "train-masks").iterdir():
        archive.rename(archive.with_suffix(".away"))
    assert len(videos.videos[0].tracks[0].rles) == 1
    with pytest.raises(BadConfig, match="No such file"):
        as_youtube_vis(videos)


def test_an_archive_gives_masks_by_their_names_in_any_folder_of_it(tmp_path: Path):
    png = BytesIO()
    Image.new("L", (3, 2), 1).save(png, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train-masks-a/x.png", png.getvalue())
    found = MaskArchive(tmp_path / "a.zip")
    assert found.size_px("x.png") == (2, 3)
    assert found.size_px("y.png") is None
    assert found.mask("x.png", (4, 6)).read().all()  # not 0 is the object, be it 1 or 255


@pytest.fixture
def arrow_pool() -> Iterator[pa.MemoryPool]:
    """Where Arrow allocates from here on, and nothing else did before: its peak is that of the test."""
    usual, own = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(own)
    yield own
    pa.set_memory_pool(usual)


def test_rows_of_other_classes_are_never_in_memory_together(release: Release, arrow_pool: Any):
    folder = release.write()
    drum = f"{MIDS['Drum']},1,0.1,0.2,0.1,0.2,0,0,1,0\n"
    boxes = "".join(f"{number:016x},xclick,{drum}" for number in range(12_000))
    with (folder / "oidv6-train-annotations-bbox.csv").open("a") as file:
        file.writelines(boxes for _ in range(100))
    drum = f"{MIDS['Drum']},0,0.1,0.2,0.1,0.2,0.8,\n"
    with (folder / "train-annotations-object-segmentation.csv").open("a") as file:
        file.writelines(f"{number:016x}_m026t6_0.png,{number:016x},{drum}" for number in range(100_000))
    read_open_images(folder, ["Dog"])  # what is imported and cached on the way
    tracemalloc.start()
    videos = read_open_images(folder, ["Dog"])
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert objects(videos) == {"00aa": [("Dog", False)]}
    assert python_peak < 200_000  # of 1.3 million rows
    assert arrow_pool.max_memory() < (folder / "oidv6-train-annotations-bbox.csv").stat().st_size * 0.8
    assert arrow_pool.bytes_allocated() == 0
