"""Films that were left in the middle, in one process; `test_faults.py` kills real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from jobs.archives.archive import VideoSource, list_videos
from jobs.segmentation.halfway import Halfway, forget
from jobs.segmentation.plans import HALFWAY, noted
from jobs.segmentation.records import MaskSpill, VideoRecord
from jobs.segmentation.side_by_side import SideBySide
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs import barcode

from ..vis_models.entrants import MODELS, Entrant, fresh

pytestmark = pytest.mark.unit

FILMS = {"1.mp4": 9, "2.mp4": 13}
LEFT_AT = 8
"""Frames of both films together after which the first attempt ends."""


class Counted(nn.Module):
    """A model that counts the frames that it is shown."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.frames = model, 0

    def encode(self, frames: Any) -> Any:
        self.frames += len(frames.pixels)
        return self.model.encode(frames)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(self.model, name)


def of_every_model(entrant: Entrant) -> Callable[[], Any]:
    return lambda: fresh(entrant)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for film, frames in enumerate(FILMS.values(), start=1):
        barcode.write_film(folder / f"{film}.mp4", film, frames)
    return folder


class Left(Exception):
    """The worker is gone."""


def play(
    store: Store, sources: list[VideoSource], model: Any, attempt: str, leave_at: int | None = None
) -> dict[str, tuple]:
    """What is known of each film in the end: tracks, masks, times."""

    def say(frames: int) -> None:
        if leave_at is not None and frames >= leave_at:
            raise Left

    units = {source.video_id: f"unit-{source.video_id}" for source in sources}
    halfway = Halfway(store, units, attempt, every_s=0, look=noted(store))
    stage = SideBySide(model, "cpu", store, videos_at_once=2, frames_per_batch=4, threads=2, say=say, halfway=halfway)
    spill = MaskSpill()
    outcomes = list(stage.play(sources, spill))
    spill.finish()
    return {outcome.source.video_id: known(outcome.record) for outcome in outcomes if outcome.record}


def known(record: VideoRecord) -> tuple:
    names = {"plan_id": "p", "unit": "u", "archive": "a", "model": "m", "category": "c"}
    common = names | {"video_id": record.info.video_id, "category_id": 1, "track_score": 0.5}
    rows = [row for track in record.tracks(0)[0] for table in record.masks(track, common) for row in table.to_pylist()]
    return record.tallies, rows, record.times_s, record.dropped_births


@pytest.mark.parametrize("make", [barcode.Barcode, *map(of_every_model, MODELS)])
def test_a_film_that_was_left_in_the_middle_ends_as_if_it_had_not_been(
    films: Path, tmp_path: Path, make: Callable[[], Any]
):
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    sources = list_videos(str(films), store)
    whole = play(store, sources, make(), "001-whole")
    assert all(tallies for tallies, *_ in whole.values())
    forget(store, noted(store))
    with pytest.raises(Left):
        play(store, sources, make(), "002-left", LEFT_AT)
    with pytest.raises(Left):
        play(store, sources, make(), "003-left-again", LEFT_AT)
    model = Counted(make())
    assert play(store, sources, model, "004-to-the-end") == whole
    assert model.frames < sum(FILMS.values())
    forget(store, noted(store))
    assert store.list(HALFWAY) == []


def test_a_note_that_was_cut_off_is_passed_over(films: Path, tmp_path: Path):
    store = Store.open(Settings(store=str(tmp_path / "lake")))
    sources = list_videos(str(films), store)
    with pytest.raises(Left):
        play(store, sources, barcode.Barcode(), "001-left", LEFT_AT)
    for key in store.list(HALFWAY):
        if key.endswith(".json"):
            store.write_bytes(key, b"{")
    model = Counted(barcode.Barcode())
    play(store, sources, model, "002-to-the-end")
    assert model.frames == sum(FILMS.values())
