"""Videos of different lengths side by side through one model: one leaves, another enters, no frame waits for a batch.

Frames of several videos share one `encode`, and `step` moves all of them one frame on. Only videos with the same input
size can share a batch; one that opens with another size waits until the videos before it have left. Decoding runs in
threads, one chunk ahead of the model, so memory holds two chunks per video whatever its length. A decoder that hangs
ends its own video.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from jobs.archives.archive import VideoSource
from jobs.archives.bad_videos import UNEXPECTED, timed_out
from jobs.archives.deadlines import Decoders, Hung, Task, decoders
from jobs.archives.frames import open_video
from jobs.archives.video import DecodedFrame, Video
from jobs.segmentation.halfway import Halfway
from jobs.segmentation.records import MaskSpill, VideoRecord
from jobs.segmentation.true_objects import TrueObjects
from jobs.store import Store
from vis_models.config import BadVideo
from vis_models.types import Frames, TracksGivenObjects, VideoInfo, VideoModel

MANY = 3
"""Videos that meet the same kind of surprise before it is taken for a fault of ours."""


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


class Faults:
    """Tells faults of ours from odd videos: the first are rows in `errors`, many stop the run with their trace."""

    def __init__(self) -> None:
        self._videos = self._unexpected = 0

    def count(self, outcome: Outcome) -> None:
        """One more video is over. Raises what it met, when most videos so far met something unexpected."""
        self._videos += 1
        if outcome.error and outcome.error.code == UNEXPECTED:
            self._unexpected += 1
            if self._unexpected >= MANY and 2 * self._unexpected >= self._videos:
                raise outcome.error.__cause__ or outcome.error


@dataclass
class _Chunk:
    """The next frames of a video; `over`: none come after them."""

    frames: list[DecodedFrame] = field(default_factory=list)
    over: bool = False
    error: BadVideo | None = None
    seconds: float = 0.0


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
    coming: Task[None] | None = None
    chunk: _Chunk = field(default_factory=_Chunk)
    """What `coming` fills."""
    hung: bool = False
    """A thread is still inside the video: it must not be closed."""

    @property
    def info(self) -> VideoInfo:
        assert self.outcome.record
        return self.outcome.record.info

    def read(self, count: int, chunk: _Chunk, task: Task[Any]) -> None:
        """Decodes the next frames; called in one thread at a time."""
        assert self.frames
        started = time.perf_counter()
        try:
            for frame in islice(self.frames, count):
                chunk.frames.append(frame)
                task.beat()
        except BadVideo as bad:
            chunk.error = bad
        chunk.over = len(chunk.frames) < count
        chunk.seconds = time.perf_counter() - started

    def take(self, chunk: _Chunk) -> None:
        self.queue.extend(chunk.frames)
        self.over = chunk.over
        self.outcome.error = chunk.error
        self.outcome.decode_s += chunk.seconds

    def leave(self, hung: Hung) -> None:
        """Takes what a thread decoded before it hung, and leaves the rest to it."""
        frames = list(self.chunk.frames)
        kept = (self.outcome.record.frames if self.outcome.record else 0) + len(self.queue) + len(frames)
        self.take(_Chunk(frames, True, timed_out(self.outcome.source, hung.seconds, kept), hung.seconds))
        self.hung = True


class SideBySide:
    """Plays videos through a model. `seconds` adds up what each stage took.

    Args:
        model: a `VideoModel` on `device`, in evaluation mode.
        videos_at_once: videos that are open at the same time.
        frames_per_batch: frames that one `encode` sees, at most (at least one per video).
        threads: that decode.
        given: the objects that `model`, which must be a `TracksGivenObjects`, tracks in place of its own detections.
        say: is told how many frames were played so far, also by an earlier attempt, now and then.
        faults: what went wrong in videos that were played before these.
        halfway: where films that were left in the middle go on, and how far each is gets written down.
    """

    def __init__(
        self,
        model: VideoModel[Any, Any],
        device: str,
        store: Store,
        *,
        videos_at_once: int,
        frames_per_batch: int,
        threads: int,
        given: TrueObjects | None = None,
        say: Callable[[int], None] = lambda frames: None,
        faults: Faults | None = None,
        halfway: Halfway | None = None,
    ) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.promised_frames = self.promised_videos = 0
        """What the headers of the videos opened so far promise."""
        self.known_frames = 0
        """That an earlier attempt has played."""
        self._on_device: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        """Stages that a GPU may still be at: their seconds are known when it has passed the second event."""
        self._model, self._device, self._store = model, device, store
        self._videos_at_once = videos_at_once
        self._frames_per_batch = frames_per_batch
        self._threads = threads
        self._given = given
        self.say = say
        self._faults = faults or Faults()
        self._halfway = halfway
        self._frames = 0

    def play(self, sources: Sequence[VideoSource], spill: MaskSpill) -> Iterator[Outcome]:
        """The outcome of each video, as soon as it is over; its masks are in `spill` under its place in `sources`."""
        for outcome in self._play(sources, spill):
            self._faults.count(outcome)
            yield outcome

    def _play(self, sources: Sequence[VideoSource], spill: MaskSpill) -> Iterator[Outcome]:
        with decoders(self._threads, self._store.settings.decode_timeout_s) as pool:
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

    def _open_ahead(self, sources: Sequence[VideoSource], spill: MaskSpill, pool: Decoders) -> Iterator[_Player]:
        """The videos in order, opened in threads, as many ahead as may play at once."""

        def opened(source: VideoSource, task: Task[_Player]) -> _Player:
            try:
                return pool.result(task)
            except Hung as hung:
                return _Player(Outcome(source, error=timed_out(source, hung.seconds, 0)), ExitStack())

        opening: deque[tuple[VideoSource, Task[_Player]]] = deque()
        for place, source in enumerate(sources):
            opening.append((source, pool.submit(partial(self._open, source, place, spill))))
            if len(opening) >= self._videos_at_once:
                yield opened(*opening.popleft())
        while opening:
            yield opened(*opening.popleft())

    def _open(self, source: VideoSource, place: int, spill: MaskSpill, task: Task[_Player]) -> _Player:
        started = time.perf_counter()
        player = _Player(Outcome(source), ExitStack())
        try:
            video = player.closing.enter_context(open_video(source, self._store))
            task.beat()
            player.outcome.video = video
            player.outcome.record = VideoRecord(video.info, place, spill)
            player.size = self._model.frame_size(video.info)
            player.frames = video.frames(player.size)
            if self._halfway:
                player.outcome.record.remember()
                for _ in islice(player.frames, self._halfway.frames_of(video.info.video_id)):
                    task.beat()
            self.promised_frames += min(video.promised()[0] or 0, source.size_bytes)  # a header may say anything
            self.promised_videos += 1
            player.outcome.decode_s = time.perf_counter() - started
            player.read(max(1, self._frames_per_batch // self._videos_at_once), player.chunk, task)
            player.take(player.chunk)
        except BadVideo as error:
            player.outcome.error = error
        return player

    def _refill(self, player: _Player, playing: int, pool: Decoders) -> None:
        """Frames for the next step, and a request for the chunk after them."""
        if player.coming and not player.queue:
            with self.timed("wait"):
                try:
                    pool.result(player.coming)
                    player.take(player.chunk)
                except Hung as hung:
                    player.leave(hung)
            player.coming = None
        if not player.coming and not player.over:
            player.chunk = _Chunk()
            player.coming = pool.submit(partial(player.read, max(1, self._frames_per_batch // playing), player.chunk))

    @torch.inference_mode()
    def _start(self, players: Sequence[_Player]) -> Any:
        state = self._model.start([player.info for player in players])
        if self._halfway is None:
            return state
        rows = []
        for place, player in enumerate(players):
            fresh, record = state[[place]], player.outcome.record
            assert record
            known = self._halfway.frames_of(record.info.video_id)
            rows.append(self._halfway.restore(record, fresh) if known else fresh)
            self.known_frames += known
        return type(state).join(rows)

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
                videos = [player.info.video_id for player in lane] * count
                places = [(video, frame.index) for video, frame in zip(videos, frames, strict=True)]
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
        self.say(self.known_frames + self._frames)
        if self._halfway and self._halfway.due():
            with self.timed("write"):
                self._halfway.keep([player.outcome.record for player in lane if player.outcome.record], state)
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
            if not player.hung:
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
