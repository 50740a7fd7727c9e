"""Speed and memory of the data plane: `python -m tests.bench_lake` (some minutes, 2 GB of disk and of memory).

Films of 8 frames through a stub of a model, by one worker; planning of a million videos, of which all, or one in a
hundred, are still to be done; questions about ten million masks, beside the same over a plain glob of the files. Each
in a process of its own. Times are seconds of CPU, imports left out, but those of questions: wall, median of 3.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import tables
from jobs.lake import Lake
from jobs.reporting import query
from jobs.settings import Settings
from jobs.store import FileRef, Store
from tests import published

FILMS, VIDEOS, MASKS = 1000, 1_000_000, 10_000_000
TRACK = 100
"""Masks of a track; a video of the questions has ten tracks."""

PLAY = """
import sys, time
from jobs.segmentation import segment as segmenting
from jobs.segmentation.segment import SegmentJob, segment
from jobs.settings import Settings
from tests.jobs import barcode
from tests.jobs.here import here

segmenting._pool = here
archive, model, lake = sys.argv[1:]
began = time.process_time()
segment(SegmentJob(archive=archive, model=model), Settings(store=lake), load=barcode.load)
print(time.process_time() - began)
"""
PLAN = """
import json, resource, sys, time
from jobs.segmentation.segment import SegmentJob, work_of
from jobs.settings import Settings
from jobs.store import Store
from vis_models.cards import read_card
from pathlib import Path

manifest, model, lake = sys.argv[1:]
store = Store.open(Settings(store=lake))
began, wall = time.process_time(), time.perf_counter()
work = work_of(store, SegmentJob(archive=manifest, model=model), read_card(Path(model)))
taken = time.process_time() - began, time.perf_counter() - wall
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps([len(work.units), len(work.todo), *taken, peak]))
"""
QUESTIONS = {
    "all masks of one video": "SELECT frame_idx, track_id, area_px, rle FROM {masks} WHERE video_id = 'v004321'",
    "tracks of a class by score": "SELECT video_id, track_id, score FROM {tracks} WHERE category = 'class 3' "
    "ORDER BY score DESC LIMIT 100",
    "masks per class and minute": "SELECT category, floor(time_s / 60) AS minute, count(*) AS n FROM {masks} "
    "GROUP BY ALL ORDER BY ALL",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        films(Path(folder))
        planning(Path(folder))
        questions(Path(folder))


def films(folder: Path, count: int = FILMS) -> None:
    from tests.jobs import barcode

    for film in range(count):
        barcode.write_film(folder / f"films/{film:05d}.mp4", film % 100, 8)
    model = barcode.write_model(folder / "barcode")
    seconds = float(_child(PLAY, folder / "films", model, folder / "played"))
    files = sum(1 for _ in (folder / "played/tables").rglob("*.parquet"))
    lake = Lake(Store.open(Settings(store=str(folder / "played"))))
    named = sum(len(keys) for keys in lake.files().values())
    decoding = sum(lake.batches()["decode_s"].to_pylist())
    print(f"\n{count} films of 8 frames, stub, one worker: {1000 * seconds / count:.1f} ms each")
    print(f"  {1000 * decoding / count:.1f} ms of it decoding, {1000 * (seconds - decoding) / count:.1f} ms all else")
    print(
        f"  {100 * named / count:.1f} files named by the tables for 100 films, {files} in their folders before a vacuum"
    )


def planning(folder: Path, count: int = VIDEOS) -> None:
    from tests.jobs import barcode

    names = [f"cam{n % 50:02d}/2026/clip_{n:07d}.mp4" for n in range(count)]
    etags = [f"{n:032x}" for n in range(count)]
    manifest = {"id": names, "uri": [f"/films/{name}" for name in names], "size": [10**7] * count, "etag": etags}
    pq.write_table(pa.table(manifest), folder / "million.parquet")
    model = barcode.write_model(folder / "planner")
    print(f"\nplanning {count:,} videos of a manifest    to do   CPU s  wall s     GB")
    for done in (0, count - count // 100):
        if done:
            _publish_units(folder, model, done)
        _, todo, cpu, wall, peak = json.loads(_child(PLAN, folder / "million.parquet", model, folder / "planned"))
        print(f"  {done:10,} done before {todo:20,} {cpu:7.1f} {wall:7.1f} {peak:6.2f}")


def _publish_units(folder: Path, model: Path, done: int) -> None:
    """The rows that these videos would have, if they had been segmented."""
    from jobs.segmentation.segment import SegmentJob, work_of
    from vis_models.cards import read_card

    store = Store.open(Settings(store=str(folder / "planned")))
    work = work_of(store, SegmentJob(archive=str(folder / "million.parquet"), model=str(model)), read_card(model))
    refs: dict[str, FileRef] = {}
    with tables.create(store, "tables/videos/part-made.parquet", "videos", {}, refs) as writer:
        for start in range(0, done, 50_000):
            units = work.units[start : min(done, start + 50_000)]
            rows = {field.name: [_nothing(field)] * len(units) for field in tables.VIDEOS}
            rows |= {"video_id": [unit.source.video_id for unit in units], "unit": [unit.id for unit in units]}
            rows |= {"plan_id": [work.plan_id] * len(units), "status": ["done"] * len(units)}
            writer.write(pa.table(rows, schema=tables.VIDEOS))
    published.stand(store, work.plan_id, {"videos": [refs["videos"]]}, {unit.id for unit in work.units[:done]})


def _nothing(field: pa.Field) -> object:
    if field.nullable:
        return None
    return "" if pa.types.is_string(field.type) else False if pa.types.is_boolean(field.type) else 0


def questions(folder: Path, masks: int = MASKS) -> None:
    store = Store.open(Settings(store=str(folder / "asked")))
    refs = {"masks": list(_masks(store, masks)), "tracks": [_tracks(store, masks)]}
    published.stand(store, "p", refs, {"u"}, archive="films")
    Lake(store).compact()
    files = {name: len(keys) for name, keys in Lake(store).files().items()}
    print(f"\n{masks:,} masks in {files['masks']} files           vis query   glob  ratio")
    for asks, sql in QUESTIONS.items():
        ours = _median(lambda sql=sql: query.run(sql.format(masks="masks", tracks="tracks"), store))
        globs = {name: f"'{store.path('tables')}/{name}/*.parquet'" for name in ("masks", "tracks")}
        _vacuum(store)
        plain = _median(lambda sql=sql, globs=globs: duckdb.sql(sql.format(**globs)).to_arrow_table())
        print(f"  {asks:38}{ours:8.2f} s {plain:5.2f} s {ours / plain:5.1f}")


def _vacuum(store: Store) -> None:
    Lake(store).vacuum(hours=0, dry_run=False)


def _masks(store: Store, count: int, at_once: int = 1_000_000) -> Iterator[FileRef]:
    random = np.random.default_rng(0)
    rle = pa.array([bytes(random.integers(0, 256, 60, np.uint8)) for _ in range(1000)], pa.large_binary())
    for start in range(0, count, at_once):
        n = np.arange(start, min(count, start + at_once))
        video, track, frame = n // (10 * TRACK), n // TRACK % 10, n % TRACK
        kinds = video % 40
        columns = {
            "video_id": pa.array([f"v{each:06d}" for each in video]),
            "unit": pa.array([f"{each:032x}" for each in video]),
            "category": pa.array([f"class {kind}" for kind in kinds]),
            "track_id": track, "frame_idx": frame, "time_s": frame + start % 7 * 30.0, "category_id": kinds,
            "score": random.random(len(n)), "area_px": random.integers(1, 9999, len(n)),
            "rle": rle.take(pa.array(n % 1000)),
        }  # fmt: skip
        yield _write(store, "masks", columns, len(n), start)


def _tracks(store: Store, masks: int) -> FileRef:
    n = np.arange(masks // TRACK)
    kinds = n // 10 % 40
    columns = {
        "video_id": pa.array([f"v{each:06d}" for each in n // 10]), "track_id": n % 10, "category_id": kinds,
        "category": pa.array([f"class {kind}" for kind in kinds]),
        "score": np.random.default_rng(1).random(len(n)),
    }  # fmt: skip
    return _write(store, "tracks", columns, len(n), 0)


def _write(store: Store, name: str, columns: dict, rows: int, number: int) -> FileRef:
    schema = tables.SCHEMAS[name]
    given = {field.name: columns.get(field.name, [_nothing(field)] * rows) for field in schema}
    given |= {key: ["p"] * rows for key in ("plan_id", "archive", "model")}
    refs: dict[str, FileRef] = {}
    with tables.create(store, f"tables/{name}/part-{number:09d}.parquet", name, {}, refs) as writer:
        writer.write(pa.table({key: pa.array(value, schema.field(key).type) for key, value in given.items()}, schema))
    return refs[name]


def _median(run: object) -> float:
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        run()  # type: ignore[operator]
        taken.append(time.perf_counter() - began)
    return sorted(taken)[1]


def _child(code: str, *given: Sequence[str] | Path) -> str:
    command = [sys.executable, "-c", code, *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
