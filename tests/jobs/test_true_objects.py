import pytest

from jobs.segmentation.true_objects import TrueObjects
from vis_models.metrics.youtube_vis import GroundTruth

pytestmark = pytest.mark.unit


def test_objects_are_found_by_the_text_of_a_video_s_id_and_have_the_class_of_the_model_by_name(labelled_lake):
    labels = labelled_lake.labels()
    for key, part in (("videos", "id"), ("annotations", "video_id")):
        labels[key] = [entry | {part: f"clip {entry[part]}"} for entry in labels[key]]
    given = TrueObjects(GroundTruth(labels), ["ring", "Disc", "square"])  # the labels list square, then disc
    objects = given.of([("clip 2", 0), ("clip 4", 5)], (24, 32))
    assert objects.labels.tolist() == [[2, 1], [2, -1]]
    assert objects.visible[:, 0].tolist() == [[True, True], [True, False]]
