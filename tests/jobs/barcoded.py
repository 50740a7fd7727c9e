"""Archives of films whose frames carry their numbers, and what their tables must hold."""

from collections import Counter
from pathlib import Path
from typing import Any

from jobs import tables
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode

LENGTHS = {"1.mp4": 12, "2.mp4": 30, "3.mp4": 5, "deep/4.mp4": 21, "5": 9}


def many_films(folder: Path, count: int, frames: int = 6) -> Path:
    """More films than one shard holds."""
    for film in range(count):
        barcode.write_film(folder / f"{film}.mp4", film, frames)
    return folder


def read(settings: Settings, plan_id: str | None = None) -> dict[str, list[dict[str, Any]]]:
    opened = tables.open(Store.open(settings), plan_id)
    return {name: dataset.to_table().to_pylist() for name, dataset in opened.items()}


def check_barcodes(rows: dict[str, list[dict[str, Any]]], lengths: dict[str, int]) -> None:
    """Every frame of every video was seen once, in its own video, and by a track of its own."""
    found = sorted((row["video_id"], row["track_id"], row["frame_idx"], row["area_px"]) for row in rows["masks"])
    wanted = []
    for name, frames in lengths.items():
        film = int(Path(name).stem)
        wanted += [(name, film, frame, 10 * (1 + frame % 20)) for frame in range(frames)]
        wanted += [(name, 1000, frame, 100) for frame in range(0, frames, 2)]
    assert found == sorted(wanted)


def one_row_each(store: Store, films: int) -> Counter[str]:
    """Errors by code, of an archive in which every film is one row of `videos`, and has one of `errors` if not done."""
    opened = {name: dataset.to_table().to_pylist() for name, dataset in tables.open(store).items()}
    assert len({row["video_id"] for row in opened["videos"]}) == len(opened["videos"]) == films
    damaged = {row["video_id"] for row in opened["videos"] if row["status"] != "done"}
    assert sorted(damaged) == sorted(row["video_id"] for row in opened["errors"])
    assert {row["video_id"] for row in opened["masks"]} <= {row["video_id"] for row in opened["videos"]}
    return Counter(row["code"] for row in opened["errors"])
