"""Published tables and their videos -> H.264 films with the masks drawn in, one colour per identity."""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image, ImageDraw, ImageFont

from jobs import tables
from jobs.archives.archive import VideoSource
from jobs.archives.frames import frames_in_time
from jobs.reporting.painting import Colour, colour_of, paint
from jobs.segmentation.plans import find_sources
from jobs.store import Store, overlay_key
from vis_models import masks
from vis_models.config import BadVideo
from vis_models.progress import Progress

HEIGHT_PX = 360
"""Smaller videos are enlarged by a whole number until they are this high, so that the names can be read."""
TEXT_PX = 14
FOLDER_FPS = 6
"""Frames per second of a film drawn from frames without a clock."""
TICKS = 90_000
"""Of the film's clock in a second: uneven times stay as they are."""

CHANGED = "The video has changed since: run `vis segment` again"

Sighting = tuple[str, Colour, bytes]
"""(text, colour, RLE) of one track in one frame."""


class Overlays(NamedTuple):
    """What was drawn."""

    films: list[str]
    """Addresses, in the order of the table videos."""
    not_drawn: dict[str, str]
    """Why there is no film, by video id. Nothing is kept of a film whose frames are not those of the table."""


def draw_overlays(store: Store, plan_id: str, progress: Progress | None = None) -> Overlays:
    """Draws a film of every video of a plan that gave frames; films that were drawn before stay.

    Raises:
        BadConfig: no such plan is published.
    """
    opened = tables.open(store, plan_id)
    columns = ["video_id", "unit", "height", "width", "sampled_frames"]
    videos = opened["videos"].to_table(columns=columns, filter=pc.field("sampled_frames") > 0).to_pylist()
    sources = find_sources(store, plan_id, [video["video_id"] for video in videos])
    overlays = Overlays([], {})
    for done, video in enumerate(videos, start=1):
        key = overlay_key(plan_id, video["video_id"], video["unit"])
        trouble = "" if store.exists(key) else _draw_one(store, opened, sources[video["video_id"]], video, key)
        if trouble:
            overlays.not_drawn[video["video_id"]] = trouble
        else:
            overlays.films.append(store.uri(key))
        if progress:
            progress("overlay", done, len(videos), {})
    return overlays


def _draw_one(
    store: Store, opened: Mapping[str, ds.Dataset], source: VideoSource, video: Mapping[str, Any], key: str
) -> str:
    """Draws a film and keeps it, or says why not."""
    sightings = _sightings(opened, video["video_id"])
    with tempfile.TemporaryFile() as film:
        frames, trouble = _draw(store, source, (video["height"], video["width"]), sightings, film)
        if frames != video["sampled_frames"]:
            return f"{frames} frames were read, {video['sampled_frames']} are in the tables. {trouble or CHANGED}"
        film.seek(0)
        with store.create(key) as output:
            shutil.copyfileobj(film, output)
    return ""


def _sightings(opened: Mapping[str, ds.Dataset], video_id: str) -> dict[int, list[Sighting]]:
    """What is seen in each frame of a video, the surest track last: it is drawn on top."""
    this_video = pc.field("video_id") == video_id
    tracks = opened["tracks"].to_table(columns=["track_id", "category", "score"], filter=this_video)
    by_id = {row["track_id"]: row for row in tracks.to_pylist()}
    found = opened["masks"].to_table(columns=["track_id", "frame_idx", "score", "rle"], filter=this_video)
    frames: dict[int, list[tuple[float, Sighting]]] = defaultdict(list)
    for batch in found.to_batches():
        for row in batch.to_pylist():
            track = by_id[row["track_id"]]
            text = f"{row['track_id']} {track['category']} {row['score']:.2f}"
            sighting = (text, colour_of(row["track_id"]), row["rle"])
            frames[row["frame_idx"]].append((track["score"], sighting))
    return {frame: [sighting for _, sighting in sorted(seen, key=lambda s: s[0])] for frame, seen in frames.items()}


def _draw(
    store: Store,
    source: VideoSource,
    size: tuple[int, int],
    sightings: Mapping[int, Sequence[Sighting]],
    film: BinaryIO,
) -> tuple[int, str]:
    """Writes one film; where the video breaks off, so does the film. Returns (frames, why there are no more)."""
    height, width = size
    frames, last = 0, -1
    times = -(-HEIGHT_PX // height) if height < HEIGHT_PX else 1
    with av.open(film, "w", format="mp4") as container:
        stream = container.add_stream("libx264", options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width = (side * times // 2 * 2 or 2 for side in size)  # H.264 wants even sizes
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        try:
            for frame in frames_in_time(source, store, (height * times, width * times)):
                seen = [
                    (text, colour, masks.decode(rle, *size)) for text, colour, rle in sightings.get(frame.index, ())
                ]
                picture = av.VideoFrame.from_ndarray(_picture(frame.pixels, seen, times), format="rgb24")
                time_s = frame.index / FOLDER_FPS if frame.time_s is None else frame.time_s
                last = max(last + 1, round(time_s * TICKS))  # two frames at one time are one tick apart
                picture.pts, picture.time_base = last, Fraction(1, TICKS)
                container.mux(stream.encode(picture))
                frames += 1
        except BadVideo as error:
            if not frames:
                return 0, str(error)  # an encoder that was given nothing cannot be flushed
            container.mux(stream.encode())
            return frames, str(error)
        container.mux(stream.encode())
    return frames, ""


def _picture(pixels: np.ndarray, seen: Sequence[tuple[str, Colour, np.ndarray]], times: int) -> np.ndarray:
    large = [(colour, mask.repeat(times, 0).repeat(times, 1)) for _, colour, mask in seen]
    picture = Image.fromarray(paint(pixels, large))
    draw = ImageDraw.Draw(picture)
    for (text, colour, _), (_, mask) in zip(seen, large, strict=True):
        rows, columns = np.nonzero(mask)
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=_font())
        x = min(int(columns.min()), picture.width - (x1 - x0) - 4)
        y = max(0, int(rows.min()) - (y1 - y0) - 6)
        draw.rectangle((x, y, x + x1 - x0 + 4, y + y1 - y0 + 4), fill=colour)
        draw.text((x + 2 - x0, y + 2 - y0), text, font=_font(), fill=(255, 255, 255))
    return np.asarray(picture)


@cache
def _font() -> Any:
    return ImageFont.load_default(TEXT_PX)
