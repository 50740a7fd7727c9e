"""Names of frames as Windows, mmtracking and others write them."""

import pytest

from vis_models.data.frame_names import below, places, plain, shared_root, stays_inside


@pytest.mark.parametrize(
    "written", ["a/0.jpg", r"a\0.jpg", "./a/0.jpg", "JPEGImages/a/0.jpg", r"train\JPEGImages\a\0.jpg", "a//0.jpg"]
)
def test_a_frame_has_one_name_whoever_wrote_it(written):
    assert below(written, shared_root([written])) == "a/0.jpg"


def test_what_only_some_names_begin_with_is_part_of_the_names():
    mixed = ["train/JPEGImages/a/0.jpg", "valid/JPEGImages/a/0.jpg"]
    assert shared_root(mixed) == ""
    assert [below(name, "") for name in mixed] == mixed  # else two videos would be one


def test_frames_are_looked_for_where_their_names_say_too():
    assert places("/d/train.json") == ["/d/train/JPEGImages", "/d/JPEGImages", "/d/train", "/d"]
    assert "/d/valid/JPEGImages" in places("/d/coco_valid.json", "valid/JPEGImages")
    assert places("train.json") == ["train/JPEGImages", "JPEGImages", "train", ""]


@pytest.mark.parametrize("name", ["../a.jpg", r"..\a.jpg", "/a.jpg", r"C:\a.jpg", "a/../../b.jpg", "", "."])
def test_a_name_that_leads_out_of_the_folder_is_seen(name):
    assert not stays_inside(name)
    assert plain(r"a\b\0.jpg") == "a/b/0.jpg"
