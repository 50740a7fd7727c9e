"""What was found out about a score -> rows for the record of `evaluations.py`, which says what they mean."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vis_models.data.dialects import VideoId
from vis_models.metrics.average_precision import RECALLS, AveragePrecision, precision_of
from vis_models.metrics.track_matching import Matches


def rows(
    score: AveragePrecision, categories: Mapping[int, str], matches: Mapping[VideoId, Mapping[int, Matches]]
) -> Iterator[dict[str, Any]]:
    """Every figure of an evaluation; categories without an object have none.

    Args:
        categories: name by id, of those that get rows of their own.
        matches: of each video, by category.
    """
    yield from _figures(score, None, {})
    for k, category in enumerate(score.categories):
        if category in categories and score.objects[k, 0]:
            yield from _figures(score, category, {"category_id": category, "category": categories[category]})
    for video, found in matches.items():
        yield from _figures_of_video(str(video), found)


def _figures(score: AveragePrecision, category: int | None, labels: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for metric, value in score.summary(category).items():
        yield labels | {"metric": metric, "value": value}
    k = slice(None) if category is None else score.categories.index(category)
    yield labels | {"metric": "objects", "value": float(score.objects[k, 0].sum())}
    for recall, precision in zip(RECALLS, score.curve(category), strict=True):
        yield labels | {"metric": "precision", "recall": recall, "value": precision}


def _figures_of_video(video_id: str, found: Mapping[int, Matches]) -> Iterator[dict[str, Any]]:
    curves = np.array([precision_of([each], 0, int(each.objects[0])) for each in found.values() if each.objects[0]])
    hits = sum(int(((each.partner[0, 0] != 0) & ~each.ignored[0, 0]).sum()) for each in found.values())
    values = {
        "AP": float(curves.mean()) if len(curves) else -1.0,
        "AP50": float(curves[:, 0].mean()) if len(curves) else -1.0,
        "objects": float(sum(int(each.objects[0]) for each in found.values())),
        "objects_found": float(hits),
    }
    for metric, value in values.items():
        yield {"video_id": video_id, "metric": metric, "value": value}
