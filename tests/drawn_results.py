"""Results files and tables of any size, drawn without a pixel: what the evaluator's speed is measured on.

A mask is one of a few blobs, moved: in COCO's code only the first and the last number depend on the place, so a moved
blob costs two numbers and a join. Half of the predictions follow an object of their video, more or less closely and
under its category; the others are anywhere. The three sizes are those of evaluations that people run.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from jobs import tables
from jobs.store import FileRef, Store
from tests import published

HEIGHT, WIDTH = 720, 1280
SHAPES, POSES = 24, 4
SEEN = 0.9
"""Share of the frames in which a track has a mask."""


@dataclass(frozen=True)
class Drawing:
    """How many of everything."""

    videos: int
    frames: int
    categories: int
    objects: float
    """Of a video, mean."""
    predictions: int
    """Of a video."""


SETS = {
    "YouTube-VIS, 10 predictions": Drawing(302, 27, 40, 1.7, 10),
    "YouTube-VIS, 100 predictions": Drawing(302, 27, 40, 1.7, 100),
    "OVIS-like, 100 predictions": Drawing(140, 61, 1, 5.8, 100),
}


@dataclass(frozen=True)
class Track:
    """A track of a video; `rles` and `areas_px` by frame, None and 0 where it is not visible."""

    category: int
    score: float
    rles: list[bytes | None]
    areas_px: list[int]


@dataclass(frozen=True)
class Blob:
    """A mask that can be moved: everything between the first and the last number of its code."""

    first: int
    middle: bytes
    last: int
    """The last run minus the run two before it."""
    area_px: int
    spare: tuple[int, int]
    """Rows and columns that it can be moved, down and to the right."""

    def at(self, top: int, left: int) -> bytes:
        shift = top + HEIGHT * left
        return number(self.first + shift) + self.middle + number(self.last - shift)


def number(value: int) -> bytes:
    """One number of a COCO string: 5 bits a digit, lowest first."""
    digits = bytearray()
    while True:
        digit, value = value & 31, value >> 5
        more = value != (-1 if digit & 16 else 0)
        digits.append(48 + digit + 32 * more)
        if not more:
            return bytes(digits)


def blobs(rng: np.random.Generator) -> list[list[Blob]]:
    """POSES of each of SHAPES: ellipses with a ragged edge, about 610 bytes each."""
    return [_poses(rng, int(rng.integers(110, 330)), int(rng.integers(80, 420))) for _ in range(SHAPES)]


def _poses(rng: np.random.Generator, columns: int, rows: int) -> list[Blob]:
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    poses = []
    for _ in range(POSES):
        half = np.sqrt(1 - x**2) * rows / 2
        edges = rng.integers(-14, 15, (2, columns)) * min(1, rows / 200)
        top = np.clip(rows / 2 - half + edges[0], 0, rows - 2).astype(int)
        lengths = np.maximum((rows / 2 + half + edges[1]).astype(int).clip(max=rows) - top, 1)
        starts = np.arange(columns) * HEIGHT + top
        gaps = np.diff(np.concatenate([[0], starts + lengths, [HEIGHT * WIDTH]]))
        runs = np.empty(2 * columns + 1, int)
        runs[1::2], runs[::2] = lengths, gaps - np.concatenate([lengths, [0]])
        code = runs.copy()
        code[3:] -= runs[1:-2]
        middle = b"".join(map(number, code[1:-1].tolist()))
        poses.append(Blob(int(code[0]), middle, int(code[-1]), int(lengths.sum()), (HEIGHT - rows, WIDTH - columns)))
        whole = coco.decode({"size": [HEIGHT, WIDTH], "counts": poses[-1].at(3, 5)})
        assert whole.sum() == lengths.sum(), "the code of a blob is wrong"
    return poses


def draw(drawing: Drawing, seed: int = 0) -> Iterator[tuple[int, list[Track], list[Track]]]:
    """(video id, objects, predictions) of each video."""
    rng = np.random.default_rng(seed)
    shapes = blobs(rng)
    for video in range(1, drawing.videos + 1):
        ways = []
        objects = []
        for _ in range(max(1, rng.poisson(drawing.objects))):
            shape = int(rng.integers(SHAPES))
            way = rng.random(2) + np.outer(np.arange(drawing.frames), rng.normal(0, 0.01, 2))
            ways.append((shape, way, int(rng.integers(1, drawing.categories + 1))))
            objects.append(_track(rng, shapes[shape], way, 0.0, ways[-1][2], 1.0))
        predictions = []
        for n in range(drawing.predictions):
            shape, way, category = ways[int(rng.integers(len(ways)))]
            looseness = float(rng.exponential(0.05))
            if n % 2:
                way, category = way + rng.normal(0, 0.4, 2), int(rng.integers(1, drawing.categories + 1))
            score = 1 / (1 + np.exp(30 * looseness + 2 * (n % 2) - 2 - rng.normal(0, 0.7)))
            predictions.append(_track(rng, shapes[shape], way, looseness, category, float(score)))
        yield video, objects, predictions


def _track(
    rng: np.random.Generator, poses: list[Blob], way: np.ndarray, looseness: float, category: int, score: float
) -> Track:
    """`way` (T, 2): top and left as shares of the room that there is; beyond it the way is folded back."""
    shares = np.abs((way + rng.normal(0, looseness + 1e-9, way.shape)) % 2 - 1)
    rles: list[bytes | None] = []
    areas = []
    for frame, ((top, left), seen) in enumerate(zip(shares.tolist(), rng.random(len(way)) < SEEN, strict=True)):
        blob = poses[frame % POSES]
        rles.append(blob.at(int(top * blob.spare[0]), int(left * blob.spare[1])) if seen else None)
        areas.append(blob.area_px if seen else 0)
    return Track(category, score, rles, areas)


def write(drawing: Drawing, folder: Path, store: Store, seed: int = 0) -> tuple[Path, Path]:
    """(ground truth, results) as JSON in `folder`, and the same predictions as the published plan `drawn`."""
    truth: dict[str, Any] = {"videos": [], "annotations": []}
    truth["categories"] = [{"id": n, "name": f"category {n}"} for n in range(1, drawing.categories + 1)]
    rows: dict[str, list[dict[str, Any]]] = {"videos": [], "tracks": [], "errors": []}
    refs: dict[str, FileRef] = {}
    labels, results = folder / "gt.json", folder / "results.json"
    key = "tables/masks/part-drawn.parquet"
    with results.open("w") as file, tables.create(store, key, "masks", {}, refs) as writer:
        # The tables are sorted by the text of the id; the drawing is made in that order.
        for video, objects, predictions in sorted(draw(drawing, seed), key=lambda drawn: str(drawn[0])):
            names = [f"{video}/{frame}.jpg" for frame in range(drawing.frames)]
            truth["videos"].append({"id": video, "height": HEIGHT, "width": WIDTH, "file_names": names})
            for each in objects:
                entry = {"id": len(truth["annotations"]) + 1, "iscrowd": 0, "areas": each.areas_px}
                truth["annotations"].append(entry | _entry(video, each))
            for each in predictions:
                file.write(",\n" if file.tell() else "[")
                json.dump(_entry(video, each) | {"score": float(np.float32(each.score))}, file)
            rows["videos"].append(_video_row(video, drawing.frames, len(predictions)))
            rows["tracks"] += [_track_row(video, n, each) for n, each in enumerate(predictions)]
            writer.write(_mask_rows(video, predictions))
        file.write("]")
    labels.write_text(json.dumps(truth))
    for name, content in rows.items():
        if content:
            filled = [published.filled(row, "drawn", str(labels)) for row in content]
            with tables.create(store, f"tables/{name}/part-drawn.parquet", name, {}, refs) as writer:
                writer.write(tables.from_rows(name, filled))
    classes = {n: f"category {n}" for n in range(1, drawing.categories + 1)}
    units = {f"drawn/{row['video_id']}" for row in rows["videos"]}
    made = {name: [ref] for name, ref in refs.items()}
    lineage = {"class_map_json": json.dumps(classes)}
    published.stand(
        store, "drawn", made, units, archive=str(labels), model_sha256="0" * 64,
        created_at="2026-01-01T00:00:00+00:00", lineage=lineage,
    )  # fmt: skip
    return labels, results


def _entry(video: int, track: Track) -> dict[str, Any]:
    segmentations = [rle and {"size": [HEIGHT, WIDTH], "counts": rle.decode()} for rle in track.rles]
    return {"video_id": video, "category_id": track.category, "segmentations": segmentations}


def _video_row(video: int, frames: int, tracks_: int) -> dict[str, Any]:
    row = dict.fromkeys(("n_low_score_tracks", "n_dropped_births", "decode_ms", "infer_ms"), 0)
    row |= {"plan_id": "drawn", "video_id": str(video), "uri": "", "status": "done", "content_id": "", "run_id": ""}
    row |= {"width": WIDTH, "height": HEIGHT, "n_tracks": tracks_}
    return row | {"n_frames": frames, "sampled_frames": frames}


def _track_row(video: int, track_id: int, track: Track) -> dict[str, Any]:
    frames = np.flatnonzero(track.areas_px)
    row = dict.fromkeys(("score_mean", "score_max", "score"), track.score) | dict.fromkeys(_EDGES, 0.0)
    row |= {"plan_id": "drawn", "video_id": str(video), "track_id": track_id, "category_id": track.category}
    row |= {"first_frame": int(frames[0]), "last_frame": int(frames[-1]), "n_obs": len(frames), "gap_count": 0}
    row |= {"area_mean_px": 1.0, "area_max_px": 1.0, "stitched": False}
    return row | {"category": f"category {track.category}"}


_EDGES = ("x0_px", "y0_px", "x1_px", "y1_px")


def _mask_rows(video: int, tracks_: list[Track]) -> pa.Table:
    places = [(n, frame) for n, track in enumerate(tracks_) for frame, rle in enumerate(track.rles) if rle]
    whole = {name: [value] * len(places) for name, value in _SAME.items()}
    columns = whole | {
        "video_id": [str(video)] * len(places),
        "unit": [f"drawn/{video}"] * len(places),
        "track_id": [n for n, _ in places],
        "frame_idx": [frame for _, frame in places],
        "category_id": [tracks_[n].category for n, _ in places],
        "area_px": [tracks_[n].areas_px[frame] for n, frame in places],
        "rle": [tracks_[n].rles[frame] for n, frame in places],
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in tables.MASKS})


_SAME = dict.fromkeys(("score", *_EDGES), 0.0) | {
    "plan_id": "drawn",
    "archive": "gt.json",
    "model": "drawn",
    "category": "category",
    "track_score": 0.0,
    "time_s": None,
    "height_px": HEIGHT,
    "width_px": WIDTH,
}
