"""IoUTracker+ on masks that the detector's features carry from frame to frame, without a network of its own.

Each cell of the new frame looks at the cells of the frame before that lie near it, and takes the mean of the masks of
those whose features are most alike (no optical flow). A detection's overlap with a track is that with its mask so
carried, and the rest is IoUTracker+. A track that is seen takes the detection's mask; one that is not goes on with its
own.

Sources: the baseline OSMN of Yang, Fan, Xu, "Video instance segmentation", ICCV 2019, section 6.1, with another way to
carry masks: that of Jabri, Owens, Efros, "Space-time correspondence as a contrastive random walk", NeurIPS 2020,
section 2.3. Differs from both: features were trained to detect, nothing was trained to propagate, and masks are
compared in place of boxes. So the paper's figure for OSMN is none for this.

Axes: B videos, M slots, K detections, A channels, h and w cells, P = h*w.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vis_models.trackers.config import FeaturePropagationConfig
from vis_models.trackers.contract import Seen, Sizes
from vis_models.trackers.iou_tracker import IouTracker
from vis_models.trackers.slots import Slots, Taken


@dataclass(frozen=True)
class Carried(Slots):
    """Masks and features of the last frame beside what all remember."""

    cover: Float[Tensor, "B M h w"]
    features: Float[Tensor, "B A h w"]


class FeaturePropagation(IouTracker):
    """A `Tracker`."""

    reads_features = True
    State = Carried
    config: FeaturePropagationConfig

    def memory(self, shape: tuple[int, int], sizes: Sizes) -> dict[str, Tensor]:
        return {
            "cover": torch.zeros(*shape, *sizes.features[1:]),
            "features": torch.zeros(shape[0], *sizes.features),
        }

    def overlap(self, seen: Seen, state: Carried, used: list[int]) -> Float[Tensor, "K T"]:  # type: ignore[override]
        config = self.config
        if used:
            rules = config.radius, config.neighbours, config.temperature
            state.cover[0, used] = propagated(state.cover[0, used], state.features[0], seen.features, *rules)
        state.features[0] = seen.features
        return soft_iou(seen.cover, state.cover[0, used])

    def remember(self, seen: Seen, state: Carried, taken: Taken) -> None:
        state.cover[0, taken.slots] = seen.cover[taken.detections]


def propagated(
    masks: Float[Tensor, "M h w"],
    before: Float[Tensor, "A h w"],
    now: Float[Tensor, "A h w"],
    radius: int,
    neighbours: int,
    temperature: float,
) -> Float[Tensor, "M h w"]:
    """The masks of the frame before, carried to this one."""
    height, width = masks.shape[-2:]
    alike = F.normalize(now.flatten(1), dim=0).T @ F.normalize(before.flatten(1), dim=0)  # (P now, P before)
    alike = alike.masked_fill(~near(height, width, radius), -torch.inf)
    best, cell = alike.topk(min(neighbours, alike.shape[1]), dim=1)
    share = (best / temperature).softmax(1)  # a cell beyond the radius has none
    return (masks.flatten(1)[:, cell] * share).sum(-1).view_as(masks)


def near(height: int, width: int, radius: int) -> Bool[Tensor, "P P"]:
    """Which cells lie at most so far from each other, along rows and columns."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)


def soft_iou(a: Float[Tensor, "K h w"], b: Float[Tensor, "M h w"]) -> Float[Tensor, "K M"]:
    """Sum of the smaller over sum of the larger share of each cell."""
    a, b = a.flatten(1)[:, None], b.flatten(1)[None]
    return torch.minimum(a, b).sum(-1) / torch.maximum(a, b).sum(-1).clamp(min=1e-6)
