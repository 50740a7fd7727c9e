"""What a model says about videos -> rows of the four tables, in memory that does not grow with a video's length.

Category and score of a track are known when it ends, and files are sorted by video and track, so masks wait: as bytes,
on local disk, in batches of at most SPILL_ROWS. In memory stay one batch, a tally of fixed size per track, eight bytes
per frame for its time, and three numbers per batch that a track is in.
"""

import mmap
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from jobs import tables
from vis_models import masks
from vis_models.types import Tracks, VideoInfo

SPILL_ROWS = 8192
SPILL_BYTES = 8 * 2**20
SPILLED = pa.schema([(name, tables.MASKS.field(name).type) for name in (
    "track_id", "frame_idx", "time_s", "score", "area_px", "x0_px", "y0_px", "x1_px", "y1_px", "rle"
)])  # fmt: skip


class MaskSpill:
    """Rows of masks on local disk, written in the order in which they come and read back track by track."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="vis-masks-")  # noqa: SIM115 - lives as long as the spill
        self._writer = pa.ipc.new_file(self._file, SPILLED)
        self._rows: list[tuple] = []
        self._bytes = 0
        self._batches = 0
        self._runs: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
        """(video, track) -> (batch, offset, length) of its rows."""

    def add(self, video: int, row: tuple) -> None:
        """One mask, with its values in the order of SPILLED."""
        self._rows.append((video, row))
        self._bytes += len(row[-1])
        if len(self._rows) >= SPILL_ROWS or self._bytes >= SPILL_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._rows.sort(key=lambda item: (item[0], *item[1][:2]))
        start = 0
        for place, (video, row) in enumerate(self._rows):
            following = self._rows[place + 1] if place + 1 < len(self._rows) else None
            if following is None or (following[0], following[1][0]) != (video, row[0]):
                self._runs[video, row[0]].append((self._batches, start, place + 1 - start))
                start = place + 1
        self._writer.write_batch(as_batch([row for _, row in self._rows]))
        self._batches += 1
        self._rows, self._bytes = [], 0

    def take(self, video: int, batch: pa.RecordBatch) -> None:
        """Masks of one video that were spilled before by somebody else, sorted by track and frame."""
        self._flush()
        start = 0
        for track_id, rows in groupby(batch["track_id"].to_pylist()):
            length = sum(1 for _ in rows)
            self._runs[video, track_id].append((self._batches, start, length))
            start += length
        self._writer.write_batch(batch)
        self._batches += 1

    def finish(self) -> None:
        """No more rows come; `read` works from now on. The file is mapped, not loaded."""
        self._flush()
        self._writer.close()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))

    def read(self, video: int, track_id: int) -> Iterator[pa.RecordBatch]:
        """The rows of one track, in the order of its frames."""
        for batch, offset, length in self._runs[video, track_id]:
            yield self._reader.get_batch(batch).slice(offset, length)

    def close(self) -> None:
        self._file.close()


def as_batch(rows: Sequence[tuple]) -> pa.RecordBatch:
    """Rows with their values in the order of SPILLED."""
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(each, kind.type) for each, kind in zip(columns, SPILLED, strict=True)], SPILLED)


@dataclass
class Tally:
    """What the table tracks says about one track, kept up to date mask by mask."""

    first_frame: int
    last_frame: int = -1
    start_s: float | None = None
    end_s: float | None = None
    n_obs: int = 0
    gap_count: int = 0
    score_sum: float = 0.0
    score_max: float = 0.0
    area_sum: int = 0
    area_max: int = 0
    box: list[float] = field(default_factory=list)
    category: int = -1
    score: float | None = None
    """None until the model's verdict."""
    others: Sequence[Sequence[Any]] = ()
    """Further categories with their scores."""
    withdrawn: bool = False
    """The model took back all that it said of it."""

    def see(self, frame: int, time_s: float | None, score: float, area: int, box: Sequence[float]) -> None:
        if not self.n_obs:
            self.start_s, self.box = time_s, list(box)
        self.gap_count += bool(self.n_obs and frame > self.last_frame + 1)
        self.last_frame, self.end_s = frame, time_s
        self.n_obs += 1
        self.score_sum += score
        self.score_max = max(self.score_max, score)
        self.area_sum += area
        self.area_max = max(self.area_max, area)
        self.box = [*map(min, self.box[:2], box[:2]), *map(max, self.box[2:], box[2:])]


class VideoRecord:
    """What was seen of one video so far."""

    def __init__(self, info: VideoInfo, place: int, spill: MaskSpill) -> None:
        self.info = info
        self.dropped_births = 0
        self.times_s = array("d")
        """Of each frame that went to the model; NaN where it has none."""
        self.tallies: dict[int, Tally] = {}
        self._place = place
        self._spill = spill
        self._unsaved: list[tuple] | None = None

    def remember(self) -> None:
        """Hold masks for `take_unsaved` from now on."""
        self._unsaved = []

    def take_unsaved(self) -> list[pa.RecordBatch]:
        """The masks since the last call, sorted by track and frame, in batches of at most SPILL_ROWS."""
        rows, self._unsaved = sorted(self._unsaved or [], key=lambda row: row[:2]), []
        return [as_batch(rows[start : start + SPILL_ROWS]) for start in range(0, len(rows), SPILL_ROWS)]

    def restore(
        self, times_s: array, tallies: dict[int, Tally], dropped_births: int, batches: Iterable[pa.RecordBatch]
    ) -> None:
        """Be as another record of the same video was, of which `batches` are all masks."""
        self.times_s, self.tallies, self.dropped_births = times_s, tallies, dropped_births
        for batch in batches:
            self._spill.take(self._place, batch)

    def frame(self, time_s: float | None) -> None:
        """The next frame goes to the model."""
        self.times_s.append(float("nan") if time_s is None else time_s)

    @property
    def frames(self) -> int:
        return len(self.times_s)

    def add(self, tracks: Tracks) -> None:
        """Run-length code what the model sees; a track without a pixel in a frame has no mask there."""
        height, width = self.info.height, self.info.width
        self.dropped_births += tracks.dropped_births
        for sighting in tracks.sightings:
            time = self.times_s[sighting.frame]
            time_s = None if time != time else time
            rles, areas = sighting.masks.rles(), sighting.masks.areas_px()
            boxes = masks.boxes_px(rles, height, width).tolist()
            for track_id, score, area, box, rle in zip(
                sighting.track_ids, sighting.scores, areas, boxes, rles, strict=True
            ):
                tally = self.tallies.setdefault(track_id, Tally(first_frame=sighting.frame))
                if area:
                    if not tally.n_obs:
                        tally.first_frame = sighting.frame
                    tally.see(sighting.frame, time_s, score, area, box)
                    row = (track_id, sighting.frame, time_s, score, area, *box, rle)
                    self._spill.add(self._place, row)
                    if self._unsaved is not None:
                        self._unsaved.append(row)
        for verdict in tracks.verdicts:
            tally = self.tallies.setdefault(verdict.track_id, Tally(first_frame=0))
            assert tally.score is None, f"two verdicts about track {verdict.track_id} of {self.info.video_id}"
            tally.category, tally.score, tally.others = verdict.category, verdict.score, verdict.others
        for track_id in tracks.withdrawn:
            self.tallies.setdefault(track_id, Tally(first_frame=0)).withdrawn = True

    def tracks(self, min_score: float) -> tuple[dict[int, Tally], int]:
        """(tracks to write by id, number of tracks under `min_score`). Tracks without a single mask are neither,
        nor are those that were withdrawn."""
        seen = {id_: tally for id_, tally in sorted(self.tallies.items()) if tally.n_obs and not tally.withdrawn}
        undecided = [track_id for track_id, tally in seen.items() if tally.score is None]
        assert not undecided, f"no verdict about tracks {undecided[:5]} of {self.info.video_id}"
        kept = {track_id: tally for track_id, tally in seen.items() if (tally.score or 0) >= min_score}
        return kept, len(seen) - len(kept)

    def masks(self, track_id: int, common: dict[str, Any]) -> Iterator[pa.Table]:
        """The masks of one track as rows of the table; `common` has the columns that are equal in all of them."""
        common = common | {"height_px": self.info.height, "width_px": self.info.width}
        for batch in self._spill.read(self._place, track_id):
            columns = [
                batch[name] if name in SPILLED.names else pa.repeat(pa.scalar(common[name], kind.type), len(batch))
                for name, kind in zip(tables.MASKS.names, tables.MASKS, strict=True)
            ]
            yield pa.Table.from_arrays(columns, schema=tables.MASKS)


def track_row(track_id: int, tally: Tally, names: Sequence[str]) -> dict[str, Any]:
    """A row of the table tracks, without the columns that name the plan, the video and the category.

    Args:
        names: of the model's categories.
    """
    x0, y0, x1, y1 = tally.box
    duration_s = None if tally.start_s is None or tally.end_s is None else tally.end_s - tally.start_s
    return {
        "track_id": track_id,
        "score": tally.score,
        "other_classes": [(names[category], score) for category, score in tally.others] or None,
        "score_mean": tally.score_sum / tally.n_obs,
        "score_max": tally.score_max,
        "first_frame": tally.first_frame,
        "last_frame": tally.last_frame,
        "n_obs": tally.n_obs,
        "start_s": tally.start_s,
        "end_s": tally.end_s,
        "duration_s": duration_s,
        "area_mean_px": tally.area_sum / tally.n_obs,
        "area_max_px": tally.area_max,
        "x0_px": x0,
        "y0_px": y0,
        "x1_px": x1,
        "y1_px": y1,
        "gap_count": min(tally.gap_count, 32_767),
        "stitched": False,
    }
