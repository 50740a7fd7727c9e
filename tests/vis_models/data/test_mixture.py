import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vis_models.config import BadConfig
from vis_models.data.annotations import VideoSet, read_youtube_vis
from vis_models.data.augmentation import Augmentation
from vis_models.data.clips import ClipSet, collate
from vis_models.data.coco import read_coco, translate
from vis_models.data.mixture import Mixture, draw_epoch
from vis_models.data.sampling import Consecutive
from vis_models.data.world import CATEGORIES, WorldConfig, write_youtube_vis

pytestmark = pytest.mark.unit

PAPER = {"counts": (1867, 237272), "chances": (0.25, 0.75), "samples": 7468}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoSet, VideoSet]:
    """Four drawn videos, and nine grey images of other sizes with one white star each."""
    folder = tmp_path_factory.mktemp("sets")
    write_youtube_vis(WorldConfig(height=48, width=72, frames=3), folder / "world", 4, 1)
    videos = read_youtube_vis(folder / "world" / "train.json")
    sizes = [(40 + 6 * n, 60) for n in range(9)]
    document = {
        "images": [
            {"id": n, "height": h, "width": w, "file_name": f"{n}.png"} for n, (h, w) in enumerate(sizes, start=10)
        ],
        "categories": [{"id": 77, "name": "Star"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 77, "segmentation": [[20, 10, 40, 10, 40, 30, 20, 30]]}
            for n in range(10, 19)
        ],
    }
    for n, (height, width) in enumerate(sizes, start=10):
        picture = np.full((height, width, 3), 90, np.uint8)
        picture[10:30, 20:40] = 255
        Image.fromarray(picture).save(folder / f"{n}.png")
    (folder / "stars.json").write_text(json.dumps(document))
    images, dropped = translate(read_coco(folder / "stars.json"), videos.categories)
    assert not dropped
    return videos, images


def mixture(sets: tuple[VideoSet, VideoSet], epoch: int = 8, seed: int = 3) -> Mixture:
    augmentation = Augmentation(fit=(96, 144), scale=(0.475, 1.0))
    clips = tuple(ClipSet(part, Consecutive(), (64, 96), augmentation, seed) for part in sets)
    return Mixture(clips, (0.25, 0.75), epoch, seed)


def test_no_sample_comes_twice_within_an_epoch():
    for epoch in range(3):
        assert len(set(draw_epoch(0, epoch, **PAPER).tolist())) == 7468


def test_the_first_sample_comes_from_the_second_set_with_the_chosen_chance():
    first = [draw_epoch(0, epoch, (4, 9), (0.25, 0.75), 1)[0] >= 4 for epoch in range(4000)]
    assert np.mean(first) == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)


def test_the_second_sample_comes_from_what_is_left_in_proportion_to_its_weight():
    """Sets of 2 and 3 samples that weigh 1/4 and 1/6: with two of the second gone, 1/6 is left against 1/2."""
    pairs = Counter(tuple(draw_epoch(1, epoch, (2, 3), (0.5, 0.5), 3) >= 2) for epoch in range(20000))
    started_with_two = pairs[True, True, True] + pairs[True, True, False]
    expected = (1 / 6) / (1 / 6 + 1 / 2)
    error = (expected * (1 - expected) / started_with_two) ** 0.5
    assert pairs[True, True, True] / started_with_two == pytest.approx(expected, abs=4 * error)


def test_an_epoch_of_the_paper_visits_two_thirds_of_its_videos():
    """The chance of the small set falls while it runs out. At time t of the race 1867 (1 - exp(-t / 7468)) videos and
    237272 (1 - exp(-0.75 t / 237272)) images have arrived; the epoch is over when both together are 7468."""
    times = np.linspace(0, 20000, 2_000_001)
    videos = 1867 * -np.expm1(-0.25 * times / 1867)
    images = 237272 * -np.expm1(-0.75 * times / 237272)
    expected = videos[np.searchsorted(videos + images, 7468)]
    drawn = [(draw_epoch(2, epoch, **PAPER) < 1867).sum() for epoch in range(10)]
    assert np.mean(drawn) == pytest.approx(expected, abs=20)
    assert expected / 1867 == pytest.approx(2 / 3, abs=0.02)
    quarters = [(draw_epoch(2, epoch, **PAPER).reshape(4, -1) < 1867).mean(1) for epoch in range(10)]
    assert (np.diff(np.mean(quarters, 0)) < 0).all()


def test_every_epoch_draws_anew_and_begins_with_all_samples(sets: tuple[VideoSet, VideoSet]):
    whole = mixture(sets, epoch=13)
    epochs = [[whole.place(n) for n in range(start, start + 13)] for start in (0, 13)]
    everything = [(0, video) for video in range(4)] + [(1, image) for image in range(9)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1]


def test_sample_n_is_the_same_whatever_was_asked_before(sets: tuple[VideoSet, VideoSet]):
    a, b = mixture(sets), mixture(sets)
    for n in range(12):
        a[n]
    draw_epoch.cache_clear()
    assert torch.equal(a[17].frames, b[17].frames)
    assert torch.equal(a[17].objects.masks, b[17].objects.masks)


def test_loader_processes_change_nothing(sets: tuple[VideoSet, VideoSet]):
    whole = mixture(sets)
    batches = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    one, two = (
        list(
            DataLoader(
                whole,
                batch_sampler=batches,
                collate_fn=collate,
                num_workers=processes,
                multiprocessing_context="forkserver" if processes else None,
            )
        )  # type: ignore[arg-type]
        for processes in (0, 2)
    )
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.objects.boxes_px, b.objects.boxes_px)


def test_images_of_any_size_fit_into_one_batch_with_the_classes_of_the_videos(sets: tuple[VideoSet, VideoSet]):
    whole = mixture(sets)
    stars = [n for n in range(40) if whole.place(n)[0] == 1]
    batch = collate([whole[n] for n in stars])
    assert batch.frames.shape[1:] == (1, 3, 64, 96)
    assert set(batch.objects.labels.unique().tolist()) == {CATEGORIES.index("star")}
    bright = (batch.frames > 150).all(2)
    seen = batch.objects.visible[:, 0, 0]
    assert seen.float().mean() > 0.7  # the others lost their centre to the crop
    assert (bright[seen, 0] != batch.objects.masks[seen, 0, 0]).float().mean() < 0.01


def test_an_epoch_longer_than_the_sets_is_refused(sets: tuple[VideoSet, VideoSet]):
    with pytest.raises(BadConfig, match=r"an epoch of 14 samples .* only 4 \+ 9 videos and images"):
        mixture(sets, epoch=14)
