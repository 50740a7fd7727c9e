"""One shard of a run: a handful of videos in, files of four tables out, and a note that they are whole.

Runs inside a worker: a child, or Ray's. The worker loads its model once. Nothing that is wrong with a video leaves this
file as an exception. A video may still end the whole process, as a decoder that crashes does. Whoever runs the workers
starts the shard again; it then plays its videos one at a time and notes each before it opens it, so that the next
attempt knows which one to leave out.
"""

import os
import platform
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from jobs import tables
from jobs.archives.archive import VideoSource
from jobs.archives.bad_videos import RETRYABLE
from jobs.filesystems import FULL
from jobs.results_files import read_json
from jobs.segmentation import halfway
from jobs.segmentation.halfway import Halfway
from jobs.segmentation.plans import Load, ShardJob, read_shard
from jobs.segmentation.records import MaskSpill, track_row
from jobs.segmentation.side_by_side import Faults, Outcome, SideBySide
from jobs.segmentation.true_objects import TrueObjects
from jobs.store import FileRef, Part, Store, now, run_key, work_key
from jobs.workers import LISTEN_S
from vis_models.cards import ModelCard
from vis_models.checkpoints import load_model
from vis_models.config import BadConfig, BadVideo
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.types import TracksGivenObjects, VideoModel

MAX_ATTEMPTS = 4
"""Times that one run loses the worker of a shard without a video to blame."""
CRASHED = "decoder_crashed"
ALONE, DIED = "alone.json", "died.json"
"""Notes of an attempt: the video that it plays alone; how its worker ended."""


class ShardWorker:
    """Segments shards, one after the other."""

    def __init__(self, job: ShardJob, say: Callable[[dict[str, Any]], None]) -> None:
        """`say` is told what `_tell` says while a shard is played."""
        self._job, self._say = job, say
        self._faults = Faults()

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """`{"shard"}` -> `{"shard", "part"}`, or `{"shard", "bad_config"}` for what the user can mend.

        `row["died"]`: how the worker ended that began with this shard before, if that is known.
        """
        try:
            part = self.segment(row["shard"], row.get("died", ""))
            return {"shard": row["shard"], "part": part.model_dump_json(), "bad_config": ""}
        except BadConfig as error:
            return {"shard": row["shard"], "part": "", "bad_config": str(error)}
        except OSError as error:
            if error.errno not in FULL:
                raise
            where = error.filename or tempfile.gettempdir()  # masks wait there; the store speaks for itself
            text = f"{where}: {error.strerror}. Make room there, or set TMPDIR to another disk"
            return {"shard": row["shard"], "part": "", "bad_config": text}

    @cached_property
    def _store(self) -> Store:
        return Store.open(self._job.settings)

    @cached_property
    def _model(self) -> tuple[VideoModel[Any, Any], ModelCard]:
        torch.set_num_threads(self._job.workers.cpus)
        folder = self._store.local_copy(self._job.model)
        load: Load = self._job.load or load_model
        return load(folder, self._job.workers.device, self._job.slot_recycling)

    @cached_property
    def _given(self) -> TrueObjects | None:
        if self._job.labels is None:
            return None
        model, card = self._model
        if not isinstance(model, TracksGivenObjects):
            raise BadConfig(f"no image oracle: the tracker of {card.name} ({card.model}) takes no objects from outside")
        truth = GroundTruth(read_json(self._store, self._job.labels)[0], self._job.labels)
        return TrueObjects(truth, [category.name for category in card.classes])

    def segment(self, shard: str, died: str = "") -> Part:
        """Plays the videos of a shard and says what was written, unless another attempt of this run has done it."""
        job, store = self._job, self._store
        if finished := store.part(job.run_id, shard):
            return finished
        units = read_shard(store, job.run_id, shard)
        if not units:
            raise RuntimeError(f"run {job.run_id} has no shard {shard}")
        attempt = self._begin(shard, died)
        self._say({"shard": shard, "frames": 0, "known": 0, "videos": 0, "promised": 0, "opened": 0})
        model, card = self._model
        by_video = {unit.source.video_id: unit.id for unit in units}
        look = by_video.values() if attempt.number > 1 else job.halfway
        notes = Halfway(store, by_video, attempt.name, job.halfway_s, look)
        stage = SideBySide(
            model,
            job.workers.device,
            store,
            videos_at_once=1 if attempt.alone else job.videos_at_once,
            frames_per_batch=job.frames_per_batch,
            threads=job.workers.cpus,
            given=self._given,
            faults=self._faults,
            halfway=notes,
        )
        began = time.perf_counter()
        spill = MaskSpill()
        try:
            sources = [unit.source for unit in units]
            outcomes = sorted(self._play(sources, stage, spill, attempt), key=lambda outcome: outcome.source.video_id)
        except FileNotFoundError:
            if finished := store.part(job.run_id, shard):  # by an attempt that was thought lost
                return finished
            raise
        spill.finish()
        with stage.timed("write"):
            files = attempt.write(store, card, outcomes, by_video)
        spill.close()
        counts = Counter(outcome.status for outcome in outcomes)
        counts["frames"] = sum(outcome.record.frames for outcome in outcomes if outcome.record)
        codes = Counter(outcome.error.code for outcome in outcomes if outcome.error)
        clocks = [outcome.video.clock.end_s for outcome in outcomes if outcome.video]
        part = Part(
            run_id=job.run_id,
            plan_id=job.plan_id,
            lake=job.lake,
            archive=job.archive,
            model=card.name,
            shard=shard,
            attempt=attempt.name,
            units=tuple(unit.id for unit in units),
            replaces=tuple(unit.replaces for unit in units if unit.replaces),
            files=files,
            counts=dict(counts) | {"crashed": codes[CRASHED]},
            errors=dict(codes),
            seconds=dict(stage.seconds) | {"wall": time.perf_counter() - began, "footage": sum(filter(None, clocks))},
            created_at=now(),
        )
        store.finish(part)
        if notes.any:
            halfway.forget(store, by_video.values())
        return part

    def _play(
        self, sources: list[VideoSource], stage: SideBySide, spill: MaskSpill, attempt: "Attempt"
    ) -> list[Outcome]:
        crashed = [source for source in sources if source.video_id in attempt.crashed]
        outcomes = [Outcome(source, error=_crash(source, attempt.crashed[source.video_id])) for source in crashed]
        whole = [source for source in sources if source.video_id not in attempt.crashed]
        stage.say = self._tell(attempt.shard, stage, outcomes)
        for outcome in stage.play(_Noted(whole, partial(self._note, attempt)) if attempt.alone else whole, spill):
            outcomes.append(outcome)
        if attempt.alone:
            self._note(attempt, None)
        return outcomes

    def _note(self, attempt: "Attempt", source: VideoSource | None) -> None:
        """What is played alone from now on; None: no video."""
        key = work_key(self._job.run_id, attempt.shard, attempt.name, ALONE)
        self._store.write_json(key, {"video_id": source and source.video_id, "at": now()})

    def _tell(self, shard: str, stage: SideBySide, over: list[Outcome]) -> Callable[[int], None]:
        """Says of a shard, now and then: frames played, those of them that an earlier attempt has played, videos over,
        and frames that its `opened` videos promise."""
        last_s = time.monotonic()

        def say(frames: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= LISTEN_S:
                last_s = time.monotonic()
                promised = {"promised": stage.promised_frames, "opened": stage.promised_videos}
                self._say(
                    {"shard": shard, "frames": frames, "known": stage.known_frames, "videos": len(over)} | promised
                )

        return say

    def _begin(self, shard: str, died: str) -> "Attempt":
        """A new attempt, noted in the store so that the next one can count it if this worker is lost."""
        job, store = self._job, self._store
        files: dict[str, set[str]] = defaultdict(set)
        for key in store.list(work_key(job.run_id, shard)):
            files[key.split("/")[-2]].add(key.split("/")[-1])
        lost = sorted(files)
        if lost and died:
            store.write_json(work_key(job.run_id, shard, lost[-1], DIED), died)
            files[lost[-1]].add(DIED)
        crashed: dict[str, str] = {}
        for name in lost:
            if ALONE in files[name]:
                video_id = store.read_json(work_key(job.run_id, shard, name, ALONE))["video_id"]
                how = store.read_json(work_key(job.run_id, shard, name, DIED)) if DIED in files[name] else "unknown"
                crashed |= {video_id: how} if video_id is not None else {}
        if len(lost) - len(crashed) >= MAX_ATTEMPTS:
            raise RuntimeError(
                f"shard {shard} lost its worker {len(lost)} times, and not while it played one video alone"
                f"{f' (last: {died})' if died else ''}. Has the machine memory to spare?"
            )
        number = len(files) + 1
        name = f"{number:03d}-{uuid.uuid4().hex[:8]}"
        attempt = Attempt(job, shard, name, number, alone=bool(lost), crashed=crashed)
        note = {"host": platform.node(), "pid": os.getpid(), "started_at": now()}
        store.write_json(work_key(job.run_id, shard, attempt.name, "started.json"), note)
        return attempt


class _Noted(Sequence[VideoSource]):
    """Videos that are noted when they are taken."""

    def __init__(self, sources: list[VideoSource], note: Callable[[VideoSource], None]) -> None:
        self._sources, self._note = sources, note

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, place: Any) -> Any:
        source = self._sources[place]
        self._note(source)
        return source


def _crash(source: VideoSource, how: str) -> BadVideo:
    return BadVideo(
        f"{source.uri} ended its worker twice, the second time when it was played alone (the process ended by {how}), "
        "expected a film that the decoder survives. Nothing is kept. Leave it out, write it again with "
        f"`ffmpeg -i`, or, where memory may have lacked, try again with --retry-errors",
        code=CRASHED,
    )


@dataclass(frozen=True)
class Attempt:
    """One try at a shard, which writes under keys of its own."""

    job: ShardJob
    shard: str
    name: str
    number: int
    alone: bool
    """The attempt before lost its worker: play one video at a time."""
    crashed: dict[str, str]
    """Videos that ended a worker when they were played alone, and how it ended."""

    def write(
        self, store: Store, card: ModelCard, outcomes: list[Outcome], units: Mapping[str, str]
    ) -> dict[str, FileRef]:
        """The rows of these videos, which are sorted by id, in a file per table that has any.

        Args:
            units: by video id.
        """
        refs: dict[str, FileRef] = {}
        rows: dict[str, list[dict[str, Any]]] = {"videos": [], "tracks": [], "errors": []}
        with tables.create(store, self._key("masks"), "masks", self.job.lineage, refs) as writer:
            for outcome in outcomes:
                origin = {
                    "plan_id": self.job.plan_id,
                    "video_id": outcome.source.video_id,
                    "unit": units[outcome.source.video_id],
                    "archive": self.job.archive,
                    "model": card.name,
                }
                tracks, low = self._tracks(outcome, card, writer, origin)
                rows["videos"].append(origin | self._video_row(outcome, tracks, low))
                rows["tracks"] += tracks
                if outcome.error:
                    rows["errors"].append(origin | self._error_row(outcome, outcome.error))
        for name, found in rows.items():
            if found:
                with tables.create(store, self._key(name), name, self.job.lineage, refs) as writer:
                    writer.write(tables.from_rows(name, found))
        if not refs["masks"].rows:
            store.fs.rm(store.path(refs.pop("masks").key))
        return refs

    def _key(self, name: str) -> str:
        return f"{self.job.lake}/{name}/part-{run_key(self.job.run_id)}-{self.shard}-{self.name}.parquet"

    def _tracks(
        self, outcome: Outcome, card: ModelCard, writer: tables.TableWriter, origin: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], int]:
        """(rows of the table tracks, number of tracks under min_score); their masks are written on the way."""
        if outcome.record is None:
            return [], 0
        kept, low = outcome.record.tracks(self.job.min_score)
        rows = []
        for track_id, tally in kept.items():
            category = card.classes[tally.category]
            common = origin | {"category_id": category.id, "category": category.name}
            rows.append(common | track_row(track_id, tally, [each.name for each in card.classes]))
            for masks in outcome.record.masks(track_id, common | {"track_score": tally.score}):
                writer.write(masks)
        return rows, low

    def _video_row(
        self, outcome: Outcome, tracks: Sequence[Mapping[str, Any]], low_score_tracks: int
    ) -> dict[str, Any]:
        source, video, record = outcome.source, outcome.video, outcome.record
        frames = record.frames if record else 0
        timed = video is not None and video.clock.end_s is not None
        return {
            "uri": source.uri,
            "status": outcome.status,
            "content_id": source.content_id,
            "container": video and video.container,
            "stream": video and video.stream,
            "codec": video and video.codec,
            "width": video and video.info.width,
            "height": video and video.info.height,
            "fps_num": video.fps.numerator if video and video.fps else None,
            "fps_den": video.fps.denominator if video and video.fps else None,
            "vfr": video.clock.uneven if video and timed else None,
            "clock_breaks": video.clock.breaks if video and timed else None,
            "n_frames": video.decoded if video else 0,
            "duration_s": video.clock.end_s if video and timed else None,
            "sampled_frames": frames,
            "n_tracks": len(tracks),
            "n_masks": sum(track["n_obs"] for track in tracks),
            "n_low_score_tracks": low_score_tracks,
            "n_dropped_births": record.dropped_births if record else 0,
            "decode_ms": round(outcome.decode_s * 1000),
            "infer_ms": round(outcome.infer_s * 1000),
            "run_id": self.job.run_id,
            "min_score": self.job.min_score,
            "retryable": bool(outcome.error and outcome.error.code in RETRYABLE),
            "tags": list(source.tags.items()) or None,
        }

    def _error_row(self, outcome: Outcome, error: BadVideo) -> dict[str, Any]:
        return {
            "uri": outcome.source.uri,
            "stage": "decode" if error.frames_kept else "open",
            "code": error.code,
            "detail": str(error),
            "attempt": self.number,
            "t0": outcome.video.clock.last_s if outcome.video else None,
            "t1": None,
            "retryable": error.code in RETRYABLE,
            "host": platform.node(),
        }
