"""Labels as other tools write them say what the YouTube-VIS file says; truth is the file in the one form."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.annotations import VideoSet, as_youtube_vis, read_youtube_vis
from vis_models.data.coco import read_labels
from vis_models.data.dialects import one_form
from vis_models.data.relatives import not_results
from vis_models.metrics.average_precision import average_precision
from vis_models.metrics.youtube_vis import GroundTruth, as_tracks, results_by_video

pytestmark = pytest.mark.unit


def mask(row: int, column: int) -> dict[str, Any]:
    box = np.zeros((1, 8, 12), bool)
    box[0, row : row + 3, column : column + 4] = True
    return {"size": [8, 12], "counts": masks.encode(box)[0].decode()}


LABELS: dict[str, Any] = {
    "videos": [
        {"id": 5, "height": 8, "width": 12, "length": 3, "file_names": ["a/0.jpg", "a/1.jpg", "a/2.jpg"]},
        {"id": 7, "height": 8, "width": 12, "length": 2, "file_names": ["b/0.jpg", "b/1.jpg"]},
    ],
    "categories": [{"id": 4, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"video_id": 5, "category_id": 4, "segmentations": [mask(0, 0), None, mask(2, 2)], "areas": [12, None, 12]},
        {"video_id": 5, "category_id": 2, "segmentations": [mask(4, 6), mask(4, 7), None], "areas": [12, 12, None]},
        {"video_id": 7, "category_id": 4, "segmentations": [None, mask(1, 1)], "areas": [None, 12]},
    ],
}
for number, annotation in enumerate(LABELS["annotations"], start=1):
    annotation |= {"id": number, "iscrowd": 0}
RESULTS = [
    {key: each[key] for key in ("video_id", "category_id", "segmentations")} | {"score": 0.5}
    for each in LABELS["annotations"]
]


def cocovid(first_frame: int = 0, track: str = "instance_id", frame: str = "frame_id") -> dict[str, Any]:
    """The same labels by frames, as mmtracking's converter writes them."""
    images, annotations = [], []
    for video in LABELS["videos"]:
        for n, name in enumerate(video["file_names"]):
            image = {"id": len(images) + 1, "video_id": video["id"], frame: n + first_frame, "file_name": name}
            images.append(image | {"height": 8, "width": 12})
            for each in LABELS["annotations"]:
                if each["video_id"] == video["id"] and each["segmentations"][n]:
                    one = {"image_id": len(images), "video_id": video["id"], track: each["id"] + 40}
                    one |= {"category_id": each["category_id"], "segmentation": each["segmentations"][n], "iscrowd": 0}
                    annotations.append(one | {"id": len(annotations) + 1, "area": each["areas"][n], "bbox": [0] * 4})
    videos = [{"id": video["id"], "name": name} for video, name in zip(LABELS["videos"], "ab", strict=True)]
    return {"categories": LABELS["categories"], "videos": videos, "images": images, "annotations": annotations}


def changed(**keys: Any) -> dict[str, Any]:
    """The labels with keys of every annotation changed; None: without it."""
    content = copy.deepcopy(LABELS)
    for each in content["annotations"]:
        for key, change in keys.items():
            value = change(each.pop(key)) if change else each.pop(key) and None
            if change:
                each[key] = value
    return content


def same(content: dict[str, Any]) -> bool:
    """Whether it is read as the labels are, by training and by evaluation."""
    truth, plain = GroundTruth(content), GroundTruth(LABELS)
    there = [[(t.areas_px.tolist(), t.category, t.crowd, t.mean_area_px) for t in truth.truths(v)] for v in (5, 7)]
    return (
        there == [[(t.areas_px.tolist(), t.category, t.crowd, t.mean_area_px) for t in plain.truths(v)] for v in (5, 7)]
        and average_precision(content, RESULTS).summary()["AP"] == 1
    )


@pytest.mark.parametrize(
    "content",
    [
        cocovid(),
        cocovid(first_frame=1),
        cocovid(track="track_id", frame="frame_index"),
        cocovid() | {"images": cocovid()["images"][::-1]},
        cocovid() | {"videos": []},
    ],
    ids=["frames from 0", "frames from 1", "track_id and frame_index", "images in another order", "without videos"],
)
def test_cocovid_says_what_the_youtube_vis_file_says(content, tmp_path):
    assert same(content)
    assert read(content, tmp_path).videos == read(LABELS, tmp_path).videos
    assert any(
        "read as CocoVID: 5 annotations of 5 images are 3 objects" in note for note in GroundTruth(content).notes
    )


def test_images_without_a_number_are_in_the_counting_order_of_their_names():
    content = cocovid()
    names = iter(["v/9.jpg", "v/10.jpg", "v/11.jpg", "w/2.jpg", "w/10.jpg"])
    for image in content["images"]:
        del image["frame_id"]
        image["file_name"] = next(names)
    assert same(content | {"images": content["images"][::-1]})


CONTRADICTIONS = {
    "an image without a video": (["images", 1, "video_id"], None, r"images\[1\]: expected id, video_id and file_name"),
    "a frame twice": (["images", 1, "frame_id"], 0, "video 5: expected one image for each frame_id"),
    "frames of two sizes": (["images", 1, "width"], 13, r"video 5: expected frames of one width, got \[12, 13\]"),
    "an image that is not there": (
        ["annotations", 0, "image_id"],
        77,
        r"annotations\[0\]: expected image_id .* got 77",
    ),
    "no object": (["annotations", 0, "instance_id"], None, r"annotations\[0\]: no instance_id or track_id"),
    "two masks at once": (["annotations", 0, "instance_id"], 42, "a second annotation in image 1"),
    "two classes": (["annotations", 0, "category_id"], 2, "expected one category_id for object 41 of video 5"),
}


@pytest.mark.parametrize(("place", "value", "says"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_cocovid_that_contradicts_itself_is_refused_by_entry(place, value, says):
    content = cocovid()
    key, index, part = place
    if value is None:
        del content[key][index][part]
    else:
        content[key][index][part] = value
    with pytest.raises(BadConfig, match=f"ground truth: .*{says}"):
        GroundTruth(content)


def test_boxes_without_masks_are_refused():
    content = cocovid()
    for each in content["annotations"]:
        del each["segmentation"]
    with pytest.raises(BadConfig, match="boxes only"):
        GroundTruth(content)


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        ({"iscrowd": None}, "3 of 3 annotations have no iscrowd"),
        ({"areas": None}, "3 of 3 annotations have no areas"),
        ({"id": None}, "numbered from 1"),
        ({"id": lambda number: f"object {number}"}, "numbered from 1"),
        ({"video_id": str}, "3 annotations write video_id as text"),
        ({"category_id": str}, "3 annotations write category_id as text"),
    ],
)
def test_what_follows_from_the_rest_is_filled_in_and_said(keys, note):
    content = changed(**keys)
    before = copy.deepcopy(content)
    assert same(content)
    assert [said for said in GroundTruth(content).notes if note in said]
    assert content == before, "what was given stays as it was"


@pytest.mark.parametrize("key", ["id", "video_id", "category_id", "iscrowd"])
def test_whole_floats_are_whole_numbers(key):
    assert same(changed(**{key: float}))
    assert GroundTruth(changed(**{key: float})).notes == ()


def test_a_video_has_the_size_of_its_masks_where_it_states_none():
    content = copy.deepcopy(LABELS)
    for video in content["videos"]:
        del video["height"], video["width"]
    assert same(content)
    content["annotations"][2]["segmentations"] = [None, None]  # nothing says the size of its video
    with pytest.raises(BadConfig, match="'height'"):
        GroundTruth(content)


def test_videos_may_have_names_for_ids_and_results_the_other_type(tmp_path):
    names = {5: "vid_5", 7: "vid_7"}
    content = changed(video_id=names.get)
    content["videos"] = [video | {"id": names[video["id"]]} for video in content["videos"]]
    results = [each | {"video_id": names[each["video_id"]]} for each in RESULTS]
    assert average_precision(content, results).summary()["AP"] == 1
    assert [video.video_id for video in read(content, tmp_path).videos] == ["vid_5", "vid_7"]
    content["videos"][1]["id"] = content["annotations"][2]["video_id"] = results[2]["video_id"] = 9
    truth = GroundTruth(content)
    assert truth.video_ids() == ["9", "vid_5"], "all of one type, or nothing could sort them"
    entries, notes = as_tracks(truth, results)
    assert {key: len(each) for key, each in results_by_video(truth, entries).items()} == {"vid_5": 2, "9": 1}
    assert ["1 entries write video_id as a number" in note for note in notes] == [True]


def test_categories_with_names_for_ids_are_refused():
    content = changed(category_id=lambda number: f"c{number}")
    content["categories"] = [{"id": f"c{c['id']}", "name": c["name"]} for c in content["categories"]]
    with pytest.raises(BadConfig, match="categories: expected numbers as ids, got 'c4'"):
        GroundTruth(content)


@pytest.mark.parametrize("prefix", ["JPEGImages/", "train/JPEGImages/", "./", ""])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_names_of_frames_are_the_same_however_they_are_written(prefix, slash, tmp_path):
    content = copy.deepcopy(LABELS)
    for video in content["videos"]:
        video["file_names"] = [(prefix + name).replace("/", slash) for name in video["file_names"]]
    (tmp_path / "train/JPEGImages/a").mkdir(parents=True)
    (tmp_path / "train/JPEGImages/a/0.jpg").touch()
    (tmp_path / "train.json").write_text(json.dumps(content))
    for frames in (None, tmp_path, tmp_path / "train/JPEGImages")[:: 1 if prefix == "train/JPEGImages/" else 2]:
        (video, _) = read_youtube_vis(tmp_path / "train.json", frames).videos
        assert video.file_names == ("a/0.jpg", "a/1.jpg", "a/2.jpg")
        assert (video.frames_dir / video.file_names[0]).is_file()


def test_results_by_frame_are_joined_to_tracks_with_their_mean_score():
    content = cocovid()
    results = [
        {"image_id": each["image_id"], "track_id": each["instance_id"], "category_id": each["category_id"]}
        | {"segmentation": each["segmentation"], "score": 0.2 if each["image_id"] == 1 else 0.6}
        for each in content["annotations"]
    ]
    truth = GroundTruth(content)
    entries, (note,) = as_tracks(truth, results)
    assert [round(entry["score"], 6) for entry in entries] == [0.4, 0.4, 0.6]
    assert "5 entries of single frames are 3 tracks" in note
    assert average_precision(content, results).summary()["AP"] == 1
    with pytest.raises(BadConfig, match="has no images: give the CocoVID labels"):
        average_precision(LABELS, results)
    with pytest.raises(BadConfig, match=r"results\[0\]: expected an image of .* got image_id 99"):
        average_precision(content, [results[0] | {"image_id": 99}])
    with pytest.raises(BadConfig, match=r"results\[1\]: track 41 of video 5 has two masks in image 1"):
        average_precision(content, results[:1] * 2)


RELATIVES = {
    "YouTube-VOS": {"videos": {"a": {"objects": {"1": {"category": "cat", "frames": ["00000"]}}}}},
    "meta_expressions.json": {"videos": {"a": {"expressions": {"0": {"exp": "a cat"}}, "frames": ["00000"]}}},
    "DAVIS": {"bear": {"1": "bear"}, "judo": {"1": "person", "2": "person"}},
    "COCO panoptic": {"images": [{"id": 1}], "annotations": [{"segments_info": [], "file_name": "a.png"}]},
    "TAO": {"videos": [{"neg_category_ids": []}], "images": [{"video_id": 1}], "tracks": [], "annotations": []},
    "BURST": {"sequences": [{"annotated_image_paths": [], "segmentations": []}], "categories": []},
    "BDD100K": [{"name": "a.jpg", "videoName": "a", "frameIndex": 0, "labels": []}],
    "SA-V": {"video_id": "sav_000001", "masklet": []},
    "LVIS": {"images": [{"id": 1, "neg_category_ids": [], "coco_url": "u"}], "annotations": [], "categories": []},
    "COCO file of single images": {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []},
    "labelme": {"shapes": [], "imagePath": "a.jpg"},
    "list of results": RESULTS,
}


@pytest.mark.parametrize(("what", "content"), RELATIVES.items(), ids=RELATIVES)
def test_a_neighbour_of_the_format_is_named_and_which_file_is_meant(what, content):
    with pytest.raises(BadConfig, match=f"{what}.*Meant are labels in the YouTube-VIS format"):
        GroundTruth(content)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        (LABELS, "these are labels: they go where the labels are named"),
        (cocovid(), "these are labels"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "these are results on single images"),
        (RELATIVES["YouTube-VOS"], "meta.json of YouTube-VOS"),
    ],
)
def test_what_is_no_results_file_is_named(results, says):
    told = str(not_results(results))
    assert re.match(f"(this is .*)?{says}", told)
    assert "Meant is a list with one entry per track" in told
    if isinstance(results, list):
        with pytest.raises(BadConfig, match=f"results: {re.escape(told)}"):
            as_tracks(GroundTruth(LABELS), results)


def test_a_set_that_is_written_again_says_the_same(tmp_path):
    assert same(as_youtube_vis(read(cocovid(), tmp_path)))


def test_a_file_in_the_one_form_comes_out_as_it_went_in():
    form = one_form(LABELS, "labels")
    assert (form.content, form.notes, form.root) == (LABELS, (), "")


def read(content: dict[str, Any], folder: Path) -> VideoSet:
    (folder / "train.json").write_text(json.dumps(content))
    return read_labels(folder / "train.json")
