from pathlib import Path

import pytest
import torch

from vis_models.config import BadConfig
from vis_models.data.annotations import VideoSet, read_youtube_vis
from vis_models.data.augmentation import Augmentation
from vis_models.data.clips import ClipSet
from vis_models.data.readable import in_words, unreadable_frames, without
from vis_models.data.sampling import Consecutive
from vis_models.data.world import WorldConfig, write_youtube_vis

pytestmark = pytest.mark.unit


@pytest.fixture
def videos(tmp_path: Path) -> VideoSet:
    """Three videos of 6 frames, of which the fifth of the second is cut off."""
    write_youtube_vis(WorldConfig(height=48, width=72, frames=6), tmp_path, 3, 1)
    videos = read_youtube_vis(tmp_path / "train.json")
    file = frame(videos, 1, 4)
    file.write_bytes(file.read_bytes()[:300])
    return videos


def frame(videos: VideoSet, video: int, index: int) -> Path:
    return videos.videos[video].frames_dir / videos.videos[video].file_names[index]


def test_a_frame_that_is_cut_off_is_found_and_named_with_its_video(videos: VideoSet):
    seen = []
    (found,) = unreadable_frames(videos, 0.1, lambda done, total: seen.append((done, total)))
    assert found.file_name == videos.videos[1].file_names[4]
    assert f"(video {videos.videos[1].video_id}, frame 4): expected a picture" in found.reason
    assert seen[-1] == (18, 18)
    assert in_words([found], videos).startswith(f"left out 1 of 18 frames of {videos.source}: {frame(videos, 1, 4)}")


@pytest.mark.parametrize("harm", ["gone", "empty", "another size"])
def test_what_training_could_not_read_is_not_readable(videos: VideoSet, harm: str):
    file = frame(videos, 0, 0)
    if harm == "gone":
        file.unlink()
    elif harm == "empty":
        file.write_bytes(b"")
    else:
        write_youtube_vis(WorldConfig(height=64, width=64, frames=1), file.parents[3] / "other", 1, 0)
        file.write_bytes(next((file.parents[3] / "other").rglob("*.jpg")).read_bytes())
    found = unreadable_frames(videos, 0.2)
    assert [one.file_name for one in found] == [videos.videos[0].file_names[0], videos.videos[1].file_names[4]]


def test_more_than_the_allowed_share_is_refused_with_a_frame_and_the_field(videos: VideoSet):
    with pytest.raises(BadConfig, match=r"1 of 18 .* 1\.0% may be left out: .*frame 4\).*unreadable_share"):
        unreadable_frames(videos, 0.01)


def test_a_folder_without_the_frames_is_refused_before_any_is_decoded(videos: VideoSet):
    for file in videos.videos[0].frames_dir.rglob("*.jpg"):
        file.unlink()
    told = []
    with pytest.raises(BadConfig, match="18 of 18 frames"):
        unreadable_frames(videos, 0.5, lambda *how_far: told.append(how_far))
    assert not told


def test_without_a_frame_its_neighbours_follow_each_other_and_every_clip_can_be_read(videos: VideoSet):
    names = [one.file_name for one in unreadable_frames(videos, 0.1)]
    whole = without(videos, names)
    assert [len(video.file_names) for video in whole.videos] == [6, 5, 6]
    before, after = videos.videos[1], whole.videos[1]
    assert after.file_names == (*before.file_names[:4], before.file_names[5])
    assert after.tracks[0].rles == (*before.tracks[0].rles[:4], before.tracks[0].rles[5])
    clips = ClipSet(whole, Consecutive(frames=5), (48, 72), Augmentation(), seed=0)
    again = ClipSet(without(videos, names), Consecutive(frames=5), (48, 72), Augmentation(), seed=0)
    for n in range(9):
        assert torch.equal(clips[n].frames, again[n].frames)  # whoever draws it, and in whatever order
