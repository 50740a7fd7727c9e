"""What `vis check` saw, as one page: findings, figures, and samples with the labels drawn in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jobs.archives.archive import VideoSource
from jobs.archives.video import DecodedFrame
from jobs.reporting import page
from jobs.reporting.painting import colour_of
from jobs.reporting.strips import LONG_SIDE_PX, Layer, Picture, Track, hex_of, picture_of, read_frames
from jobs.store import LAYOUT, Store, code_version, now
from vis_models.config import BadConfig
from vis_models.data.annotations import AnnotatedVideo, VideoSet
from vis_models.data.clips import Change, change_frame

PICTURES = 4
"""Frames of a sample."""


class Said(Protocol):
    """A finding."""

    @property
    def level(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def examples(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Sample:
    """A video of the page."""

    name: str
    says: str
    pictures: list[Picture]
    legend: list[Track]
    trouble: str = ""

    @classmethod
    def of(cls, side: str, video: AnnotatedVideo, videos: VideoSet) -> "Sample":
        """Some frames of a labelled video, its objects drawn in."""
        names = {category.id: category.name for category in videos.categories}
        layers = []
        for slot, track in enumerate(video.tracks):
            colour = colour_of(slot)
            rles = {n: (rle, video.height, video.width) for n, rle in enumerate(track.rles) if rle}
            legend = Track(str(track.track_id), hex_of(colour), names[track.category_id], None, None)
            layers.append(Layer(legend, colour, rles))
        scale = LONG_SIDE_PX / max(video.height, video.width)
        size = (max(1, round(video.height * scale)), max(1, round(video.width * scale)))
        pictures, trouble = [], ""
        for index in _spread(len(video.file_names)):
            try:
                pixels = change_frame(video.read_frame(index), Change(scaled=size, corner=(0, 0), target=size))
            except BadConfig as error:
                trouble = trouble or str(error)
                continue
            pictures.append(picture_of(DecodedFrame(index, None, pixels), layers))
        says = f"{side}, {len(video.file_names)} frames, {video.width}x{video.height} px, {len(layers)} objects"
        return cls(str(video.video_id), says, pictures, [layer.legend for layer in layers], trouble)

    @classmethod
    def of_archive(cls, source: VideoSource, size: tuple[int, int], store: Store) -> "Sample":
        """The first frame of a video of this height and width."""
        frames, trouble = read_frames(store, source, size, [0])
        says = f"{source.kind}, {size[1]}x{size[0]} px, {source.size_bytes / 1e6:.1f} MB"
        return cls(source.video_id, says, [picture_of(frame, []) for frame in frames], [], trouble)


def write_page(
    store: Store,
    target: str,
    findings: Sequence[Said],
    figures: Mapping[str, str],
    classes: Mapping[str, Mapping[str, int]],
    samples: Sequence[Sample],
    command: str,
) -> str:
    """Writes the page under `vis/v1/checks/` and returns its address.

    Args:
        classes: class -> side -> objects.
    """
    created_at = now()
    values: dict[str, Any] = {
        "target": target,
        "findings": findings,
        "figures": figures,
        "classes": sorted(classes.items(), key=lambda item: (-sum(item[1].values()), item[0])),
        "sides": list(dict.fromkeys(side for counts in classes.values() for side in counts)),
        "samples": samples,
        "command": command,
        "created_at": created_at,
        "commit": code_version(),
    }
    key = f"{LAYOUT}/checks/{created_at.replace(':', '').replace('.', '')[:21]}.html"
    store.write_bytes(key, page.render("check.html.j2", values, {}).encode())
    return store.uri(key)


def _spread(frames: int) -> list[int]:
    return sorted({*np.linspace(0, frames - 1, min(PICTURES, frames)).round().astype(int).tolist()})
