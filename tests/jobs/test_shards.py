"""Which videos are played one after the other, and when a run gives up."""

import functools
from typing import Any

import pytest

from jobs.archives.archive import VideoSource
from jobs.segmentation.plans import Unit
from jobs.segmentation.segment import CRASHES, SHARD_VIDEOS, _HowFar, split
from jobs.store import Part


@pytest.mark.unit
def test_where_most_videos_end_their_worker_the_run_stops():
    shards = {unit.id: [unit] for unit in map(film, range(40))}
    played = {"done": 1, "frames": 6}
    ended = {"failed": 1, "frames": 0, "crashed": 1}

    def play(counts: list[dict[str, int]]) -> None:
        how_far = _HowFar(shards, None)
        for shard, each in zip(shards, counts, strict=False):
            how_far.committed(part_of(shard, each))

    play([ended] * (CRASHES - 1) + [played])
    play([played] * CRASHES + [ended] * CRASHES)
    with pytest.raises(RuntimeError, match=f"{CRASHES} videos ended their worker and 2 did not"):
        play([played] * 2 + [ended] * CRASHES)


def film(number: int, size_bytes: int = 2**20) -> Unit:
    name = f"{number:05d}"
    return Unit(name, VideoSource(video_id=name, uri="", kind="film", content_id="", size_bytes=size_bytes))


def frames(number: int, count: int) -> Unit:
    """A folder of frames, whose size says nothing of its footage."""
    names = tuple(str(name) for name in range(count))
    source = {"uri": "", "kind": "frames", "content_id": "", "size_bytes": 2**30, "frames": names}
    return Unit(f"{number:05d}", VideoSource(video_id=f"{number:05d}", **source))


def part_of(shard: str, counts: dict[str, int]) -> Part:
    names = dict.fromkeys(("run_id", "plan_id", "lake", "archive", "model", "attempt", "created_at"), "")
    return Part(shard=shard, units=("u",), files={}, counts=counts, seconds={}, **names)


def test_shards_hold_every_video_once_in_the_order_of_the_tables_and_cost_about_the_same():
    units = [frames(n, 1 + 100 * (n % 7)) for n in range(100)]
    shards = split(units)
    in_order = [unit.id for _, shard in sorted(shards.items()) for unit in shard]
    assert in_order == [unit.id for unit in units]
    assert max(len(shard) for shard in shards.values()) <= SHARD_VIDEOS
    costs = [sum(len(unit.source.frames) for unit in shard) for shard in shards.values()]
    assert costs == sorted(costs, reverse=True), "what takes long begins first"
    assert max(costs) <= 1100
    assert split(list(reversed(units))) == shards, "the order of listing does not matter"


@pytest.mark.unit
@pytest.mark.parametrize("video", [functools.partial(film, size_bytes=2**17), functools.partial(frames, count=300)])
def test_a_few_films_of_some_seconds_are_shared_among_workers_and_a_kill_costs_one_of_them(video: Any):
    assert [len(shard) for shard in split([video(n) for n in range(7)]).values()] == [1] * 7


@pytest.mark.unit
def test_in_a_large_archive_a_kill_costs_little_of_it_and_workers_play_side_by_side():
    clips = split([frames(n, 36) for n in range(3000)])
    assert max(len(shard) for shard in clips.values()) == SHARD_VIDEOS
    hours = split([frames(n, 1000) for n in range(2000)])
    assert 64 <= len(hours) <= 200
    assert min(len(shard) for shard in hours.values()) >= 8
