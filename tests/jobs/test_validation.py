"""Scores during training: a model's own answer about held-out videos, and the weights of the best one."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Int
from safetensors.torch import load
from torch import Tensor, nn

from jobs.settings import Settings
from jobs.store import Store
from jobs.training.recipes.base import Stage
from jobs.training.validation import Judge, video_ap
from vis_models import masks
from vis_models.data.annotations import VideoSet, read_youtube_vis
from vis_models.data.world import WorldConfig, write_youtube_vis
from vis_models.types import Frames, Masks, Rows, Sighting, Tracks, Verdict, VideoInfo

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Place(Rows):
    """Which video, and which frame of it comes next."""

    video: Int[Tensor, " B"]
    frame: Int[Tensor, " B"]


class Knowing(nn.Module):
    """Says of each video what its labels say; with `shift`, masks lie some pixels beside."""

    def __init__(self, videos: VideoSet) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.videos = {str(video.video_id): video for video in videos.videos}
        self.order = list(self.videos)
        self.classes = [category.id for category in videos.categories]

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return 8, 8

    def encode(self, frames: Frames) -> Place:
        assert not self.training
        return Place(*[torch.zeros(len(frames.pixels), dtype=torch.long)] * 2)

    def start(self, videos: list[VideoInfo]) -> Place:
        return Place(torch.tensor([self.order.index(v.video_id) for v in videos]), torch.zeros(len(videos)).long())

    def step(self, encoded: Place, state: Place) -> tuple[list[Tracks], Place]:
        assert len(encoded) == len(state)
        said = []
        for number, frame in zip(state.video.tolist(), state.frame.tolist(), strict=True):
            video = self.videos[self.order[number]]
            seen = [n for n, track in enumerate(video.tracks) if track.rles[frame]]
            bitmaps = [torch.from_numpy(masks.decode(video.tracks[n].rles[frame], video.height, video.width).copy())
                       for n in seen]  # fmt: skip
            whole = torch.stack(bitmaps) if seen else torch.zeros(0, video.height, video.width)
            moved = whole.bool().roll(int(self.shift), -1)
            said.append(Tracks([Sighting(frame, seen, [1.0] * len(seen), Masks.of(moved))], []))
        return said, replace(state, frame=state.frame + 1)

    def finish(self, state: Place) -> list[Tracks]:
        return [
            Tracks([], [
                Verdict(n, self.classes.index(track.category_id), 1.0)
                for n, track in enumerate(self.videos[self.order[number]].tracks)
            ])
            for number in state.video.tolist()
        ]  # fmt: skip

    def frame_detector(self, part: str) -> None:
        return None


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    folder = tmp_path_factory.mktemp("world")
    write_youtube_vis(WorldConfig(height=48, width=72, frames=3), folder, 1, 5)
    return read_youtube_vis(folder / "val.json")


def test_a_model_that_says_what_the_labels_say_has_ap_1_however_many_are_played_side_by_side(videos: VideoSet):
    model = Knowing(videos)
    for count, side_by_side in ((5, 1), (5, 4), (2, 8), (50, 2)):
        found = video_ap(model, videos, count, side_by_side)
        assert found == pytest.approx({"val_ap": 1.0, "val_ap50": 1.0})
    model.shift.data.fill_(2)
    figures = video_ap(model, videos, 5)
    assert figures["val_ap"] < figures["val_ap50"] < 1
    assert model.training  # as it was before


def test_the_best_weights_are_kept_and_a_run_that_goes_on_knows_them(videos: VideoSet, tmp_path: Path):
    model, store = Knowing(videos), Store.open(Settings(store=str(tmp_path)))
    stage = Stage(name="s", iterations=40, batch_size=1, learning_rate=1.0, validate_every=10, validation_videos=5)
    best = []
    for done, shift in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 1.0)):
        judge = Judge(stage, model, videos, store, "vis/v1/runs/r/s")  # as after a resume
        assert [at for at in range(done - 9, done + 1) if judge.due(at)] == [done]
        model.shift.data.fill_(shift)
        figures = judge.score()
        best.append((judge.keep(done, figures)["best_at"], figures["val_ap"]))
    assert [at for at, _ in best] == [10, 20, 20, 20]
    assert best[1][1] > best[2][1] > best[0][1]
    assert float(load(store.read_bytes("vis/v1/runs/r/s/result.safetensors"))["shift"]) == 1.0


def test_without_a_wish_only_what_detects_is_scored_and_only_at_the_end(videos: VideoSet, tmp_path: Path):
    stage = Stage(name="s", iterations=40, batch_size=1, learning_rate=1.0)
    judge = Judge(stage, Knowing(videos), videos, Store.open(Settings(store=str(tmp_path))), "f")
    assert not any(judge.due(done) for done in range(1, 41))
    assert judge.keep(40, {"mask_ap": 0.5}) == {"mask_ap": 0.5}


class AtOwnSize(Knowing):
    """Sees each video at its own size, so that only alike ones can share a batch."""

    def __init__(self, videos: VideoSet) -> None:
        super().__init__(videos)
        self.seen: set[tuple[int, ...]] = set()

    def frame_size(self, video: VideoInfo) -> tuple[int, int]:
        return video.height, video.width

    def encode(self, frames: Frames) -> Place:
        self.seen.add(tuple(frames.pixels.shape))
        return super().encode(frames)


def test_videos_of_one_length_but_other_sizes_are_played_in_batches_of_their_own(tmp_path: Path):
    sets = []
    for number, (height, width) in enumerate([(32, 48), (48, 32)]):
        write_youtube_vis(WorldConfig(height=height, width=width, frames=4), tmp_path / str(number), 0, 2)
        sets.append(read_youtube_vis(tmp_path / str(number) / "val.json"))
    videos = [replace(video, video_id=10 * n + i) for n, part in enumerate(sets) for i, video in enumerate(part.videos)]
    mixed = replace(sets[0], videos=(videos[0], videos[2], videos[1], videos[3]))
    model = AtOwnSize(mixed)
    assert video_ap(model, mixed, 4)["val_ap"] == pytest.approx(1.0)
    assert model.seen == {(2, 3, 32, 48), (2, 3, 48, 32)}
