"""Whether the videos of a data set are still what they were: their labels, and the bytes of every frame.

A frame with the size and time that it had is taken for the same. Where one differs, as after a copy to another place,
the bytes of its video decide.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vis_models.data.annotations import AnnotatedVideo, VideoSet


class Fingerprint(NamedTuple):
    """Short digests of one video."""

    labels: str
    files: str
    """Names, sizes and times of its frames."""
    contents: str
    """Their bytes."""


def fingerprints(
    videos: VideoSet, tell: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Fingerprint]:
    """Of every video by id; reads every frame.

    Args:
        tell: called with videos read and videos in all.
    """

    def read(video: AnnotatedVideo) -> Fingerprint:
        return Fingerprint(_labels(video), _files(video), _contents(video))

    with ThreadPoolExecutor(os.cpu_count()) as readers:
        found = {}
        for done, (video, one) in enumerate(zip(videos.videos, readers.map(read, videos.videos), strict=True), 1):
            found[str(video.video_id)] = one
            tell(done, len(videos.videos))
    return found


def differences(videos: VideoSet, before: Mapping[str, Fingerprint]) -> Iterator[str]:
    """What is no longer as it was, a sentence for each video."""
    there = {str(video.video_id): video for video in videos.videos}
    for name in before.keys() - there.keys():
        yield f"video {name} is gone"
    for name, video in there.items():
        if name not in before:
            yield f"video {name} is new"
        elif _labels(video) != before[name].labels:
            yield f"video {name} has other labels"
        elif why := _other_frames(video, before[name]):
            yield f"video {name} {why}"


def _other_frames(video: AnnotatedVideo, before: Fingerprint) -> str:
    try:
        same = _files(video) == before.files or _contents(video) == before.contents
    except OSError as error:
        return f"has a frame that cannot be read: {error.filename}: {error.strerror}"
    return "" if same else f"has other frames ({video.frames_dir / video.file_names[0]} or one after it)"


def _labels(video: AnnotatedVideo) -> str:
    """Masks that are read when they are asked for, out of large archives, are not looked at."""
    tracks = tuple(replace(track, rles=track.rles if isinstance(track.rles, tuple) else ()) for track in video.tracks)
    return _digest(repr(replace(video, frames_dir=Path(), tracks=tracks)).encode())


def _files(video: AnnotatedVideo) -> str:
    found = [(name, (video.frames_dir / name).stat()) for name in video.file_names]
    return _digest(repr([(name, file.st_size, file.st_mtime_ns) for name, file in found]).encode())


def _contents(video: AnnotatedVideo) -> str:
    return _digest(*((video.frames_dir / name).read_bytes() for name in video.file_names))


def _digest(*parts: bytes) -> str:
    content = hashlib.blake2b(digest_size=8)
    for part in parts:
        content.update(len(part).to_bytes(8, "little"))
        content.update(part)
    return content.hexdigest()
