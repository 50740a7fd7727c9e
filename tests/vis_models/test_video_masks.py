import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco

from vis_models.layers.resize import resize_parts
from vis_models.layers.video_masks import video_masks

pytestmark = pytest.mark.unit

BACKGROUND = 10.0
SIZES = [(20, 31), (96, 160), (128, 210), (220, 128), (129, 200), (151, 283), (231, 130)]


def slow_masks(logits: torch.Tensor, size: tuple[int, int], background: float, exclusive: bool = True) -> torch.Tensor:
    """Every pixel of the frame: the first of the largest among background and tracks."""
    whole = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    if not exclusive:
        return whole > background
    winner = torch.cat([torch.full_like(whole[:1], background), whole]).argmax(0)
    return winner == torch.arange(1, len(whole) + 1, device=whole.device)[:, None, None]


def blobs(tracks: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Cones of any place and size, some of them over each other or half outside, on a rough ground."""
    g = torch.Generator().manual_seed(seed)
    x, y, radius = (
        torch.rand(3, tracks, 1, 1, generator=g) * torch.tensor([width, height, 0.4 * height])[:, None, None, None]
    )
    distance = ((torch.arange(width) - x) ** 2 + (torch.arange(height)[:, None] - y) ** 2).sqrt()
    return BACKGROUND + 3 * (radius - distance) + torch.randn(tracks, height, width, generator=g)


def kinds_of_logits() -> dict[str, torch.Tensor]:
    noise = BACKGROUND + 5 * torch.randn(4, 24, 40, generator=torch.Generator().manual_seed(1))
    nearly = torch.full((4, 17, 29), BACKGROUND)
    nearly[1] = torch.nextafter(nearly[1], torch.tensor(99.0))
    nearly[2] = torch.nextafter(nearly[2], torch.tensor(-99.0))
    border = torch.full((4, 12, 20), -20.0)
    border[0, 0], border[1, -1], border[2, :, 0], border[3, :, -1] = 20.0, 20.0, 20.0, 20.0
    point = torch.full((2, 12, 20), -20.0)
    point[0, 3, 4], point[1, 11, 19] = 200.0, 10.001
    return {
        "objects": blobs(6, 24, 40),
        "noise": noise,
        "ties": noise.round()[[0, 1, 0, 1]],
        "equal to the background or a bit off": nearly,
        "along the border": border,
        "single points": point,
        "nothing": torch.full((2, 24, 40), -20.0),
        "everything": torch.full((2, 24, 40), 20.0),
        "one point high": blobs(5, 1, 40),
        "one point wide": blobs(5, 24, 1),
        "finer than the video": blobs(2, 300, 500),
    }


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("kind", kinds_of_logits())
def test_masks_are_those_of_the_whole_frame_to_the_last_bit(kind: str, exclusive: bool):
    compare_masks(kind, exclusive, "cpu")


def compare_masks(kind: str, exclusive: bool, device: str) -> None:
    logits = kinds_of_logits()[kind].to(device)
    for size in SIZES:
        (found,) = video_masks(logits, [len(logits)], [size], BACKGROUND, exclusive)
        expected = slow_masks(logits, size, BACKGROUND, exclusive).cpu()
        assert torch.equal(found.whole(), expected), size
        column_major = expected.permute(1, 2, 0).to(torch.uint8).numpy().copy(order="F")
        assert found.rles() == [rle["counts"] for rle in coco.encode(column_major)]
        assert found.areas_px() == expected.sum((1, 2)).tolist()


def test_of_equals_the_first_track_owns_the_pixel_and_none_owns_what_equals_the_background():
    logits = torch.tensor([[[11.0, 30.0, 9.0, 10.0, 12.0]], [[12.0, 20.0, 9.5, 10.0, 12.0]]])
    (found,) = video_masks(logits, [2], [(1, 5)], BACKGROUND)
    assert found.whole().int().tolist() == [[[0, 1, 0, 0, 1]], [[1, 0, 0, 0, 0]]]


def test_a_logit_that_is_no_number_owns_nothing():
    logits = torch.full((2, 12, 20), 20.0)
    logits[0] = torch.nan
    (found,) = video_masks(logits, [2], [(200, 300)], BACKGROUND)
    assert found.areas_px() == [0, 200 * 300]


def test_a_frame_without_tracks_has_no_masks():
    (found,) = video_masks(torch.zeros(0, 24, 40), [0], [(200, 300)], BACKGROUND)
    assert found.whole().shape == (0, 200, 300)
    assert found.rles() == []


def test_videos_of_many_sizes_side_by_side_get_what_each_gets_alone():
    logits, counts = blobs(13, 24, 40), [4, 0, 5, 1, 2, 1, 0]
    together = video_masks(logits, counts, SIZES, BACKGROUND)
    assert [len(masks) for masks in together] == counts
    for masks, own, size in zip(together, logits.split(counts), SIZES, strict=True):
        assert masks.size_px == size
        assert not len(own) or torch.equal(masks.whole(), slow_masks(own, size, BACKGROUND))


def test_of_a_large_frame_only_the_places_of_objects_are_kept():
    logits = torch.full((2, 24, 40), -20.0)
    logits[0, 10:14, 10:14] = 20.0
    (found,) = video_masks(logits, [2], [(720, 1280)], BACKGROUND)
    assert found.parts[0].shape == (5 * 30 + 3, 5 * 32 + 3)  # half a point on each side, and what may be rounded
    assert found.parts[1].numel() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_tracks_and_threads_changes_nothing_either(threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for tracks in range(1, 6):
            logits = torch.full((tracks, 17, 29), torch.tensor(BACKGROUND).nextafter(torch.tensor(99.0)).item())
            logits[:, ::2] = BACKGROUND
            (found,) = video_masks(logits, [tracks], [(151, 283)], BACKGROUND)
            assert torch.equal(found.whole(), slow_masks(logits, (151, 283), BACKGROUND)), tracks
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("points", [(1, 9), (7, 12), (48, 80), (138, 140), (300, 200)])
def test_a_part_of_a_resized_map_is_cut_from_the_whole(points: tuple[int, int]):
    compare_parts(points, "cpu")


def compare_parts(points: tuple[int, int], device: str) -> None:
    g = torch.Generator().manual_seed(0)
    logits = (100 * torch.randn(5, *points, generator=g)).to(device)
    for height, width in [*SIZES, (720, 1280)]:
        whole = F.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        corners = torch.rand(5, 2, 2, generator=g).sort(1).values * torch.tensor([width + 1, height + 1])
        places = [(*first, *last) for first, last in corners.int().tolist()]
        places[0], places[1] = (0, 0, width, height), (width - 1, 0, width, height)
        for part, map_, (x0, y0, x1, y1) in zip(
            resize_parts(logits, (height, width), places), whole, places, strict=True
        ):
            assert torch.equal(part, map_[y0:y1, x0:x1]), (height, width)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_too():
    for kind in kinds_of_logits():
        for exclusive in (True, False):
            compare_masks(kind, exclusive, "cuda")
    for points in ((1, 9), (48, 80), (300, 200)):
        compare_parts(points, "cuda")
