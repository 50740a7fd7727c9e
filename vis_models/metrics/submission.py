"""What a benchmark's server takes: results that are checked entry by entry before anybody waits in its queue.

The server holds the labels; its JSON (`valid.json`, `test.json`) gives the videos and categories. Its evaluator looks
at the first entry only, fails as a whole for one unknown video, and scores a list of the wrong length without a word.
"""

import math
from collections.abc import Iterator
from typing import Any

from vis_models.metrics.run_lengths import measure_px
from vis_models.metrics.youtube_vis import Entry, Listing

KEYS = ("video_id", "category_id", "score", "segmentations")


def entry_error(listing: Listing, entry: Entry) -> str | None:
    """What the server would not understand in an entry of the results; the first of it, or None."""
    return next(_errors(listing, entry), None)


def _errors(listing: Listing, entry: Entry) -> Iterator[str]:
    if missing := [key for key in KEYS if key not in entry]:
        yield f"no key {missing[0]!r}, expected {', '.join(KEYS)}"
        return
    video_id, category, score = entry["video_id"], entry["category_id"], entry["score"]
    if not _is_integer(video_id) or video_id not in listing.videos:
        yield f"no video {video_id!r} in {listing.name}, expected ids such as {listing.video_ids()[:3]}"
        return
    if not _is_integer(category) or category not in listing.categories:
        yield f"no category {category!r} in {listing.name}, expected ids such as {sorted(listing.categories)[:3]}"
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        yield f"score {score!r}, expected a finite number"
    yield from _mask_errors(entry["segmentations"], listing.length(video_id), listing.size(video_id))


def _mask_errors(segmentations: Any, frames: int, size: list[int]) -> Iterator[str]:
    if not isinstance(segmentations, list) or len(segmentations) != frames:
        got = f"{len(segmentations)} of them" if isinstance(segmentations, list) else type(segmentations).__name__
        yield f"expected a list of {frames} segmentations, one per frame of the video, got {got}"
        return
    visible = [(frame, mask) for frame, mask in enumerate(segmentations) if mask is not None]
    for frame, mask in visible:
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            yield f"frame {frame}: expected null or a compressed RLE, whose `counts` is a text, got {str(mask)[:40]}"
            return
        if mask.get("size") != size:
            yield f"frame {frame}: mask of size {mask.get('size')}, expected {size} (height, width) as the video"
            return
    _, canvases = measure_px([mask["counts"].encode() for _, mask in visible])
    for (frame, _), canvas in zip(visible, canvases.tolist(), strict=True):
        if canvas != size[0] * size[1]:
            yield f"frame {frame}: the runs of the RLE do not fill its size {size}"


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
