import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.annotations import Category, VideoSet
from vis_models.data.coco import read_coco, read_labels, translate

pytestmark = pytest.mark.unit

BOX = np.zeros((40, 50), bool)
BOX[5:15, 10:20] = True  # rows 5..14, columns 10..19
COMPRESSED = {"size": [40, 50], "counts": masks.encode(BOX[None])[0].decode()}
RUNS = {"size": [40, 50], "counts": [405, 10, *[30, 10] * 9, 2000 - 405 - 10 - 40 * 9]}
POLYGON = [[10, 5, 20, 5, 20, 15, 10, 15]]

DOCUMENT: dict[str, Any] = {
    "images": [
        {"id": 3, "height": 40, "width": 50, "file_name": "a.jpg"},
        {"id": 8, "height": 20, "width": 30, "file_name": "sub/b.jpg"},
    ],
    "categories": [{"id": 9, "name": "Sea turtle"}, {"id": 2, "name": "Giant Panda"}, {"id": 5, "name": "Drum"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 2, "iscrowd": 0, "segmentation": POLYGON, "bbox": [10, 5, 10, 10]},
        {"id": 2, "image_id": 3, "category_id": 5, "iscrowd": 1, "segmentation": RUNS},
        {"id": 4, "image_id": 3, "category_id": 9, "segmentation": COMPRESSED},
    ],
}
OURS = (Category(id=1, name="turtle"), Category(id=2, name="person"), Category(id=30, name="giant_panda"))


def written(folder: Path, document: Any) -> Path:
    path = folder / "images.json"
    path.write_text(json.dumps(document))
    return path


def test_every_image_is_a_video_of_one_frame(tmp_path: Path):
    images = read_coco(written(tmp_path, DOCUMENT), tmp_path / "pictures")
    first, second = images.videos
    assert (first.video_id, first.height, first.width, first.file_names) == (3, 40, 50, ("a.jpg",))
    assert first.frames_dir == tmp_path / "pictures"
    assert [(track.track_id, track.category_id, track.crowd) for track in first.tracks] == [
        (1, 2, False),
        (2, 5, True),
        (4, 9, False),
    ]
    for track in first.tracks:  # polygons, list of runs, compressed
        (rle,) = track.rles
        assert rle is not None
        assert (masks.decode(rle, 40, 50) == BOX).all()
    assert second.tracks == ()


def test_images_are_found_beside_the_file(tmp_path: Path):
    path = written(tmp_path, DOCUMENT)
    for place in (tmp_path, tmp_path / "images"):
        place.mkdir(exist_ok=True)
        Image.new("L", (50, 40)).save(place / "a.jpg")
        assert read_coco(path).videos[0].frames_dir == place
    assert read_coco(path).videos[0].read_frame(0).shape == (40, 50, 3)
    with pytest.raises(BadConfig, match=r"video 8: expected a frame at .*sub/b\.jpg"):
        read_coco(path).check_frames()


BAD = {
    "no images": (["images"], "DELETE", r"the key 'images', got only \['annotations', 'categories'\]"),
    "no annotations": (["annotations"], "DELETE", "the key 'annotations'"),
    "a size of zero": (["images", 1, "width"], 0, r"images\[1\] \(id 8\): expected a size in pixels, got 0x20"),
    "a way out of the folder": (["images", 0, "file_name"], "../a.jpg", r"images\[0\].*file_name: expected a relative"),
    "two images of one id": (["images", 1, "id"], 3, r"\(id 3\): expected an id of its own, got 2 entries"),
    "an image that is not there": (["annotations", 0, "image_id"], 4, r"annotations\[0\].*image_id: expected the id"),
    "a category that is not there": (["annotations", 0, "category_id"], 4, r"category_id: expected the id"),
    "a box without a mask": (["annotations", 0, "segmentation"], "DELETE", r"image 3.*a mask of 50x40 px, got none"),
    "a mask of another size": (["annotations", 0, "segmentation"], {"size": [50, 40], "counts": "0"}, r"\[50, 40\]"),
    "a box in the place of a polygon": (["annotations", 0, "segmentation"], [[1, 2, 3, 4]], "3 points or more"),
    "half a point": (["annotations", 0, "segmentation"], [[1, 2, 3, 4, 5, 6, 7]], "3 points or more"),
}


@pytest.mark.parametrize(("place", "value", "complaint"), BAD.values(), ids=BAD)
def test_a_file_that_contradicts_itself_is_refused_by_entry_and_reason(
    tmp_path: Path, place: list, value: Any, complaint: str
):
    document = copy.deepcopy(DOCUMENT)
    *way, last = place
    parent: Any = document
    for step in way:
        parent = parent[step]
    if value == "DELETE":
        del parent[last]
    else:
        parent[last] = value
    with pytest.raises(BadConfig, match=complaint) as refusal:
        read_coco(written(tmp_path, document))
    assert str(tmp_path / "images.json") in str(refusal.value)


def test_either_format_is_known_by_what_the_file_holds(tmp_path: Path):
    assert read_labels(written(tmp_path, DOCUMENT), tmp_path) == read_coco(tmp_path / "images.json", tmp_path)
    video = {"id": 1, "height": 4, "width": 5, "file_names": ["v/0.jpg"]}
    clip = {"videos": [video], "categories": [{"id": 1, "name": "ape"}], "annotations": []}
    assert [v.file_names for v in read_labels(written(tmp_path, clip)).videos] == [("v/0.jpg",)]


def test_ids_may_be_text_or_whole_floats_on_either_side(tmp_path: Path):
    document, plain = copy.deepcopy(DOCUMENT), read_coco(written(tmp_path, DOCUMENT), tmp_path)
    for each in document["annotations"]:
        each |= {"image_id": str(each["image_id"]), "category_id": float(each["category_id"])}
    images = read_coco(written(tmp_path, document), tmp_path)
    assert images.videos == plain.videos
    assert [note.split(":")[1] for note in images.notes] == [" ids with the same text are taken as the same"]


def test_images_of_lvis_are_named_by_their_address_at_coco(tmp_path: Path):
    document = copy.deepcopy(DOCUMENT)
    for image in document["images"]:
        del image["file_name"]
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image['id']:012d}.jpg"
    first, second = read_coco(written(tmp_path, document)).videos
    assert first.file_names + second.file_names == ("train2017/000000000003.jpg", "train2017/000000000008.jpg")


# ------------------------------------------------------------------------------------------------------ categories


def test_categories_are_matched_by_name_and_others_are_dropped_and_counted(tmp_path: Path):
    images = read_coco(written(tmp_path, DOCUMENT))
    translated, dropped = translate(images, OURS)
    assert translated.categories == OURS
    assert [track.category_id for track in translated.videos[0].tracks] == [30]  # Giant Panda, whose id was 2
    assert dropped == {"Drum": 1, "Sea turtle": 1}


def test_other_names_can_be_given(tmp_path: Path):
    translated, dropped = translate(read_coco(written(tmp_path, DOCUMENT)), OURS, {"Sea turtle": "turtle"})
    assert [track.category_id for track in translated.videos[0].tracks] == [30, 1]
    assert dropped == {"Drum": 1}


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ({"Turtle": "turtle"}, r"names: expected their categories, of \['Drum', .*got \['Turtle'\]"),
        ({"Sea turtle": "tortoise"}, r"names: expected our categories, of \['giant_panda', .*got \['tortoise'\]"),
    ],
)
def test_a_name_that_does_not_exist_is_refused(tmp_path: Path, names: dict[str, str], complaint: str):
    with pytest.raises(BadConfig, match=complaint):
        translate(read_coco(written(tmp_path, DOCUMENT)), OURS, names)


def test_a_set_that_shares_no_category_is_refused():
    strangers = VideoSet((Category(id=1, name="drum"),), (), source="drums.json")
    with pytest.raises(BadConfig, match=r"drums\.json: categories: expected some of .*got only \['drum'\]"):
        translate(strangers, OURS)
