"""Frozen splits: a rule says which videos of a labelled set are held out, and a hash names the outcome. No torch."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import Field

from vis_models.config import BadConfig, Config

RGNN_FIRST_HELD_ID = 2019
"""Johnander et al. hold out the videos of YouTube-VIS 2019 train with ids from here: 200 of those of 1280x720."""


class HoldOut(Config):
    """A rule that splits a labelled set."""

    rule: Literal["rgnn", "hash"] = "hash"
    """`rgnn`: only videos of 1280x720 px, ids from 2019 are held out (1867 and 200 of YouTube-VIS 2019 train).
    `hash`: a share of the videos, by their names."""
    share: float = Field(0.1, gt=0, lt=1)
    """Of `hash`: how many are held out, about."""

    @classmethod
    def named(cls, text: str) -> "HoldOut":
        """`rgnn`, or a share such as `0.1`. Raises BadConfig: neither."""
        try:
            return cls(rule="rgnn") if text == "rgnn" else cls(share=float(text))
        except ValueError:
            raise BadConfig(
                f"hold-out rule {text!r}: expected rgnn (ids from {RGNN_FIRST_HELD_ID} of the 1280x720 videos) or the "
                "share of the videos that is held out by name, such as 0.1"
            ) from None

    def __str__(self) -> str:
        return "rgnn" if self.rule == "rgnn" else repr(self.share)


@runtime_checkable  # so that tests can check what is handed over
class Video(Protocol):
    """What a rule looks at."""

    @property
    def video_id(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def file_names(self) -> Sequence[str]: ...


class ListedVideo(NamedTuple):
    """A video as a JSON lists it."""

    video_id: int
    height: int
    width: int
    file_names: Sequence[str]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "ListedVideo":
        return cls(entry["id"], entry["height"], entry["width"], entry["file_names"])


V = TypeVar("V", bound=Video)


def split(videos: Iterable[V], rule: HoldOut) -> tuple[list[V], list[V]]:
    """(to train on, held out), each in the order given; `rgnn` leaves videos of another size out of both."""
    if rule.rule == "rgnn":
        usable = [video for video in videos if (video.width, video.height) == (1280, 720)]
        held = [video.video_id >= RGNN_FIRST_HELD_ID for video in usable]
    else:
        usable = [*videos]
        held = [_place(video) < rule.share for video in usable]
    sides: tuple[list[V], list[V]] = ([], [])
    for video, is_held in zip(usable, held, strict=True):
        sides[is_held].append(video)
    return sides


def split_name(*parts: Iterable[Video]) -> str:
    """Names a split: equal when and only when every part has the same videos, in whatever order."""
    content = [sorted((video.video_id, _name(video)) for video in part) for part in parts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _place(video: Video) -> float:
    """0 to 1, the same on every machine and in every release that has this video, whatever its id there."""
    return int.from_bytes(hashlib.sha256(_name(video).encode()).digest()[:8]) / 2**64


def _name(video: Video) -> str:
    """The folder of its frames; the id where the frames of all videos share one."""
    folder = PurePosixPath(video.file_names[0]).parent.name
    return folder or str(video.video_id)
