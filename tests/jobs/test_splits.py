import pytest

from jobs.archives.archive import list_videos
from jobs.evaluation.splits import held_out
from vis_models.config import BadConfig
from vis_models.data.holdout import HoldOut, ListedVideo, split, split_name

pytestmark = pytest.mark.unit

HALF = HoldOut(share=0.5)


def test_the_held_out_part_is_an_archive_of_the_same_videos(labelled_lake):
    labels = labelled_lake.labels()
    labels["videos"] = labels["videos"][:3]  # the frames of the fourth are lost
    data = labelled_lake.write("val.json", labels)
    part = held_out(labelled_lake.store, data, HALF)
    held = {source.video_id: source for source in list_videos(part, labelled_lake.store)}
    every = {source.video_id: source for source in list_videos(data, labelled_lake.store)}
    assert held == {name: every[name] for name in ("2", "3")}
    sides = split([ListedVideo.of(video) for video in labels["videos"]], HALF)
    assert f"splits/{split_name(*sides)}-" in part
    assert "annotations" not in labelled_lake.store.read_json(part.removeprefix(f"{labelled_lake.store.root}/"))


def test_a_split_is_frozen_and_made_once(labelled_lake):
    first = held_out(labelled_lake.store, str(labelled_lake.data), HALF)
    labels = labelled_lake.labels()
    labels["annotations"], labels["videos"] = [], labels["videos"][::-1]
    assert held_out(labelled_lake.store, labelled_lake.write("val.json", labels), HALF) == first
    assert len(labelled_lake.store.list("vis/v1/splits")) == 1


def test_a_rule_that_holds_nothing_out_is_refused(labelled_lake):
    with pytest.raises(BadConfig, match="leaves none to score of 4 videos"):
        held_out(labelled_lake.store, str(labelled_lake.data), HoldOut(rule="rgnn"))
