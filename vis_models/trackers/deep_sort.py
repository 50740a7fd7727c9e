"""DeepSORT: a Kalman filter predicts each box, appearance and overlap choose among what the prediction allows.

Sources: Wojke, Bewley, Paulus, "Simple online and realtime tracking with a deep association metric", ICIP 2017; and, as
a baseline of YouTube-VIS, Yang, Fan, Xu, ICCV 2019, section 6.1: "the IoU score and the visual appearance score are
combined to match tracks by the Hungarian algorithm".

The filter: a box is its centre, aspect (width over height) and height, z = (cx, cy, a, h), each moving with a constant
velocity. The noise of position and velocity grows with h and is that of the authors' code. No noise joins two of the
four, so that their covariance of 8x8 is four of 2x2, and the squared Mahalanobis distance a sum of four.

Differs from Wojke et al.: one assignment for all tracks instead of a cascade by age and a second one by IoU, as in the
baseline's words; an appearance is a running mean, not the last hundred; it is that of the detector's features under
the mask, as there is no network trained to identify; and a track shows from its first detection on, where theirs waits
for three, as films of some thirty frames have none to lose.

Axes: B videos, M slots, T tracks, K detections, A channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vis_models import boxes as box_ops
from vis_models.metrics.assignment import assign
from vis_models.trackers.config import DeepSortConfig
from vis_models.trackers.contract import Seen, Sizes
from vis_models.trackers.slots import InSlots, Pairs, Slots, Taken

ASPECT_STD, ASPECT_VELOCITY_STD, ASPECT_MEASURED_STD = 1e-2, 1e-5, 1e-1


@dataclass(frozen=True)
class Sorted(Slots):
    """Motion and look beside what all remember."""

    mean: Float[Tensor, "B M 4 2"]
    """Value and velocity of cx, cy, a and h."""
    covariance: Float[Tensor, "B M 4 2 2"]
    look: Float[Tensor, "B M A"]
    """Of length 1."""


class DeepSort(InSlots):
    """A `Tracker`."""

    reads_features = True
    State = Sorted
    config: DeepSortConfig

    def memory(self, shape: tuple[int, int], sizes: Sizes) -> dict[str, Tensor]:
        return {
            "mean": torch.zeros(*shape, 4, 2),
            "covariance": torch.zeros(*shape, 4, 2, 2),
            "look": torch.zeros(*shape, sizes.features[0]),
        }

    def pairs(self, seen: Seen, state: Sorted, used: list[int]) -> Pairs:
        config = self.config
        mean, covariance = predict(config, state.mean[0, used], state.covariance[0, used])
        state.mean[0, used], state.covariance[0, used] = mean, covariance
        z = measured(seen.boxes_px)
        overlap = box_ops.iou(seen.boxes_px, boxes(mean[..., 0]))
        alike = looks(seen) @ state.look[0, used].T
        allowed = config.gate >= distance(config, mean, covariance, z).T
        allowed &= (alike >= config.least_alike) & (overlap >= config.match_iou)
        gain = (1 + overlap + config.alike_weight * alike.clamp(min=-1)) * allowed  # any pair is better than none
        detections, tracks = assign(gain.clamp(min=0).double().numpy())
        return Pairs({int(n): used[m] for n, m in zip(detections, tracks, strict=True)})

    def remember(self, seen: Seen, state: Sorted, taken: Taken) -> None:
        z, look = measured(seen.boxes_px[taken.detections]), looks(seen)[taken.detections]
        new = torch.tensor([slot in taken.born for slot in taken.slots], dtype=torch.bool)[:, None]
        mean, covariance = update(self.config, state.mean[0, taken.slots], state.covariance[0, taken.slots], z)
        first_mean, first_covariance = initial(self.config, z)
        state.mean[0, taken.slots] = torch.where(new[..., None], first_mean, mean)
        state.covariance[0, taken.slots] = torch.where(new[..., None, None], first_covariance, covariance)
        share = self.config.newest
        mixed = F.normalize((1 - share) * state.look[0, taken.slots] + share * look, dim=-1)
        state.look[0, taken.slots] = torch.where(new, look, mixed)


def looks(seen: Seen) -> Float[Tensor, "K A"]:
    """The features under each mask, their mean, of length 1."""
    return F.normalize(torch.einsum("khw,ahw->ka", seen.cover, seen.features), dim=-1)


# ---- the filter ------------------------------------------------------------------------------------------------------


def measured(boxes_px: Float[Tensor, "T 4"]) -> Float[Tensor, "T 4"]:
    """z of boxes."""
    cx, cy, width, height = box_ops.centre_size(boxes_px).unbind(-1)
    return torch.stack([cx, cy, width / height.clamp(min=1e-6), height], -1)


def boxes(z: Float[Tensor, "T 4"]) -> Float[Tensor, "T 4"]:
    """Boxes of z."""
    cx, cy, aspect, height = z.unbind(-1)
    return box_ops.corners(torch.stack([cx, cy, aspect * height, height], -1))


def initial(config: DeepSortConfig, z: Float[Tensor, "T 4"]) -> tuple[Float[Tensor, "T 4 2"], Float[Tensor, "T 4 2 2"]]:
    """Mean and covariance of a track of one detection: at rest, and not sure of it."""
    mean = torch.stack([z, torch.zeros_like(z)], -1)
    std = _std(config, z[:, 3], 2.0, 10.0, ASPECT_STD, ASPECT_VELOCITY_STD)
    return mean, torch.diag_embed(std**2)


def predict(
    config: DeepSortConfig, mean: Float[Tensor, "T 4 2"], covariance: Float[Tensor, "T 4 2 2"]
) -> tuple[Float[Tensor, "T 4 2"], Float[Tensor, "T 4 2 2"]]:
    """One frame later: x <- F x, P <- F P F' + Q."""
    noise = torch.diag_embed(_std(config, mean[:, 3, 0], 1.0, 1.0, ASPECT_STD, ASPECT_VELOCITY_STD) ** 2)
    move = mean.new_tensor([[1.0, 1.0], [0.0, 1.0]])
    return mean @ move.T, move @ covariance @ move.T + noise


def update(
    config: DeepSortConfig,
    mean: Float[Tensor, "T 4 2"],
    covariance: Float[Tensor, "T 4 2 2"],
    z: Float[Tensor, "T 4"],
) -> tuple[Float[Tensor, "T 4 2"], Float[Tensor, "T 4 2 2"]]:
    """Corrected by a measurement: K = P H' / S, x <- x + K (z - H x), P <- P - K S K'."""
    spread = covariance[..., 0, 0] + _measured_variance(config, mean[:, 3, 0])
    gain = covariance[..., 0] / spread.clamp(min=1e-12)[..., None]
    corrected = mean + gain * (z - mean[..., 0])[..., None]
    return corrected, covariance - spread[..., None, None] * gain[..., :, None] * gain[..., None, :]


def distance(
    config: DeepSortConfig,
    mean: Float[Tensor, "T 4 2"],
    covariance: Float[Tensor, "T 4 2 2"],
    z: Float[Tensor, "K 4"],
) -> Float[Tensor, "T K"]:
    """Squared Mahalanobis distance of each measurement from each prediction."""
    spread = covariance[..., 0, 0] + _measured_variance(config, mean[:, 3, 0])
    return ((z[None] - mean[:, None, :, 0]) ** 2 / spread[:, None]).sum(-1)


def _measured_variance(config: DeepSortConfig, height: Float[Tensor, " T"]) -> Float[Tensor, "T 4"]:
    std = config.position_std * height
    return torch.stack([std, std, torch.full_like(std, ASPECT_MEASURED_STD), std], -1) ** 2


def _std(
    config: DeepSortConfig,
    height: Float[Tensor, " T"],
    positions: float,
    velocities: float,
    aspect: float,
    aspect_velocity: float,
) -> Float[Tensor, "T 4 2"]:
    """Of value and velocity of each of the four, as multiples of what the config says of a box of this height."""
    value, velocity = positions * config.position_std * height, velocities * config.velocity_std * height
    values = torch.stack([value, value, torch.full_like(value, aspect), value], -1)
    speeds = torch.stack([velocity, velocity, torch.full_like(velocity, aspect_velocity), velocity], -1)
    return torch.stack([values, speeds], -1)
