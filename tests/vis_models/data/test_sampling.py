"""What a training sample is for each paper: which frames, drawn how, and the same wherever it is asked for."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from jobs.training.recipes.base import Stage
from vis_models.config import BadConfig
from vis_models.data.annotations import VideoSet, read_youtube_vis
from vis_models.data.augmentation import Augmentation
from vis_models.data.clips import ClipSet, collate, draw_sizes
from vis_models.data.mixture import Mixture
from vis_models.data.sampling import Consecutive, KeyWithReferences, Pair, PseudoPair, Sampling, Single
from vis_models.data.world import WorldConfig, write_youtube_vis

pytestmark = pytest.mark.unit
KINDS = (
    Consecutive(frames=3),
    Single(),
    Pair(),
    Pair(window=2, direction="before", itself=True, reference_shows=True),
    PseudoPair(),
    KeyWithReferences(window=2),
)
every_kind = pytest.mark.parametrize("sampling", KINDS, ids=lambda kind: kind.kind)


def draws(sampling: Sampling, shows: list[int], count: int = 2000) -> Counter:
    rng, seen = np.random.default_rng(0), np.array(shows, dtype=bool)
    return Counter(tuple(sampling.draw(seen, rng)) for _ in range(count))


def test_a_clip_begins_anywhere_as_often_as_anywhere_else():
    found = draws(Consecutive(frames=3), [1] * 6)
    assert set(found) == {(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5)}
    assert min(found.values()) > 400


@pytest.mark.parametrize(("direction", "allowed"), [("both", {-2, -1, 1, 2}), ("before", {-2, -1}), ("after", {1, 2})])
def test_a_pair_has_a_key_that_shows_an_object_and_a_reference_within_the_window(direction: str, allowed: set[int]):
    shows = [0, 1, 1, 0, 1, 1, 1, 0]
    found = draws(Pair(window=2, direction=direction), shows)
    assert {key for key, _ in found} == {1, 2, 4, 5, 6}
    assert {reference - key for key, reference in found} == allowed
    assert all(0 <= reference < len(shows) for _, reference in found)


def test_without_a_window_any_other_frame_is_a_reference_and_each_as_often():
    found = draws(Pair(), [1, 0, 0, 0])
    assert set(found) == {(0, 1), (0, 2), (0, 3)}
    assert max(found.values()) < 1.2 * min(found.values())


def test_a_key_without_a_reference_on_its_side_is_never_drawn():
    assert {key for key, _ in draws(Pair(direction="before"), [1, 1, 1])} == {1, 2}
    assert not Pair(direction="before").fits(np.array([True, False, False]))
    assert not Pair().fits(np.array([True]))
    assert not Pair().fits(np.array([False, False]))


def test_a_key_may_be_its_own_reference_where_that_is_allowed_and_as_often_as_any_other():
    found = draws(Pair(window=1, itself=True), [0, 1, 0, 0])
    assert set(found) == {(1, 0), (1, 1), (1, 2)}
    assert max(found.values()) < 1.2 * min(found.values())
    assert set(draws(Pair(direction="before", itself=True), [1, 1])) == {(0, 0), (1, 0), (1, 1)}
    assert Pair(itself=True).fits(np.array([True]))


def test_a_reference_must_show_an_object_where_the_model_is_given_its_objects():
    assert set(draws(Pair(reference_shows=True), [1, 0, 1, 0])) == {(0, 2), (2, 0)}
    assert not Pair(reference_shows=True).fits(np.array([True, False, False]))
    assert not Pair(reference_shows=True, window=1).fits(np.array([True, False, True]))


def test_an_image_is_any_frame_that_shows_an_object():
    found = draws(Single(), [0, 1, 0, 1])
    assert set(found) == {(1,), (3,)}
    assert max(found.values()) < 1.2 * min(found.values())
    assert not Single().fits(np.array([False, False]))


def test_a_key_has_references_on_both_sides_in_order_of_time_and_never_one_twice():
    shows = [1, 1, 0, 1, 0, 1, 1, 1]
    found = draws(KeyWithReferences(each_side=2, window=3), shows)
    assert {sample[0] for sample in found} == {3, 5}  # 1 has one frame before it, 6 one after it
    of_three = {sample[1:] for sample in found if sample[0] == 3}
    assert of_three == {(*a, *b) for a in ((0, 1), (0, 2), (1, 2)) for b in ((4, 5), (4, 6), (5, 6))}
    assert all(len(sample) == KeyWithReferences(each_side=2).length for sample in found)
    assert not KeyWithReferences().fits(np.array([True, False, True]))
    assert KeyWithReferences().fits(np.array([False, True, False]))
    with pytest.raises(ValidationError, match="a window of 1 frames has no room for 2 references"):
        KeyWithReferences(each_side=2, window=1)


def test_a_crowd_alone_makes_no_key(videos: VideoSet):
    video = videos.videos[0]
    crowds = replace(video, tracks=tuple(replace(track, crowd=True) for track in video.tracks))
    image = replace(crowds, file_names=crowds.file_names[:1], tracks=tuple(
        replace(track, rles=tuple(track.rles)[:1]) for track in crowds.tracks))  # fmt: skip
    for crowd in (crowds, image):
        assert of(replace(videos, videos=(crowd, video)), Single()).usable == [video]


def test_a_pseudo_pair_is_one_frame_twice():
    assert set(draws(PseudoPair(), [0, 1, 0, 1])) == {(1, 1), (3, 3)}
    assert PseudoPair().fits(np.array([True]))
    assert not PseudoPair().fits(np.array([False]))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    folder = tmp_path_factory.mktemp("world")
    write_youtube_vis(WorldConfig(height=48, width=72, frames=5), folder, 4, 1)
    return read_youtube_vis(folder / "train.json")


def of(videos: VideoSet, sampling: Sampling, **augmentation) -> ClipSet:
    return ClipSet(videos, sampling, (48, 72), Augmentation(**augmentation), seed=3)


@every_kind
def test_a_sample_depends_on_seed_and_number_alone(videos: VideoSet, sampling: Sampling):
    first, again = of(videos, sampling), of(videos, sampling)
    mixture, mixed = (Mixture((one, one), (0.5, 0.5), 6, seed=1) for one in (first, again))
    for samples, others in ((first, again), (mixture, mixed)):
        forwards = [samples[n] for n in range(7)]
        backwards = [others[n] for n in reversed(range(7))][::-1]
        assert all(torch.equal(a.frames, b.frames) for a, b in zip(forwards, backwards, strict=True))
        assert forwards[0].frames.shape[:2] == (1, sampling.length)
        both = collate([forwards[0], forwards[1]])
        assert both.frames.shape[0] == 2
    other = replace(first, seed=4)
    assert any(not torch.equal(first[n].frames, other[n].frames) for n in range(4))


def test_the_frames_of_a_pair_are_changed_alike_and_those_of_a_pseudo_pair_each_in_its_own_way(videos: VideoSet):
    flips = {"horizontal_flip": 0.5, "scale": (0.8, 1.2)}
    pairs, twins = of(videos, Pair(), **flips), of(videos, PseudoPair(), **flips)
    same = [torch.equal(twins[n].frames[0, 0], twins[n].frames[0, 1]) for n in range(12)]
    assert not any(same)
    shapes = [twins[n].objects.masks[0].flatten(1).sum(1).tolist() for n in range(12)]
    assert any(first != second for first, second in shapes)
    for n in range(6):  # the ground stands still, so what both frames show of it is the same
        key, reference = pairs[n].frames[0].float()
        assert ((key - reference).abs().amax(0) < 40).float().mean() > 0.4


@every_kind
def test_boxes_are_those_of_the_masks_after_every_change(videos: VideoSet, sampling: Sampling):
    samples = of(videos, sampling, scale=(0.7, 1.4), horizontal_flip=0.5, vertical_flip=0.5)
    for n in range(6):
        objects = samples[n].objects
        for mask, box, visible in zip(
            objects.masks[0].flatten(0, 1), objects.boxes_px[0].flatten(0, 1), objects.visible[0].flatten(), strict=True
        ):
            assert bool(visible) == bool(mask.any())
            if visible:
                ys, xs = mask.nonzero().T
                assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Consecutive(frames=6), "no video has the 6 frames that a clip needs"),
        (Pair(window=1, direction="after"), "a frame with an object and another one after it, at most 1 away"),
        (Pair(reference_shows=True), "a frame with an object and another one with an object, as a pair needs"),
        (KeyWithReferences(window=3), "a frame with an object and 1 before and after it, at most 3 away"),
        (Single(), "no video has a frame with an object, as an image needs"),
        (PseudoPair(), "no video has a frame with an object"),
    ],
)
def test_a_data_set_without_such_a_sample_is_refused_with_what_it_lacks(
    videos: VideoSet, sampling: Sampling, said: str, tmp_path: Path
):
    first = videos.videos[0]
    keep = slice(0, 1) if isinstance(sampling, Pair | KeyWithReferences) else slice(None)
    tracks = tuple(replace(track, rles=tuple(track.rles)[keep]) for track in first.tracks)
    if isinstance(sampling, PseudoPair | Single):
        tracks = tuple(replace(track, rles=(None,) * len(track.rles)) for track in tracks)
    short = replace(first, file_names=first.file_names[keep], tracks=tracks)
    with pytest.raises(BadConfig, match=said):
        of(replace(videos, videos=(short,)), sampling)


def test_a_stage_says_what_a_sample_is_in_one_way_only():
    base = {"name": "s", "iterations": 1, "batch_size": 1, "learning_rate": 1.0}
    assert Stage(**base, clip_length=4).samples == Consecutive(frames=4)
    assert Stage.model_validate(base | {"sampling": {"kind": "pair", "window": 3}}).samples == Pair(window=3)
    with pytest.raises(
        ValidationError, match="a sample is a pair \\(sampling\\) or a clip \\(clip_length\\), not both"
    ):
        Stage(**base, clip_length=4, sampling=Pair())
    with pytest.raises(ValidationError, match="cached_copies are for clips, no pseudo_pair"):
        Stage(**base, cached_copies=1, sampling=PseudoPair())
    with pytest.raises(ValidationError, match="'triple'"):
        TypeAdapter(Sampling).validate_python({"kind": "triple"})


# ---- sizes that are drawn ----------------------------------------------------------------------------------------


def sized(videos: VideoSet, sampling: Sampling, **augmentation) -> ClipSet:
    return ClipSet(videos, sampling, None, Augmentation(**{"horizontal_flip": 0.0} | augmentation), seed=3)


def test_the_shorter_side_is_drawn_the_longer_one_follows_and_all_frames_of_a_sample_have_one_size(videos: VideoSet):
    samples = sized(videos, Pair(), shorter_px=(24, 48, 96), longer_most_px=120)
    shapes = Counter(tuple(samples[n].frames.shape[-2:]) for n in range(40))
    assert set(shapes) == {(24, 36), (48, 72), (80, 120)}  # of 48x72; 96x144 would be too long
    for n in range(5):
        height, width = samples[n].frames.shape[-2:]
        assert samples[n].sizes_px.tolist() == [[[height, width]] * 2]


def test_a_part_is_cut_out_of_each_frame_at_a_place_of_its_own_and_masks_go_with_it(videos: VideoSet):
    samples = sized(videos, Pair(window=1), shorter_px=(40,), crop_px=(20, 40), crop=1.0)
    apart = 0
    for n in range(30):
        first, second = draw_sizes(np.random.default_rng(n), samples.augmentation, (48, 72), 2)
        assert replace(first, corner=second.corner) == second
        assert all(-room <= at <= 0 for at, room in zip(
            first.corner, np.subtract(first.scaled, first.target), strict=True))  # fmt: skip
        apart += first.corner != second.corner
    assert apart > 25
    for n in range(12):
        clip = samples[n]
        height, width = clip.frames.shape[-2:]
        assert min(height, width) == 40
        for mask, box, visible in zip(clip.objects.masks[0].flatten(0, 1), clip.objects.boxes_px[0].flatten(0, 1),
                                      clip.objects.visible[0].flatten(), strict=True):  # fmt: skip
            assert mask.shape == (height, width)
            if visible:
                ys, xs = mask.nonzero().T
                assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_a_batch_of_several_sizes_is_padded_right_and_bottom_and_says_what_of_it_is_picture(videos: VideoSet):
    samples = sized(videos, PseudoPair(), shorter_px=(24, 50))
    clips = [samples[n] for n in range(6)]
    batch = collate(clips)
    assert [side % 32 for side in batch.frames.shape[-2:]] == [0, 0]
    assert batch.objects.masks.shape[-2:] == batch.frames.shape[-2:]
    assert len({tuple(size) for size in batch.sizes_px.flatten(0, 1).tolist()}) > 1
    for row, clip in enumerate(clips):
        for frame in range(2):
            height, width = batch.sizes_px[row, frame].tolist()
            own = clip.frames[0, frame, :, :height, :width]
            assert torch.equal(batch.frames[row, frame, :, :height, :width], own)
            assert not batch.frames[row, frame, :, height:].any()
            assert not batch.frames[row, frame, :, :, width:].any()
            slots = clip.objects.labels.shape[1]
            assert torch.equal(batch.objects.masks[row, frame, :slots, :height, :width],
                               clip.objects.masks[0, frame, :, :height, :width])  # fmt: skip
            assert torch.equal(batch.objects.boxes_px[row, frame, :slots], clip.objects.boxes_px[0, frame])


def test_a_batch_of_one_drawn_size_is_padded_as_one_of_several(videos: VideoSet):
    samples = sized(videos, Pair(), shorter_px=(40,))
    batch = collate([samples[0], samples[1]])
    assert batch.frames.shape[-2:] == (64, 64)
    assert batch.sizes_px.tolist() == [[[40, 60]] * 2] * 2
    assert torch.equal(batch.frames[1, :, :, :40, :60], samples[1].frames[0])
    assert not batch.frames[..., 40:, :].any()
    assert not batch.frames[..., 60:].any()


def test_a_model_of_one_size_gets_that_size_whatever_it_is_a_multiple_of(videos: VideoSet):
    samples = ClipSet(videos, Pair(), (50, 70), Augmentation(), seed=3)
    batch = collate([samples[0], samples[1]])
    assert batch.frames.shape[-2:] == (50, 70)
    assert batch.sizes_px is None


@every_kind
def test_two_workers_see_the_pictures_that_one_sees_however_each_pads_its_part(videos: VideoSet, sampling: Sampling):
    one = sized(videos, sampling, shorter_px=(24, 40, 50), crop_px=(20, 40))
    mixture = Mixture((one, sized(videos, sampling, shorter_px=(30,))), (0.5, 0.5), 6, seed=1)
    for samples in (one, mixture):
        whole = collate([samples[n] for n in range(4)])
        parts = [collate([samples[n] for n in rows]) for rows in ((2, 3), (0, 1))][::-1]
        assert torch.equal(whole.sizes_px, torch.cat([part.sizes_px for part in parts]))
        for row in range(4):
            part = parts[row // 2]
            slots = part.objects.labels.shape[1]
            for frame, (height, width) in enumerate(whole.sizes_px[row].tolist()):
                picture = (row % 2, frame, ..., slice(height), slice(width))
                assert torch.equal(whole.frames[row, frame, :, :height, :width], part.frames[picture])
                assert torch.equal(whole.objects.masks[row, frame, :slots, :height, :width],
                                   part.objects.masks[picture][: whole.objects.labels.shape[1]])  # fmt: skip


def test_sizes_are_drawn_or_given_and_never_left_open(videos: VideoSet):
    with pytest.raises(BadConfig, match="the model takes frames of any size: say which"):
        ClipSet(videos, Pair(), None, Augmentation(), seed=0)
    with pytest.raises(BadConfig, match=r"the model takes frames of 48x72 px .* leave shorter_px empty"):
        ClipSet(videos, Pair(), (48, 72), Augmentation(shorter_px=(30,)), seed=0)
    with pytest.raises(ValidationError, match="set shorter_px, too"):
        Augmentation(crop_px=(20, 40))
    with pytest.raises(ValidationError, match="expected a least and a largest side"):
        Augmentation(shorter_px=(30,), crop_px=(40, 20))
