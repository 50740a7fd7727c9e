"""A long film that was left in the middle goes on there: what was seen of it, and what the model knows, written down.

Now and then (`ShardJob.halfway_s`) a worker writes, for each film that it plays, the masks that came since the last
time, the state of the model and the tallies of the tracks, and then a note that names these files: a note counts as
soon as it is there. The next attempt at the shard looks for the note with the most frames. The frames before it are
decoded again, which is the small part of the work, but the model does not see them again. Short films end before any
of it is written.
"""

import io
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import torch

from jobs.segmentation.plans import HALFWAY
from jobs.segmentation.records import SPILLED, Tally, VideoRecord
from jobs.store import Store
from vis_models.types import Rows, VideoInfo


@dataclass(frozen=True)
class Note:
    """How far a film was played."""

    frames: int
    """That the model has seen."""
    state: str
    """Key of the model's state and the tallies."""
    masks: tuple[str, ...]
    """Keys of the masks, in order."""


class Halfway:
    """Writes notes of one attempt at a shard, and finds those of the attempts before it."""

    def __init__(
        self, store: Store, units: Mapping[str, str], attempt: str, every_s: float, look: Iterable[str]
    ) -> None:
        """
        Args:
            units: video id -> unit of the films that are played.
            look: units of which an earlier attempt may have written notes.
        """
        self._store, self._units, self._attempt = store, units, attempt
        self._every_s, self._last_s = every_s, time.monotonic()
        self._notes: dict[str, Note] = {}
        noted = {*look}
        self._found = self._of_earlier_attempts([unit for unit in units.values() if unit in noted])
        self.any = bool(self._found)
        """Whether there are notes of these films."""

    def frames_of(self, video_id: str) -> int:
        """Frames of a film that need not be played again."""
        return self._found[video_id].frames if video_id in self._found else 0

    def restore(self, record: VideoRecord, fresh: Rows) -> Rows:
        """Fill the record of a film as it was, and return the model's state.

        Args:
            fresh: the state of the film before its first frame, one row.
        """
        note = self._notes[record.info.video_id] = self._found[record.info.video_id]
        with torch.serialization.safe_globals([VideoInfo]):
            saved = torch.load(io.BytesIO(self._store.read_bytes(note.state)), weights_only=True)
        tallies = {track: Tally(**tally) for track, tally in saved["tallies"].items()}
        record.restore(array("d", saved["times_s"].tolist()), tallies, saved["dropped_births"], self._masks(note))
        device = next(value.device for value in vars(fresh).values() if isinstance(value, torch.Tensor))
        return type(fresh)(*saved["state"]).to(device)

    def _masks(self, note: Note) -> Iterator[pa.RecordBatch]:
        for key in note.masks:
            with pa.ipc.open_file(self._store.read_bytes(key)) as reader:
                for number in range(reader.num_record_batches):
                    yield reader.get_batch(number)

    def due(self) -> bool:
        return time.monotonic() - self._last_s >= self._every_s

    def keep(self, records: Sequence[VideoRecord], state: Rows) -> None:
        """Note how far these films are; `state` has a row for each."""
        for place, record in enumerate(records):
            self._keep(record, state[[place]].to("cpu"))
        self._last_s = time.monotonic()

    def _keep(self, record: VideoRecord, state: Rows) -> None:
        unit = self._units[record.info.video_id]
        before = self._notes.get(record.info.video_id)
        masks = before.masks if before else ()
        if batches := record.take_unsaved():
            sink = io.BytesIO()
            with pa.ipc.new_file(sink, SPILLED) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            masks = (*masks, self._write(unit, f"{record.frames}.arrow", sink.getvalue()))
        saved = io.BytesIO()
        content = {
            "state": [getattr(state, field.name) for field in fields(state)],
            "times_s": torch.tensor(record.times_s, dtype=torch.float64),
            "tallies": {track: asdict(tally) for track, tally in record.tallies.items()},
            "dropped_births": record.dropped_births,
        }
        torch.save(content, saved)
        note = Note(record.frames, self._write(unit, f"{record.frames}.pt", saved.getvalue()), masks)
        self._store.write_json(self._key(unit, "note.json"), asdict(note) | {"video_id": record.info.video_id})
        self._notes[record.info.video_id] = note
        self.any = True

    def _write(self, unit: str, name: str, content: bytes) -> str:
        self._store.write_bytes(self._key(unit, name), content)
        return self._key(unit, name)

    def _key(self, unit: str, name: str) -> str:
        return f"{HALFWAY}/{unit}/{self._attempt}/{name}"

    def _of_earlier_attempts(self, units: Sequence[str]) -> dict[str, Note]:
        found: dict[str, Note] = {}
        keys = [key for unit in units for key in self._store.list(f"{HALFWAY}/{unit}") if key.endswith(".json")]
        for _, note in self._store.readable(keys, self._store.read_json):
            video_id = note.pop("video_id")
            if video_id not in found or found[video_id].frames < note["frames"]:
                found[video_id] = Note(**note | {"masks": tuple(note["masks"])})
        return found


def forget(store: Store, units: Iterable[str]) -> None:
    """Remove the notes of films that are over, as far as they are there and may be removed: nobody needs them."""
    for unit in units:
        for key in store.list(f"{HALFWAY}/{unit}"):
            with suppress(OSError):
                store.fs.rm(store.path(key))
