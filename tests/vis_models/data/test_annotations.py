import copy
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.annotations import AnnotatedVideo, VideoSet, hold_out, read_youtube_vis, split_hash
from vis_models.data.holdout import HoldOut

pytestmark = pytest.mark.unit

BOX = np.zeros((40, 50), bool)
BOX[5:15, 10:20] = True  # rows 5..14, columns 10..19
COMPRESSED = {"size": [40, 50], "counts": masks.encode(BOX[None])[0].decode()}
RUNS = {"size": [40, 50], "counts": [405, 10, *[30, 10] * 9, 2000 - 405 - 10 - 40 * 9]}
POLYGON = [[10, 5, 20, 5, 20, 15, 10, 15]]

DOCUMENT: dict[str, Any] = {
    "videos": [{"id": 3, "height": 40, "width": 50, "length": 2, "file_names": ["v/00000.jpg", "v/00005.jpg"]}],
    "categories": [{"id": 9, "name": "seal"}, {"id": 2, "name": "ape"}],
    "annotations": [
        {
            "id": 7,
            "video_id": 3,
            "category_id": 2,
            "iscrowd": 0,
            "height": 999,  # some files say it here too, and wrongly
            "width": 999,
            "segmentations": [COMPRESSED, None],
            "bboxes": [[10, 5, 10, 10], None],
            "areas": [100, None],
        }
    ],
}


def test_a_video_set_is_what_the_file_says(tmp_path: Path):
    videos = read_youtube_vis(written(tmp_path, DOCUMENT), frames_dir=tmp_path / "frames")
    assert [(category.id, category.name) for category in videos.categories] == [(9, "seal"), (2, "ape")]
    (video,) = videos.videos
    assert (video.video_id, video.height, video.width) == (3, 40, 50)
    assert video.file_names == ("v/00000.jpg", "v/00005.jpg")
    assert video.frames_dir == tmp_path / "frames"
    (track,) = video.tracks
    assert (track.track_id, track.category_id, track.crowd) == (7, 2, False)
    assert track.rles == (COMPRESSED["counts"].encode(), None)
    assert videos.source == str(tmp_path / "set.json")


@pytest.mark.parametrize("spelling", [COMPRESSED, RUNS, POLYGON], ids=["compressed", "runs", "polygon"])
def test_every_published_spelling_of_a_mask_is_the_same_mask(tmp_path: Path, spelling: Any):
    (rle, _) = only_track(tmp_path, segmentations=[spelling, None]).rles
    assert (masks.decode(rle, 40, 50) == BOX).all()


@pytest.mark.parametrize("absent", [None, False, [], {}])
def test_what_the_reference_takes_as_absent_is_absent(tmp_path: Path, absent: Any):
    assert only_track(tmp_path, segmentations=[absent, COMPRESSED]).rles[0] is None


def test_a_file_without_length_boxes_areas_or_crowd_is_read(tmp_path: Path):
    document = copy.deepcopy(DOCUMENT)
    del document["videos"][0]["length"]
    for key in ("bboxes", "areas", "iscrowd"):
        del document["annotations"][0][key]
    assert not read_youtube_vis(written(tmp_path, document)).videos[0].tracks[0].crowd


def test_a_compressed_file_reads_like_a_plain_one(tmp_path: Path):
    packed = tmp_path / "set.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(DOCUMENT).encode()))
    assert read_youtube_vis(packed, tmp_path).videos == read_youtube_vis(written(tmp_path, DOCUMENT), tmp_path).videos


BAD = {
    "no videos": (["videos"], "DELETE", "the key 'videos'"),
    "no categories": (["categories"], "DELETE", "the key 'categories'"),
    "no file names": (["videos", 0, "file_names"], "DELETE", "'file_names'"),
    "no segmentations": (["annotations", 0, "segmentations"], "DELETE", r"annotations\[0\] \(id 7\).*'segmentations'"),
    "no category id": (["annotations", 0, "category_id"], "DELETE", "'category_id'"),
    "video twice": (["videos"], DOCUMENT["videos"] * 2, r"videos\[0\] \(id 3\): expected an id of its own"),
    "category twice": (["categories"], DOCUMENT["categories"] * 2, "an id of its own"),
    "track twice": (["annotations"], DOCUMENT["annotations"] * 2, "an id of its own"),
    "unknown video": (["annotations", 0, "video_id"], 4, "video_id: .* got 4"),
    "unknown category": (["annotations", 0, "category_id"], 1, "category_id: .* got 1"),
    "list too short": (["annotations", 0, "segmentations"], [None], "video 3: expected 2 segmentations.* got 1"),
    "list too long": (["annotations", 0, "segmentations"], [None] * 3, "got 3"),
    "boxes too short": (["annotations", 0, "bboxes"], [[1, 2, 3, 4]], "expected 2 bboxes, one per frame, got 1"),
    "areas too short": (["annotations", 0, "areas"], [1], "2 areas"),
    "length disagrees": (["videos", 0, "length"], 5, r"expected 5 file_names \(its length\), got 2"),
    "no frames": (["videos", 0, "file_names"], [], "at least one"),
    "way out": (["videos", 0, "file_names"], ["v/0.jpg", "../../secret.jpg"], "relative paths"),
    "absolute": (["videos", 0, "file_names"], ["/etc/passwd", "v/1.jpg"], "relative paths"),
    "other drive": (["videos", 0, "file_names"], ["C:\\a.jpg", "v/1.jpg"], "relative paths"),
    "no size": (["videos", 0, "width"], 0, "a size in pixels, got 0x40"),
    "category id is text": (["categories", 0, "id"], "ape", "expected numbers as ids, got 'ape'"),
    "id is true": (["categories", 0, "id"], True, "a whole number or a text, got True"),
    "no object": (["videos", 0], 5, r"videos\[0\]: expected an object, got 5"),
    "mask of another size": (
        ["annotations", 0, "segmentations", 0, "size"],
        [41, 50],
        r"\[0\] \(id 7\) of video 3, frame 0: expected null or a mask of 50x40 px, got RLE of size \[41, 50\]",
    ),
    "transposed": (["annotations", 0, "segmentations", 0, "size"], [50, 40], r"size \[50, 40\]"),
    "garbage": (["annotations", 0, "segmentations", 0, "counts"], "~~~~zz", "frame 0.* is no COCO RLE"),
    "runs too long": (["annotations", 0, "segmentations", 0, "counts"], [2000, 1], "sum to 2001, expected 2000"),
    "negative run": (["annotations", 0, "segmentations", 0, "counts"], [2010, -10], "lengths, 0 to 2000 pixels"),
    "no mask": (["annotations", 0, "segmentations", 0], "full", "frame 0"),
    "half a polygon": (["annotations", 0, "segmentations", 0], ["full"], "frame 0"),
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
        read_youtube_vis(written(tmp_path, document))
    assert str(tmp_path / "set.json") in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("cut.json", json.dumps(DOCUMENT).encode()[:300], "JSONDecodeError"),
        ("cut.json.gz", gzip.compress(json.dumps(DOCUMENT).encode())[:-20], "EOFError"),
        ("plain.json.gz", json.dumps(DOCUMENT).encode(), "BadGzipFile"),
        ("latin.json", b'{"videos": "\xe9"}', "UnicodeDecodeError"),
        ("results.json", b"[]", "got a list. A list is how results are written"),
        ("set.zip.json", b"PK\x03\x04", "this is a zip archive: unpack it"),
        ("pointer.json", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS: `git lfs pull`"),
        ("0001.txt", b"1 1001 1 375 1242 WSV:2d;1O1\n", "text format of MOTS"),
        ("annotations.xml", b"<?xml version='1.0'?>", "this is XML"),
    ],
)
def test_a_file_that_is_no_annotation_file_is_named(tmp_path: Path, name: str, content: bytes, complaint: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadConfig, match=f"{name}.*{complaint}"):
        read_youtube_vis(tmp_path / name)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"nowhere\.json: .*no such file"):
        read_youtube_vis(tmp_path / "nowhere.json")


def test_a_published_validation_file_has_no_labels_and_says_what_to_do(tmp_path: Path):
    document = {key: value for key, value in DOCUMENT.items() if key != "annotations"}
    for content in (document, {**document, "annotations": None}, {**document, "annotations": []}):
        videos = read_youtube_vis(written(tmp_path, content))
        assert len(videos.videos) == 1
        assert not videos.has_labels
        with pytest.raises(BadConfig, match="hold out a part of train"):
            videos.require_labels()
    labelled = read_youtube_vis(written(tmp_path, DOCUMENT))
    assert labelled.has_labels
    labelled.require_labels()


# ---------------------------------------------------------------------------------------------------------- frames


def test_missing_and_empty_frames_are_found_before_any_work(tmp_path: Path):
    videos = read_youtube_vis(written(tmp_path, DOCUMENT), tmp_path)
    frame_file(tmp_path / "v/00000.jpg", 50, 40)
    with pytest.raises(BadConfig, match=r"video 3: expected a frame at .*00005\.jpg.*1 of 2 frames"):
        videos.check_frames()
    (tmp_path / "v/00005.jpg").touch()
    with pytest.raises(BadConfig, match="an empty one"):
        videos.check_frames()
    frame_file(tmp_path / "v/00005.jpg", 50, 40)
    videos.check_frames()
    assert videos.videos[0].read_frame(1).shape == (40, 50, 3)


def test_a_frame_that_cannot_be_used_is_named(tmp_path: Path):
    (video,) = read_youtube_vis(written(tmp_path, DOCUMENT), tmp_path).videos
    with pytest.raises(BadConfig, match=r"00000\.jpg \(video 3, frame 0\): expected a picture"):
        video.read_frame(0)
    frame_file(tmp_path / "v/00000.jpg", 49, 40)
    with pytest.raises(BadConfig, match="expected 50x40 px, got 49x40"):
        video.read_frame(0)
    whole = frame_file(tmp_path / "v/00005.jpg", 50, 40)
    whole.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(BadConfig, match=r"00005\.jpg .*truncated"):
        video.read_frame(1)


@pytest.mark.parametrize("place", ["set/JPEGImages", "JPEGImages", "set", "."])
def test_frames_are_found_where_the_releases_keep_them(tmp_path: Path, place: str):
    frame_file(tmp_path / place / "v/00000.jpg", 50, 40)
    (video,) = read_youtube_vis(written(tmp_path, DOCUMENT)).videos
    assert video.frames_dir.resolve() == (tmp_path / place).resolve()


# -------------------------------------------------------------------------------------------------------- hold-out


def test_the_rule_of_the_paper_keeps_720p_and_holds_out_ids_from_2019():
    sizes = {1: (720, 1280), 2018: (720, 1280), 2019: (720, 1280), 2020: (1080, 1920), 2238: (720, 1280)}
    videos = VideoSet((), tuple(video(number, size) for number, size in sizes.items()))
    train, held = hold_out(videos, HoldOut(rule="rgnn"))
    assert ids(train) == [1, 2018]
    assert ids(held) == [2019, 2238]


def test_the_rule_by_hash_is_frozen_and_takes_about_its_share():
    videos = VideoSet((), tuple(video(number) for number in range(1, 1001)))
    train, held = hold_out(videos, HoldOut(share=0.1))
    assert sorted(ids(train) + ids(held)) == list(range(1, 1001))
    assert 70 < len(ids(held)) < 130
    # for n in 1..33: printf %04d $n | sha256sum | cut -c1-16   below 0.1 * 2^64 (1999999999999999)
    assert ids(held)[:7] == [4, 8, 10, 13, 14, 25, 33]
    assert set(ids(held)) < set(ids(hold_out(videos, HoldOut(share=0.3))[1]))


def test_a_video_stays_on_its_side_when_others_come_or_ids_change():
    few, many = (VideoSet((), tuple(video(n) for n in range(1, count))) for count in (100, 300))
    assert ids(hold_out(few, HoldOut())[1]) == [n for n in ids(hold_out(many, HoldOut())[1]) if n < 100]
    renumbered = VideoSet((), tuple(video(n, folder=f"{n + 40:04d}") for n in range(1, 60)))
    held = ids(hold_out(many, HoldOut())[1])
    assert [n + 40 for n in ids(hold_out(renumbered, HoldOut())[1])] == [n for n in held if 41 <= n < 100]


@pytest.mark.parametrize("below", ["{scene}/left/0.jpg {scene}/right/0.jpg", "left/{scene}/0.jpg right/{scene}/0.jpg"])
def test_no_scene_is_on_both_sides_of_a_split(below: str):
    names = [name.format(scene=f"seq{n:03d}") for n in range(60) for name in below.split()]
    videos = VideoSet((), tuple(replace(video(n), file_names=(name,)) for n, name in enumerate(names)))
    sides = [{re.findall(r"seq\d+", v.file_names[0])[0] for v in side.videos} for side in hold_out(videos, HoldOut())]
    assert not sides[0] & sides[1]
    assert sum(map(len, sides)) == 60
    assert 2 <= len(sides[1]) <= 12


def test_videos_whose_frames_lie_in_a_folder_of_one_name_are_told_apart_by_the_folders_above():
    videos = VideoSet((), tuple(video(n, folder=f"seq{n:03d}/img") for n in range(100)))
    bare = VideoSet((), tuple(video(n, folder=f"seq{n:03d}") for n in range(100)))
    assert 4 <= len(ids(hold_out(videos, HoldOut())[1])) <= 20
    assert ids(hold_out(videos, HoldOut())[1]) == ids(hold_out(bare, HoldOut())[1])


def test_videos_whose_frames_share_one_folder_are_held_out_by_their_ids():
    videos = VideoSet((), tuple(video(n, folder="frames") for n in range(100)))
    assert 4 <= len(ids(hold_out(videos, HoldOut())[1])) <= 20


def test_a_rule_that_leaves_a_side_empty_says_which_and_what_other_rules_give():
    few = VideoSet((), tuple(video(n, (96, 160)) for n in (1, 2, 4)), source="train.json")
    with pytest.raises(BadConfig, match=r"train\.json: .* rgnn leaves none to score and none to train on of 3 videos"):
        hold_out(few, HoldOut(rule="rgnn"))
    with pytest.raises(BadConfig, match=r"1280x720 only, which 0 of these are.* \(0\.1: 1, .* one here is 0\.0\d+"):
        hold_out(few, HoldOut(share=0.01))
    named = VideoSet((), (replace(video(1), video_id="clip"),), source="train.json")
    with pytest.raises(BadConfig, match="numbers, not 'clip'"):
        hold_out(named, HoldOut(rule="rgnn"))


def test_a_split_is_named_by_its_videos_and_not_by_their_order():
    first, second = VideoSet((), (video(1), video(2))), VideoSet((), (video(3),))
    turned = VideoSet((), (video(2), video(1)), source="elsewhere.json")
    assert split_hash(first, second) == split_hash(turned, second)
    assert len({split_hash(first, second), split_hash(second, first), split_hash(first), split_hash(first, first)}) == 4


# ------------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("ann_size_mismatch", r"\(id 1\) of video 1, frame 1: .* got RLE of size \[41, 50\]"),
        ("ann_wrong_length", "expected 2 segmentations, one per frame, got 1"),
        ("ann_duplicate_ids", r"annotations\[0\] \(id 1\): expected an id of its own"),
        ("ann_unknown_video", "video_id: .* got 9"),
        ("truncated", "JSONDecodeError"),
    ],
)
def test_every_crafted_bad_file_is_refused_with_its_reason(shared_data: Path, name: str, complaint: str):
    with pytest.raises(BadConfig, match=f"{name}.json.*{complaint}"):
        read_youtube_vis(shared_data / "data/real/bad/crafted/json" / f"{name}.json")


@pytest.mark.parametrize(
    ("name", "frames", "tracks", "visible"),
    [
        ("tennis/ytvis.json", 70, 1, 70),
        ("davis_judo/prompts.ytvis.json", 4, 4, 4),
        ("cutie_bike/prompts.ytvis.json", 1, 2, 2),
        ("sav_000001/auto.ytvis.json.gz", 121, 9, 952),
        ("sav_000001/manual.ytvis.json.gz", 121, 5, 480),
        ("sav_000208/gt.ytvis.json.gz", 146, 33, 4359),
    ],
)
def test_real_annotations_have_the_tracks_and_masks_of_the_index(
    shared_data: Path, name: str, frames: int, tracks: int, visible: int
):
    path = shared_data / "data/real/annotated" / name
    (video,) = read_youtube_vis(path).videos
    assert len(video.file_names) == frames
    assert len(video.tracks) == tracks
    assert sum(rle is not None for track in video.tracks for rle in track.rles) == visible
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path) as file:
        stated = {entry["id"]: entry for entry in json.load(file)["annotations"]}
    for track in video.tracks:
        for rle, area_px in zip(track.rles, stated[track.track_id]["areas"], strict=True):
            assert rle is None or coco.area({"size": [video.height, video.width], "counts": rle}) == area_px


# ------------------------------------------------------------------------------------------------------------------


def written(folder: Path, document: dict) -> Path:
    file = folder / "set.json"
    file.write_text(json.dumps(document))
    return file


def only_track(folder: Path, **changes: Any) -> Any:
    document = copy.deepcopy(DOCUMENT)
    document["annotations"][0] |= changes
    return read_youtube_vis(written(folder, document)).videos[0].tracks[0]


def frame_file(file: Path, width: int, height: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(file)
    return file


def video(number: int, size: tuple[int, int] = (720, 1280), folder: str = "") -> AnnotatedVideo:
    return AnnotatedVideo(number, *size, (f"{folder or f'{number:04d}'}/00000.jpg",), Path("frames"), ())


def ids(videos: VideoSet) -> list[int]:
    return [video.video_id for video in videos.videos]


def test_training_sees_a_frame_as_an_archive_does_upright_and_with_all_its_bits(tmp_path):
    deep, turned = np.zeros((4, 6), np.uint16), np.zeros((4, 6, 3), np.uint8)
    deep[0, 0], turned[0, 0] = 61430, 255
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(turned).save(tmp_path / "turned.png", exif=exif)
    frames = {"deep.png": (4, 6), "turned.png": (6, 4)}
    seen = {
        name: AnnotatedVideo(1, *size, (name,), frames_dir=tmp_path, tracks=()).read_frame(0)
        for name, size in frames.items()
    }
    assert seen["deep.png"][0, 0].tolist() == [239] * 3  # of 65535
    assert seen["turned.png"].shape == (6, 4, 3)
    assert seen["turned.png"][0, 3].tolist() == [255] * 3
    stored = AnnotatedVideo(1, 4, 6, ("turned.png",), frames_dir=tmp_path, tracks=()).read_frame(0)
    assert stored[0, 0].tolist() == [255] * 3  # its labels were drawn on the picture as it is stored
