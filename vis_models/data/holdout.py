"""Frozen splits: a rule says which videos of a labelled set are held out, and a hash names the outcome. No torch."""

import hashlib
import json
import math
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import Field

from vis_models.config import BadConfig, Config
from vis_models.data.dialects import VideoId
from vis_models.data.frame_names import plain

RGNN_FIRST_HELD_ID = 2019
"""Johnander et al. hold out the videos of YouTube-VIS 2019 train with ids from here: 200 of those of 1280x720."""
RGNN_SIZE = (1280, 720)
"""Width and height in px."""
SHARES_SHOWN = (0.1, 0.2, 0.3, 0.5)
"""Where a rule gives nothing, what these would."""


class HoldOut(Config):
    """A rule that splits a labelled set."""

    rule: Literal["rgnn", "hash"] = "hash"
    """`rgnn`: only videos of 1280x720 px, ids from 2019 are held out (1867 and 200 of YouTube-VIS 2019 train).
    `hash`: a share of the videos, by the folders of their frames: videos of one scene are on one side."""
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
    def video_id(self) -> VideoId: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def file_names(self) -> Sequence[str]: ...


class ListedVideo(NamedTuple):
    """A video as a JSON lists it."""

    video_id: VideoId
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
        usable = [video for video in videos if (video.width, video.height) == RGNN_SIZE]
        held = [_number(video) >= RGNN_FIRST_HELD_ID for video in usable]
    else:
        usable = [*videos]
        held = [_place(scene) < rule.share for scene in scenes(usable)]
    sides: tuple[list[V], list[V]] = ([], [])
    for video, is_held in zip(usable, held, strict=True):
        sides[is_held].append(video)
    return sides


def require_sides(videos: Sequence[Video], rule: HoldOut, name: str, *, training: bool = True) -> None:
    """Raises BadConfig where a side of the split is empty, with what every rule gives.

    Args:
        name: of the set, for the message.
        training: the videos to train on are needed, too.
    """
    sides = split(videos, rule)
    empty = ["none to score"] * (not sides[1]) + ["none to train on"] * (training and not sides[0])
    if not empty:
        return
    gives = ", ".join(f"{share}: {len(split(videos, HoldOut(share=share))[1])}" for share in SHARES_SHOWN)
    sized = [video for video in videos if (video.width, video.height) == RGNN_SIZE]
    late = sum(str(video.video_id).isdecimal() and int(video.video_id) >= RGNN_FIRST_HELD_ID for video in sized)
    least = math.ceil(1000 * min(map(_place, scenes(videos)), default=1) + 1e-9) / 1000
    raise BadConfig(
        f"{name}: the hold-out rule {rule} leaves {' and '.join(empty)} of {len(videos)} videos. rgnn is made for "
        f"train.json of YouTube-VIS 2019 and takes videos of {RGNN_SIZE[0]}x{RGNN_SIZE[1]} only, which {len(sized)} of "
        f"these are, and of them holds out ids from {RGNN_FIRST_HELD_ID}: {late}. A share holds out whole scenes by "
        f"their names ({gives}); the least that holds out one here is {least:g}"
    )


def split_name(*parts: Iterable[Video]) -> str:
    """Names a split: equal when and only when every part has the same videos, in whatever order."""
    content = [sorted((video.video_id, _name(video)) for video in part) for part in parts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def scenes(videos: Sequence[Video]) -> list[str]:
    """What each video shows, by its folders: the same on every machine and in every release that has these videos.

    Below one scene there may be folders for cameras or kinds of frames (`seq7/left`, `seq7/img`), and scenes may lie
    below folders of cameras or parts (`left/seq7`). So the level of folders counts that has the most names, of equals
    the first. The id, where the folders tell no video from another.
    """
    folders = [_name(video).split("/") for video in videos]
    levels = range(max(map(len, folders), default=0))
    names = [[path[min(level, len(path) - 1)] for path in folders] for level in levels]
    best = max(names, key=lambda level: len({*level}), default=[])
    return best if len({*best}) > 1 or len(videos) == 1 else [str(video.video_id) for video in videos]


def _place(scene: str) -> float:
    """0 to 1, as if drawn."""
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8]) / 2**64


def _number(video: Video) -> int:
    try:
        return int(video.video_id)
    except ValueError:
        raise BadConfig(
            f"the hold-out rule rgnn goes by the ids of YouTube-VIS 2019, which are numbers, not {video.video_id!r}: "
            "hold out a share, such as 0.1"
        ) from None


def _name(video: Video) -> str:
    """The folders of its frames; the id where the frames of all videos share one."""
    return posixpath.dirname(plain(video.file_names[0])) or str(video.video_id)
