import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from jobs.reporting.check import Check, CheckJob, check
from jobs.settings import Settings
from vis_models.config import BadConfig
from vis_models.data.world import WorldConfig, write_archive, write_youtube_vis


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A sound data set: three videos to train on, two for validation."""
    folder = tmp_path_factory.mktemp("drawn") / "world"
    write_youtube_vis(WorldConfig(height=48, width=80, frames=4), folder, 3, 2)
    return folder


@pytest.fixture
def data(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def looked_at(target: Path, tmp_path: Path, **more) -> Check:
    return check(CheckJob(target=str(target), **more), Settings(store=str(tmp_path / "lake")))


def said(done: Check, level: str) -> str:
    return "\n".join(str(finding) for finding in done.findings if finding.level == level)


def changed(data: Path, side: str, change) -> None:
    file = data / f"{side}.json"
    labels = json.loads(file.read_text())
    change(labels)
    file.write_text(json.dumps(labels))


def test_a_sound_data_set_has_no_error_and_its_page_shows_samples(data, tmp_path):
    done = looked_at(data, tmp_path)
    assert (done.exit_code, said(done, "error"), said(done, "warning")) == (0, "", "")
    assert done.figures["train: videos"] == "3 of 4 frames"
    assert done.figures["frames"] == "20, all their heads read, 20 of them decoded"
    page = Path(done.uri).read_text()
    assert "Nothing would stop the work" in page
    assert page.count("<image ") >= 5 * 4  # every video is a sample of four frames
    assert "http" not in page.replace("http://www.w3.org", "")


def test_labels_of_single_images_are_looked_at_as_those_of_videos_are(data, tmp_path):
    coco = tmp_path / "coco"
    coco.mkdir()
    for side in ("train", "val"):
        as_images(json.loads((data / f"{side}.json").read_text()), data / side / "JPEGImages", coco, side)
    done = looked_at(coco, tmp_path, recipe="idol_r50_coco")
    assert (done.exit_code, said(done, "error")) == (0, "")
    assert done.figures["train: videos"] == "3 of 1 frames"
    assert done.figures["train: boxes"].endswith("compared with their masks")
    assert "stage segmentation" in done.figures
    changed(coco, "val", lambda labels: labels["annotations"][0].update(bbox=[0, 0, 80, 48]))
    assert "val: boxes of 1 object lie more than 2 px from their masks" in said(looked_at(coco, tmp_path), "warning")


def as_images(labels: dict, frames: Path, folder: Path, side: str) -> None:
    """The first frame of every video as COCO has images."""
    (folder / side).mkdir()
    sizes = {video["id"]: {key: video[key] for key in ("id", "width", "height")} for video in labels["videos"]}
    for video in labels["videos"]:
        sizes[video["id"]]["file_name"] = f"{video['id']}.jpg"
        shutil.copy(frames / video["file_names"][0], folder / side / f"{video['id']}.jpg")
    objects = [
        {
            "id": track["id"],
            "image_id": track["video_id"],
            "category_id": track["category_id"],
            "segmentation": track["segmentations"][0],
            "bbox": track["bboxes"][0],
        }
        for track in labels["annotations"]
        if track["segmentations"][0]
    ]
    content = {"images": [*sizes.values()], "annotations": objects, "categories": labels["categories"]}
    (folder / f"{side}.json").write_text(json.dumps(content))


def test_where_no_label_file_can_be_read_all_are_named(data, tmp_path):
    for side in ("train", "val"):
        (data / f"{side}.json").write_text("{")
    with pytest.raises(BadConfig, match=r"(?s)/train\.json.*; .*/val\.json"):
        looked_at(data, tmp_path)


def test_frames_that_cannot_be_decoded_or_are_not_there_are_named(data, tmp_path):
    cut = data / "train/JPEGImages/000001/00002.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (data / "val/JPEGImages/000000/00001.jpg").unlink()
    done = looked_at(data, tmp_path)
    assert done.exit_code == 1
    assert "20 frames, 1 of them not to be decoded" in said(done, "error")
    assert "video 2, frame 2" in said(done, "error")
    assert "20 frames, 1 of them not there" in said(done, "error")
    assert "video 1, frame 1" in said(done, "error")


def test_swapped_width_and_height_are_called_so(data, tmp_path):
    for file in (data / "train/JPEGImages/000000").iterdir():
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file)
    assert "4 of them with width and height swapped" in said(looked_at(data, tmp_path), "error")


def test_labels_that_were_turned_are_called_so_and_do_not_hide_the_other_side(data, tmp_path):
    def turn(labels):
        for video in labels["videos"]:
            video["width"], video["height"] = video["height"], video["width"]

    changed(data, "train", turn)
    (data / "val/JPEGImages/000000/00001.jpg").unlink()
    errors = said(looked_at(data, tmp_path), "error")
    assert "width and height are swapped in one of the two" in errors
    assert "8 frames, 1 of them not there" in errors


def test_frames_of_another_size_are_named(data, tmp_path):
    Image.new("RGB", (20, 10)).save(data / "train/JPEGImages/000000/00000.jpg")
    errors = said(looked_at(data, tmp_path), "error")
    assert "1 of them of another size than the labels say" in errors
    assert "is 20x10, the labels say 80x48" in errors


def test_boxes_that_contradict_their_masks_are_counted_by_object(data, tmp_path):
    def shift(labels):
        for box in labels["annotations"][0]["bboxes"]:
            if box:
                box[0] += 9

    changed(data, "train", shift)
    done = looked_at(data, tmp_path)
    assert "train: boxes of 1 object lie more than 2 px from their masks" in said(done, "warning")
    assert done.exit_code == 0  # models do not read them


def test_an_object_that_was_labelled_twice_is_found(data, tmp_path):
    changed(data, "val", lambda labels: labels["annotations"].append(labels["annotations"][0] | {"id": 999}))
    assert "val: 1 object with the masks of another of the same video" in said(looked_at(data, tmp_path), "warning")


def test_classes_of_one_side_alone_and_other_orders_are_said(data, tmp_path):
    def rename(labels):
        labels["categories"][-1]["name"] = "unicorn"

    changed(data, "val", rename)
    done = looked_at(data, tmp_path)
    assert "1 class of val.json never learned" in said(done, "warning")
    assert "unicorn" in said(done, "warning")
    assert "1 class learned and never scored" in said(done, "note")


def test_the_other_order_of_classes_is_a_note(data, tmp_path):
    changed(data, "val", lambda labels: labels["categories"].reverse())
    assert "list their classes in another order; they are joined by name" in said(looked_at(data, tmp_path), "note")


def test_a_video_on_both_sides_is_found_by_its_frames_whatever_its_name(data, tmp_path):
    shutil.rmtree(data / "val/JPEGImages/000001")
    shutil.copytree(data / "train/JPEGImages/000002", data / "val/JPEGImages/000001")
    assert "1 video of val.json with the frames of one of train.json" in said(looked_at(data, tmp_path), "warning")


def test_clips_that_no_video_is_long_enough_for_are_an_error_of_that_recipe_alone(data, tmp_path):
    assert looked_at(data, tmp_path).exit_code == 0
    done = looked_at(data, tmp_path, recipe="rgnn_r18_world_demo")
    assert "stage tracker of rgnn_r18_world_demo takes clips of 10 frames: no video has so many" in said(done, "error")
    assert "3,600 iterations decode 28,800 frames" in done.figures["stage detector"]


def test_a_hold_out_that_leaves_nothing_is_an_error(data, tmp_path):
    assert "1280x720" in said(looked_at(data, tmp_path, recipe="rgnn_r50_ytvis2019"), "error")


def test_heads_of_all_frames_are_read_when_there_is_no_time_to_decode_them(data, tmp_path):
    (data / "train/JPEGImages/000000/00003.jpg").write_bytes(b"no picture")
    done = looked_at(data, tmp_path, seconds=1e-9)
    assert "not to be decoded" in said(done, "error")
    assert "19 frames not decoded in this time" in said(done, "note")


def test_an_archive_is_opened_and_what_would_be_errors_or_passed_over_is_said(tmp_path):
    films = tmp_path / "films"
    write_archive(WorldConfig(height=48, width=80, frames=10), films, 2)
    (films / "broken.mp4").write_bytes(b"no film at all")
    (films / "notes.docx").write_bytes(b"hello")
    done = looked_at(films, tmp_path)
    assert done.exit_code == 0
    assert done.figures["videos"] == "3, 2 open, 1 do not"
    assert done.figures["sizes"] == "2 x 80x48"
    assert "20 frames, as the headers of 2 videos say" in done.figures["footage"]
    assert "3 videos, 1 of them for the table errors: not_a_video" in said(done, "warning")
    assert "1 file of kind docx passed over" in said(done, "note")
    assert Path(done.uri).read_text().count("<image ") == 2


def test_an_archive_of_which_nothing_opens_is_an_error(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/broken.mp4").write_bytes(b"no film at all")
    assert looked_at(tmp_path / "films", tmp_path).exit_code == 1


def test_what_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(BadConfig, match="does not exist"):
        looked_at(tmp_path / "nowhere", tmp_path)
