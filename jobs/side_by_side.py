"""Videos of different lengths side by side through one model: one leaves, another enters, no frame waits for a batch.

Frames of several videos share one `encode`, and `step` moves all of them one frame on. Only videos with the same input
size can share a batch; one that opens with another size waits until the videos before it have left. Decoding runs in
threads, one chunk ahead of the model, so memory holds two chunks per video whatever its length.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from jobs.archive import VideoSource
from jobs.frames import DecodedFrame, Video, open_video
from jobs.records import MaskSpill, VideoRecord
from jobs.store import Store
from jobs.true_objects import TrueObjects
from vis_models.config import BadVideo
from vis_models.types import Frames, TracksGivenObjects, VideoInfo, VideoModel


@dataclass
class Outcome:
    """What became of one video."""

    source: VideoSource
    decode_s: float = 0.0
    infer_s: float = 0.0
    error: BadVideo | None = None
    video: Video | None = None
    """None: it could not be opened."""
    record: VideoRecord | None = None

    @property
    def status(self) -> str:
        if self.error is None:
            return "done"
        return "partial" if self.record and self.record.frames else "failed"


@dataclass
class _Chunk:
    """The next frames of a video; `over`: none come after them."""

    frames: list[DecodedFrame]
    over: bool
    error: BadVideo | None
    seconds: float


@dataclass
class _Player:
    """An open video and its frames that were decoded ahead."""

    outcome: Outcome
    closing: ExitStack
    size: tuple[int, int] = (0, 0)
    frames: Iterator[DecodedFrame] | None = None
    """None: it could not be opened."""
    queue: deque[DecodedFrame] = field(default_factory=deque)
    over: bool = False
    """No frames come after those in the queue."""
    coming: Future[_Chunk] | None = None

    @property
    def info(self) -> VideoInfo:
        assert self.outcome.record
        return self.outcome.record.info

    def read(self, count: int) -> _Chunk:
        """Decodes the next frames; called in one thread at a time."""
        assert self.frames
        started = time.perf_counter()
        frames: list[DecodedFrame] = []
        error = None
        try:
            frames.extend(islice(self.frames, count))
        except BadVideo as bad:
            error = bad
        return _Chunk(frames, len(frames) < count, error, time.perf_counter() - started)

    def take(self, chunk: _Chunk) -> None:
        self.queue.extend(chunk.frames)
        self.over = chunk.over
        self.outcome.error = chunk.error
        self.outcome.decode_s += chunk.seconds


class SideBySide:
    """Plays videos through a model. `seconds` adds up what each stage took.

    Args:
        model: a `VideoModel` on `device`, in evaluation mode.
        videos_at_once: videos that are open at the same time.
        frames_per_batch: frames that one `encode` sees, at most (at least one per video).
        frame_folder_fps: see `open_video`.
        threads: that decode.
        given: the objects that `model`, which must be a `TracksGivenObjects`, tracks in place of its own detections.
        say: is told how many frames were played so far, now and then.
    """

    def __init__(
        self,
        model: VideoModel[Any, Any],
        device: str,
        store: Store,
        *,
        videos_at_once: int,
        frames_per_batch: int,
        frame_folder_fps: float | None,
        threads: int,
        given: TrueObjects | None = None,
        say: Callable[[int], None] = lambda frames: None,
    ) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._on_device: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        """Stages that a GPU may still be at: their seconds are known when it has passed the second event."""
        self._model, self._device, self._store = model, device, store
        self._videos_at_once = videos_at_once
        self._frames_per_batch = frames_per_batch
        self._frame_folder_fps = frame_folder_fps
        self._threads = threads
        self._given = given
        self._say = say
        self._frames = 0

    def play(self, sources: Sequence[VideoSource], spill: MaskSpill) -> Iterator[Outcome]:
        """The outcome of each video, as soon as it is over; its masks are in `spill` under its place in `sources`."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="decode") as pool:
            opened = self._open_ahead(sources, spill, pool)
            parked: list[_Player] = []
            lane: list[_Player] = []
            state: Any = None
            while True:
                newcomers: list[_Player] = []
                while len(lane) + len(newcomers) < self._videos_at_once:
                    size = next((player.size for player in [*lane, *newcomers, *parked]), None)
                    player, unopened = _next_of_size(size, parked, opened)
                    yield from unopened
                    if player is None:
                        break
                    newcomers.append(player)
                if newcomers:
                    started = self._start(newcomers)
                    state = started if state is None else type(started).join([state, started])
                    lane += newcomers
                if not lane:
                    return
                for player in lane:
                    self._refill(player, len(lane), pool)
                leaving = [place for place, player in enumerate(lane) if not player.queue]
                if not leaving:
                    state = self._advance(lane, state)
                    continue
                yield from self._finish([lane[place] for place in leaving], state[leaving])
                staying = [place for place, player in enumerate(lane) if player.queue]
                lane = [lane[place] for place in staying]
                state = state[staying] if staying else None

    def _open_ahead(
        self, sources: Sequence[VideoSource], spill: MaskSpill, pool: ThreadPoolExecutor
    ) -> Iterator[_Player]:
        """The videos in order, opened in threads, as many ahead as may play at once."""
        opening: deque[Future[_Player]] = deque()
        for place, source in enumerate(sources):
            opening.append(pool.submit(self._open, source, place, spill))
            if len(opening) >= self._videos_at_once:
                yield opening.popleft().result()
        while opening:
            yield opening.popleft().result()

    def _open(self, source: VideoSource, place: int, spill: MaskSpill) -> _Player:
        started = time.perf_counter()
        player = _Player(Outcome(source), ExitStack())
        try:
            video = player.closing.enter_context(open_video(source, self._store, self._frame_folder_fps))
            player.outcome.video = video
            player.outcome.record = VideoRecord(video.info, place, spill)
            player.size = self._model.frame_size(video.info)
            player.frames = video.frames(player.size)
            player.outcome.decode_s = time.perf_counter() - started
            player.take(player.read(max(1, self._frames_per_batch // self._videos_at_once)))
        except BadVideo as error:
            player.outcome.error = error
        return player

    def _refill(self, player: _Player, playing: int, pool: ThreadPoolExecutor) -> None:
        """Frames for the next step, and a request for the chunk after them."""
        if player.coming and not player.queue:
            with self.timed("wait"):
                player.take(player.coming.result())
            player.coming = None
        if not player.coming and not player.over:
            player.coming = pool.submit(player.read, max(1, self._frames_per_batch // playing))

    @torch.inference_mode()
    def _start(self, players: Sequence[_Player]) -> Any:
        return self._model.start([player.info for player in players])

    @torch.inference_mode()
    def _advance(self, lane: list[_Player], state: Any) -> Any:
        """As many frames as each video of the lane has, through the model."""
        count = min(len(player.queue) for player in lane)
        frames = [player.queue.popleft() for _ in range(count) for player in lane]  # frame by frame, not video by video
        began = time.perf_counter()
        with self.timed("encode"):
            pixels = torch.from_numpy(np.stack([frame.pixels for frame in frames])).permute(0, 3, 1, 2)
            batch = Frames(pixels).to(self._device)
            if self._given and isinstance(self._model, TracksGivenObjects):
                places = [
                    (int(player.info.video_id), frame.index) for player, frame in zip(lane * count, frames, strict=True)
                ]
                objects = self._given.of(places, lane[0].size).to(self._device)
                encoded: Any = self._model.encode_objects(batch, objects)
            else:
                encoded = self._model.encode(batch)
        spent = time.perf_counter() - began
        for place in range(0, len(frames), len(lane)):
            began = time.perf_counter()
            with self.timed("step"):
                tracks, state = self._model.step(encoded[place : place + len(lane)], state)
            spent += time.perf_counter() - began
            with self.timed("rle"):
                for player, frame, seen in zip(lane, frames[place : place + len(lane)], tracks, strict=True):
                    assert player.outcome.record
                    player.outcome.record.frame(frame.time_s)
                    player.outcome.record.add(seen)
        for player in lane:
            player.outcome.infer_s += spent / len(lane)
        self._read_events()
        self._frames += len(frames)
        self._say(self._frames)
        return state

    @torch.inference_mode()
    def _finish(self, players: Sequence[_Player], state: Any) -> list[Outcome]:
        with self.timed("step"):
            owed = self._model.finish(state)
        self._read_events()
        for player, tracks in zip(players, owed, strict=True):
            with self.timed("rle"):
                assert player.outcome.record
                player.outcome.record.add(tracks)
            self.seconds["decode"] += player.outcome.decode_s
            player.closing.close()
        return [player.outcome for player in players]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds what happens inside to the seconds of a stage.

        On a GPU, `encode` and `step` are what passes there between their first and their last kernel, and nobody waits
        for the GPU to find out.
        """
        if self._device == "cuda" and stage in ("encode", "step"):
            started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            started.record()
            yield
            ended.record()
            self._on_device.append((stage, started, ended))
        else:
            began = time.perf_counter()
            yield
            self.seconds[stage] += time.perf_counter() - began

    def _read_events(self) -> None:
        """Called where the masks of the last step are on the host, so that the GPU has passed all of these."""
        for stage, started, ended in self._on_device:
            ended.synchronize()
            self.seconds[stage] += started.elapsed_time(ended) / 1000
        self._on_device.clear()


def _next_of_size(
    size: tuple[int, int] | None, parked: list[_Player], opened: Iterator[_Player]
) -> tuple[_Player | None, list[Outcome]]:
    """The next video whose frames have this size (None: any), and those on the way that could not be opened."""
    for place, player in enumerate(parked):
        if player.size == size:
            return parked.pop(place), []
    unopened = []
    for player in opened:
        if player.outcome.record is None:
            unopened.append(player.outcome)
        elif size in (None, player.size):
            return player, unopened
        else:
            parked.append(player)
    return None, unopened
