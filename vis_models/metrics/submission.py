"""What a benchmark's server takes: results that are checked entry by entry before anybody waits in its queue.

The server holds the labels; its JSON (`valid.json`, `test.json`) gives the videos and categories. Its evaluator looks
at the first entry only, fails as a whole for one unknown video, and scores a list of the wrong length without a word.
"""

import math
from typing import Any

from vis_models.config import BadConfig
from vis_models.data.dialects import VideoId
from vis_models.masks import from_coco, measure_px, text_to_rle
from vis_models.metrics.youtube_vis import Entry, Listing, is_number

KEYS = ("video_id", "category_id", "score", "segmentations")


def as_sent(listing: Listing, entry: Entry) -> Entry:
    """An entry of the results in the one spelling that the server knows: its masks as compressed RLE or null.

    Raises:
        BadConfig: the server would not understand it, or score something else; the first reason.
    """
    if missing := [key for key in KEYS if key not in entry]:
        raise BadConfig(f"no key {missing[0]!r}, expected {', '.join(KEYS)}")
    video_id, category, score = entry["video_id"], entry["category_id"], entry["score"]
    if not isinstance(video_id, VideoId) or isinstance(video_id, bool) or video_id not in listing.videos:
        raise BadConfig(f"no video {video_id!r} in {listing.name}, expected ids such as {listing.video_ids()[:3]}")
    if not _is_integer(category) or category not in listing.categories:
        raise BadConfig(
            f"no category {category!r} in {listing.name}, expected ids such as {sorted(listing.categories)[:3]}"
        )
    if not is_number(score) or not math.isfinite(score):
        raise BadConfig(f"score {score!r}, expected a finite number")
    masks = _masks(entry["segmentations"], listing.length(video_id), listing.size(video_id))
    return {"video_id": video_id, "category_id": category, "score": score, "segmentations": masks}


def _masks(segmentations: Any, frames: int, size: list[int]) -> list[dict[str, Any] | None]:
    if not isinstance(segmentations, list) or len(segmentations) != frames:
        got = f"{len(segmentations)} of them" if isinstance(segmentations, list) else type(segmentations).__name__
        raise BadConfig(f"expected a list of {frames} segmentations, one per frame of the video, got {got}")
    masks = [_compressed(mask, frame, size) for frame, mask in enumerate(segmentations)]
    visible = [(frame, mask) for frame, mask in enumerate(masks) if mask]
    _, canvases = measure_px([text_to_rle(mask["counts"]) for _, mask in visible])
    for (frame, _), canvas in zip(visible, canvases.tolist(), strict=True):
        if canvas != size[0] * size[1]:
            raise BadConfig(f"frame {frame}: the runs of the RLE do not fill its size {size}")
    return masks


def _compressed(mask: Any, frame: int, size: list[int]) -> dict[str, Any] | None:
    if mask in ("", 0, {}):
        raise BadConfig(f"frame {frame}: {mask!r} is no mask, expected null where there is none")
    if isinstance(mask, dict) and mask.get("size") != size:
        raise BadConfig(f"frame {frame}: mask of size {mask.get('size')}, expected {size} (height, width) as the video")
    if isinstance(mask, dict) and isinstance(mask.get("counts"), str):
        return mask
    try:
        rle = from_coco(mask, *size)
    except BadConfig as error:
        raise BadConfig(f"frame {frame}: {error}") from error
    return {"size": size, "counts": rle.decode()} if rle else None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
