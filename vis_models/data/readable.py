"""Which frames of a data set cannot be read, found before anything is learned from it, and the set without them.

What is left out is decided once and then written down: clips that are drawn later depend on it and on nothing else, so
that every worker, and a run that goes on a week later, sees the same ones.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from vis_models.config import BadConfig
from vis_models.data.annotations import AnnotatedVideo, VideoSet

SHOWN = 3
"""Frames that a message names."""


@dataclass(frozen=True)
class Unreadable:
    """A frame that cannot be read."""

    file_name: str
    """As in the labels, unique in the data set."""
    reason: str
    """File, video, frame and what is wrong, in a sentence."""


def unreadable_frames(
    videos: VideoSet, share: float, tell: Callable[[int, int], None] = lambda done, total: None
) -> list[Unreadable]:
    """Decode every frame as training will.

    Args:
        share: of the frames, that may be unreadable.
        tell: called with frames read and frames in all.

    Raises:
        BadConfig: more than `share` of them cannot be read; found as early as that is certain.
    """
    places = [(video, index) for video in videos.videos for index in range(len(video.file_names))]
    if not places:
        return []
    absent = [place for place in places if not _is_there(*place)]
    if len(absent) > share * len(places):  # a wrong folder is seen at once
        named = [one for place in absent[:SHOWN] if (one := _try(place))]
        _refuse(videos, named, len(absent), len(places), share)
    found: list[Unreadable] = []
    with ThreadPoolExecutor(os.cpu_count()) as readers:
        for done, one in enumerate(readers.map(_try, places), start=1):
            if one:
                found.append(one)
                if len(found) > share * len(places):
                    readers.shutdown(cancel_futures=True)
                    _refuse(videos, found, len(found), len(places), share)
            if done % 100 == 0 or done == len(places):
                tell(done, len(places))
    return found


def without(videos: VideoSet, file_names: Iterable[str]) -> VideoSet:
    """The data set without these frames: the frames around one of them follow each other."""
    gone = set(file_names)
    return replace(videos, videos=tuple(_without(video, gone) for video in videos.videos)) if gone else videos


def in_words(found: list[Unreadable], videos: VideoSet) -> str:
    """What was left out, with the first reasons."""
    total = sum(len(video.file_names) for video in videos.videos)
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"left out {len(found)} of {total} frames of {videos.source}: {_first(found)}{more}"


def _without(video: AnnotatedVideo, gone: set[str]) -> AnnotatedVideo:
    kept = [index for index, name in enumerate(video.file_names) if name not in gone]
    if len(kept) == len(video.file_names):
        return video
    tracks = [replace(track, rles=tuple(track.rles[index] for index in kept)) for track in video.tracks]
    return replace(video, file_names=tuple(video.file_names[index] for index in kept), tracks=tuple(tracks))


def _is_there(video: AnnotatedVideo, index: int) -> bool:
    file = video.frames_dir / video.file_names[index]
    return file.is_file() and file.stat().st_size > 0


def _try(place: tuple[AnnotatedVideo, int]) -> Unreadable | None:
    video, index = place
    try:
        video.read_frame(index)
    except BadConfig as error:
        return Unreadable(video.file_names[index], str(error))
    return None


def _first(found: list[Unreadable]) -> str:
    return "; ".join(one.reason.removesuffix(".") for one in found[:SHOWN])


def _refuse(videos: VideoSet, found: list[Unreadable], count: int, total: int, share: float) -> None:
    raise BadConfig(
        f"{videos.source}: {count} of {total} frames at least cannot be read, {share:.1%} may be left out: "
        f"{_first(found)}. Or allow a larger share (--set unreadable_share=...)."
    )
