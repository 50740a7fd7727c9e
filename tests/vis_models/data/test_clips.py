from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vis_models import masks
from vis_models.config import BadConfig
from vis_models.data.annotations import AnnotatedVideo, Category, TrackLabel, VideoSet, read_youtube_vis
from vis_models.data.clips import (
    Augmentation,
    Change,
    ClipSet,
    change_frame,
    change_mask,
    collate,
    draw_change,
    load_clip,
)
from vis_models.data.encoded import EncodedClips, encode_copies
from vis_models.data.sampling import Consecutive
from vis_models.data.world import WorldConfig, write_youtube_vis
from vis_models.rgnn.model import Rgnn

from ..drawn import HEIGHT, WIDTH, small_config

pytestmark = pytest.mark.unit
SIZE = (64, 96)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_youtube_vis(WorldConfig(height=48, width=72, frames=6), folder, 6, 1)
    return read_youtube_vis(folder / "train.json")


def clip_set(videos, length=3, **augmentation) -> ClipSet:
    return ClipSet(videos, Consecutive(frames=length), SIZE, Augmentation(**augmentation), seed=3)


def test_picture_and_mask_go_the_same_way():
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:25, 20:45] = True
    frame = np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2)
    for _ in range(20):
        change = draw_change(rng, Augmentation(scale=(0.5, 1.5), vertical_flip=0.5), mask.shape, (32, 48))
        moved = change_frame(frame, change)[..., 0] > 127
        assert (moved != change_mask(mask, change)).mean() < 0.05


def test_the_scale_of_the_paper_is_that_of_720x1280_whatever_the_size_of_the_picture():
    """Section C.2: height and width together from U([342, 608], [720, 1280]), then a crop of 480x864."""
    paper = Augmentation(fit=(720, 1280), scale=(0.475, 1.0))
    rng = np.random.default_rng(0)
    for source in ((720, 1280), (360, 640), (1440, 2560)):
        sides = np.array([draw_change(rng, paper, source, (480, 864)).scaled for _ in range(2000)])
        assert sides.min(0).tolist() == pytest.approx([342, 608], abs=3)
        assert sides.max(0).tolist() == pytest.approx([720, 1280], abs=3)
        assert sides.mean(0).tolist() == pytest.approx([531, 944], abs=8)
        assert np.abs(sides[:, 1] / sides[:, 0] - 16 / 9).max() < 0.005
    upright = draw_change(rng, Augmentation(fit=(720, 1280)), (1000, 500), (480, 864))
    assert upright.scaled == (720, 360)
    assert -240 <= upright.corner[0] <= 0  # cropped at random
    assert upright.corner[1] == (864 - 360) // 2  # padded on both sides


def test_all_frames_of_a_clip_are_changed_alike(videos):
    clips = clip_set(videos, length=6, scale=(0.5, 1.0), vertical_flip=0.5)
    clip = clips[4].frames[0]
    padding = (clip == 0).all(1)
    assert padding.any()
    assert (padding == padding[0]).float().mean() > 0.999  # black inside the picture is rare


def test_a_small_picture_is_centred_on_black_and_a_flip_mirrors_it():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) + 1
    change = Change(scaled=(2, 2), corner=(1, 1), target=(4, 4), flip_x=True, channels=(2, 1, 0))
    out = change_frame(frame, change)
    assert out[1, 1].tolist() == [6, 5, 4]  # the pixel that was on the right, its channels turned round
    assert out.sum() == frame.sum()


def test_sample_n_is_the_same_whatever_was_asked_before(videos):
    a, b = clip_set(videos, swap_colours=True), clip_set(videos, swap_colours=True)
    a[0], a[5]
    assert torch.equal(a[17].frames, b[17].frames)
    assert torch.equal(a[17].objects.masks, b[17].objects.masks)


def test_every_turn_visits_each_video_once(videos):
    clips = clip_set(videos)
    seen = [tuple(clips[n].frames.flatten()[:50].tolist()) for n in range(len(clips.usable))]
    assert len(set(seen)) == len(clips.usable)


def test_boxes_fit_their_masks(videos):
    objects = clip_set(videos, scale=(0.7, 1.3))[2].objects
    for mask, box in zip(objects.masks.flatten(0, 2), objects.boxes_px.flatten(0, 2), strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
        assert box.tolist() == [float(edge) for edge in expected]


def test_an_object_whose_centre_is_cut_away_is_dropped(videos):
    video = videos.videos[0]
    nowhere = Change(scaled=(48, 72), corner=(-48, -72), target=SIZE)
    assert not load_clip(videos, video, range(2), [nowhere] * 2).objects.visible.any()


@pytest.mark.parametrize(("shift", "stays"), [(-29, True), (-30, True), (-31, False)])
def test_an_object_stays_as_long_as_the_centre_of_its_box_does(tmp_path, shift: int, stays: bool):
    """Columns 20 to 39 of the picture: the centre of the box is at 30."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "0.png")
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 20:40] = True
    track = TrackLabel(1, 1, False, (masks.encode(mask[None])[0],))
    video = AnnotatedVideo(1, 40, 60, ("0.png",), tmp_path, (track,))
    change = Change(scaled=(40, 60), corner=(0, shift), target=(40, 60))
    objects = load_clip(VideoSet((Category(id=1, name="seal"),), (video,)), video, range(1), [change]).objects
    assert objects.visible.item() == stays
    if stays:
        assert objects.boxes_px.flatten().tolist() == [0, 10, 40 + shift, 20]


def test_clips_with_fewer_objects_are_padded(videos):
    clips = clip_set(videos)
    batch = collate([clips[n] for n in range(6)])
    slots = batch.objects.labels.shape[1]
    assert slots == max(len(video.tracks) for video in clips.usable)
    padding = batch.objects.labels == -1
    assert padding.any()
    assert not (batch.objects.visible & padding[:, None]).any()


def test_clips_longer_than_every_video_are_refused(videos):
    with pytest.raises(BadConfig, match=r"no video has the 7 frames .* the longest of 6 frames"):
        clip_set(videos, length=7)


def encode(model: Rgnn, clips: ClipSet, copies: int, folder: Path, share: tuple[int, int] = (0, 1)) -> EncodedClips:
    return encode_copies(clips, copies, model.encoded, model.encode_clips, folder, share, lambda *_: None)


def test_a_cached_clip_is_a_stretch_of_what_the_model_says_about_the_video(videos, tmp_path: Path):
    model = Rgnn(small_config()).eval()
    clips = ClipSet(videos, Consecutive(frames=4), (HEIGHT, WIDTH), Augmentation(horizontal_flip=0.0), seed=0)
    cached = encode(model, clips, 1, tmp_path)
    whole = [cached.whole(n)[0] for n in range(len(cached.files))]
    encoded, objects = cached.batch(range(3))
    assert objects.visible.shape[:2] == (3, 4)
    for clip in encoded.boxes_px.unflatten(0, (3, 4)):
        found = [torch.allclose(clip, v.boxes_px[s : s + 4]) for v in whole for s in range(3)]
        assert any(found)
    video = clips.usable[0]
    unchanged = Change(scaled=(HEIGHT, WIDTH), corner=(0, 0), target=(HEIGHT, WIDTH))
    direct, _ = model.encode_clips(load_clip(videos, video, range(6), [unchanged] * 6))
    assert torch.allclose(whole[0].boxes_px, direct.boxes_px, atol=0.05)  # half precision


def test_workers_share_the_work_of_encoding_and_then_draw_what_one_alone_draws(videos, tmp_path: Path):
    model = Rgnn(small_config()).eval()
    clips = clip_set(videos, length=6, vertical_flip=0.5)
    alone = encode(model, clips, 2, tmp_path / "alone")
    written: list[set[Path]] = []
    for rank in (0, 1):
        parts = encode(model, clips, 2, tmp_path / "both", (rank, 2))
        written.append(set((tmp_path / "both").iterdir()) - set().union(*written))
    assert [len(own) for own in written] == [len(clips.usable)] * 2
    assert [file.name for file in parts.files] == [file.name for file in alone.files]
    for n in range(6):  # sample n of a run
        assert torch.equal(parts.batch([n])[0].boxes_px, alone.batch([n])[0].boxes_px)


def test_the_file_of_a_copy_has_the_name_of_its_video(videos, tmp_path: Path):
    model = Rgnn(small_config()).eval()
    clips = clip_set(videos, length=6)
    cached = encode(model, clips, 2, tmp_path)
    ids = [video.video_id for video in clips.usable]
    assert [file.stem for file in cached.files] == [f"{name}-{copy}" for copy in (0, 1) for name in ids]


def test_copies_that_were_encoded_before_are_not_encoded_again(videos, tmp_path: Path):
    model = Rgnn(small_config()).eval()
    first = encode(model, clip_set(videos, length=6), 1, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in first.files}
    first.files[0].unlink()
    again = encode(model, clip_set(videos, length=6), 1, tmp_path)
    made = [file for file in again.files if before[file] != file.stat().st_mtime_ns]
    assert made == [first.files[0]]
