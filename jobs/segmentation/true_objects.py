"""Labels -> what `TracksGivenObjects.encode_objects` takes: a perfect detector's answer, for the image oracle."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from vis_models import boxes, masks
from vis_models.data.categories import counterparts
from vis_models.data.dialects import VideoId
from vis_models.layers.resize import resize_logits
from vis_models.metrics.mask_tracks import Truth
from vis_models.metrics.youtube_vis import GroundTruth
from vis_models.types import Objects


class TrueObjects:
    """The objects of the labels in any frames.

    Args:
        classes: names of the model's classes, in its order; objects of other classes keep the label -1.
    """

    def __init__(self, truth: GroundTruth, classes: Sequence[str]) -> None:
        self._truth = truth
        mine = counterparts(truth.categories.values(), classes)
        self._index = {id_: classes.index(name) for id_, own in truth.categories.items() if (name := mine[own])}
        self._objects = lru_cache(maxsize=64)(truth.truths)  # as many as play side by side, and some more

    def of(self, places: Sequence[tuple[str, int]], size_px: tuple[int, int]) -> Objects:
        """What is seen at each (video, frame), with masks and boxes at the model's input size.

        Args:
            places: a video is named by the text of its id.
        """
        where = [(self._truth.id_of(video), frame) for video, frame in places]
        seen = [self._seen(video, frame) for video, frame in where]
        slots = max(1, *(len(each) for each in seen))
        bitmaps = torch.zeros(len(places), 1, slots, *size_px, dtype=torch.bool)
        labels = torch.full((len(places), slots), -1)
        crowd = torch.zeros(len(places), slots, dtype=torch.bool)
        for row, ((video, frame), objects) in enumerate(zip(where, seen, strict=True)):
            if objects:
                own = [masks.decode(each.rles[frame]["counts"], *self._truth.size(video)) for each in objects]  # type: ignore[index]
                whole = torch.from_numpy(np.stack(own)).float()
                bitmaps[row, 0, : len(objects)] = resize_logits(whole[None], size_px)[0] > 0.5
                labels[row, : len(objects)] = torch.tensor([self._index.get(each.category, -1) for each in objects])
                crowd[row, : len(objects)] = torch.tensor([each.crowd for each in objects])
        return Objects(bitmaps, boxes.of_masks(bitmaps), bitmaps.any(-1).any(-1), labels, crowd)

    def _seen(self, video: VideoId, frame: int) -> list[Truth]:
        return [each for each in self._objects(video) if each.rles[frame]]
