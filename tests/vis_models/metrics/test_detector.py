from pathlib import Path

import numpy as np
import pytest
import torch

from vis_models import masks as mask_ops
from vis_models.data.annotations import AnnotatedVideo, TrackLabel
from vis_models.metrics.detector import detected_masks, identity_oracle

pytestmark = pytest.mark.unit


def square(x: int) -> np.ndarray:
    mask = np.zeros((16, 24), dtype=bool)
    mask[4:10, x : x + 6] = True
    return mask


def video(*tracks: list[int | None]) -> AnnotatedVideo:
    labels = []
    for n, places in enumerate(tracks, start=1):
        rles = tuple(None if x is None else mask_ops.encode(square(x)[None])[0] for x in places)
        labels.append(TrackLabel(n, 1, False, rles))
    return AnnotatedVideo(7, 16, 24, tuple(f"v/{n}.jpg" for n in range(len(tracks[0]))), Path(), tuple(labels))


def frame(*places: int, classes: tuple[float, ...] = (0.9, 0.1)) -> tuple[torch.Tensor, torch.Tensor]:
    masks = np.zeros((len(places), 16, 24), dtype=bool)
    for n, x in enumerate(places):
        masks[n] = square(x)
    return torch.from_numpy(masks), torch.tensor(classes).expand(len(places), 2)


def test_an_object_keeps_its_identity_whatever_the_order_of_the_detections():
    entries = identity_oracle(video([0, 1], [12, 13]), [frame(0, 12), frame(13, 1)], [5, 6])
    assert [entry["category_id"] for entry in entries] == [5, 5]
    for entry, start in zip(entries, (0, 12), strict=True):
        for t, segment in enumerate(entry["segmentations"]):
            mask = mask_ops.decode(segment["counts"].encode(), 16, 24)
            assert np.array_equal(mask, square(start + t))


def test_an_object_that_no_detection_covers_by_half_is_missing_there():
    entries = identity_oracle(video([0, 1, None]), [frame(0), frame(8), frame(0)], [5, 6])
    assert [segment is not None for segment in entries[0]["segmentations"]] == [True, False, False]
    assert identity_oracle(video([0]), [frame()], [5, 6]) == []


def test_class_and_score_are_the_mean_of_the_detections():
    entries = identity_oracle(video([0, 0]), [frame(0, classes=(0.6, 0.4)), frame(0, classes=(0.1, 0.9))], [5, 6])
    assert entries[0]["category_id"] == 6
    assert entries[0]["score"] == pytest.approx(0.65)


def test_a_detectors_mask_ends_at_its_box():
    logits = torch.full((1, 8, 12), 5.0)
    mask = detected_masks(torch.tensor([[8.0, 4.0, 16.0, 12.0]]), logits, (16, 24), (16, 24))[0]
    assert mask[6:10, 10:14].all()
    assert not mask[:, :5].any()
    assert not mask[:, 19:].any()
