"""What takes the place of parts of RGNN in the rows of its Tables 1 and 4.

Source: as `model.py`, which holds everything that the rows share; the switches are fields of `RgnnConfig`. The rule of
[31] is that of Yang et al., "Video instance segmentation", ICCV 2019. A row that the paper does not spell out follows
the authors' released classes, and is marked where even these are silent.

Axes: as in `model.py`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

NO_TRACK_LOGIT = -10.0
SAME_CLASS, OVERLAP = 10.0, 2.0  # of the association score in [31]


class LimitedGnn(nn.Module):
    """Table 1, "limited GNN": no information flows through the graph.

    An edge is judged by likelihood and overlap alone. Each track gathers once, from its best detection. A detection
    starts a track when no track wants it: a hard decision that nothing trains.
    """

    def __init__(self, detection: int, channels: int) -> None:
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(2, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))
        self.match_head = nn.Linear(channels, 1)
        nn.init.constant_(self.match_head.bias, -2.1)
        self.detection = nn.Linear(detection, channels)
        self.track = nn.Linear(channels + detection, channels)

    def forward(
        self,
        tracks: Float[Tensor, "B M D"],
        detections: Float[Tensor, "B N _"],
        edges: Float[Tensor, "B M N 2"],
        track_mask: Bool[Tensor, "B M"],
        detection_mask: Bool[Tensor, "B N"],
    ) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B N D"], Float[Tensor, "B M N"], Float[Tensor, "B N"]]:
        """New tracks and detections, match logits and initialisation logits."""
        match = self.match_head(F.relu(self.edge(edges))).squeeze(-1)
        held = match.detach().masked_fill(~track_mask[:, :, None], NO_TRACK_LOGIT)
        wanted = match.detach().masked_fill(~detection_mask[:, None], -torch.inf)
        best = wanted.argmax(2)[..., None].expand(-1, -1, detections.shape[-1])
        gathered = torch.cat([tracks, detections.gather(1, best)], -1)
        return F.relu(self.track(gathered)), F.relu(self.detection(detections)), match, -held.amax(1)


class SimpleGate(nn.Module):
    """Table 1, "simple gate": one gate and a tanh; nothing but the output is remembered."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.leave = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def forward(
        self, x: Float[Tensor, "*S D"], previous: Float[Tensor, "*S D"], cell: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
        return self.leave(x).sigmoid() * self.value(x).tanh(), cell


class NoGate(nn.Module):
    """Table 1, "no LSTM-like gating": what the graph says is what is remembered."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(
        self, x: Float[Tensor, "*S D"], previous: Float[Tensor, "*S D"], cell: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S D"], Float[Tensor, "*S D"]]:
        return x, cell


class AppearanceLstm(nn.Module):
    """Table 1, "appearance update with LSTM": one cell predicts the mean, one the variance, from birth on."""

    def __init__(self, channels: int, variance_logit: float) -> None:
        super().__init__()
        self.mean = nn.LSTMCell(channels, channels)
        self.variance = nn.LSTMCell(channels, channels)
        self.mean_head = nn.Linear(channels, channels)
        self.variance_head = nn.Linear(channels, channels)
        nn.init.constant_(self.variance_head.bias, variance_logit)

    def forward(
        self, look: Float[Tensor, "*S A"], memory: Float[Tensor, "*S K"]
    ) -> tuple[Float[Tensor, "*S A"], Float[Tensor, "*S A"], Float[Tensor, "*S K"]]:
        """Mean, variance and the new memory, which is output and cell of the first LSTM and of the second."""
        flat, remembered = look.flatten(0, -2), memory.flatten(0, -2).chunk(4, -1)
        mean, mean_cell = self.mean(flat, remembered[:2])
        variance, variance_cell = self.variance(flat, remembered[2:])
        memory = torch.cat([mean, mean_cell, variance, variance_cell], -1).view(memory.shape)
        return (
            self.mean_head(mean).view(look.shape),
            F.softplus(self.variance_head(variance).float()).view(look.shape),
            memory,
        )


def masktrack_decisions(
    alike: Float[Tensor, "B M N"],
    overlap: Float[Tensor, "B M N"],
    found: Float[Tensor, "B N C"],
    known: Float[Tensor, "B M C"],
    existing: Bool[Tensor, "B M"],
    valid: Bool[Tensor, "B N"],
) -> tuple[Float[Tensor, "B M N"], Bool[Tensor, "B N"]]:
    """Table 1, "association from [31]": log-softmax of likeness, plus confidence, overlap and class, per detection.

    Each detection takes its best track, or starts one; of several on one track the most confident stays, the others
    are discarded. As in [31]'s code a new track counts as being of the same class.

    Args:
        alike: product of a track's appearance and a detection's.
        overlap: IoU of their boxes.
        found, known: class logits of detections and of tracks.

    Returns:
        what each detection is worth to the track it chose (its confidence, -inf for all other pairs), and
        which detections start a track.
    """
    allowed = existing[:, :, None]
    columns = torch.cat([torch.zeros_like(alike[:, :1]), alike.masked_fill(~allowed, -torch.inf)], 1)
    confidence, category = found.softmax(-1)[..., 1:].max(-1)
    same = known[..., 1:].argmax(-1)[:, :, None] == category[:, None]
    bonus = OVERLAP * overlap + SAME_CLASS * same
    bonus = torch.cat([torch.full_like(bonus[:, :1], SAME_CLASS), bonus], 1)
    choice = (columns.log_softmax(1) + confidence[:, None] + bonus).argmax(1)  # (B, N): 0 is a new track
    slots = torch.arange(1, alike.shape[1] + 1, device=alike.device)
    chosen = (choice[:, None] == slots[:, None]) & allowed & valid[:, None]
    return torch.where(chosen, confidence[:, None], -torch.inf), choice == 0


def masktrack_loss(
    alike: Float[Tensor, "B M N"],
    existing: Bool[Tensor, "B M"],
    same: Bool[Tensor, "B M N"],
    positive: Bool[Tensor, "B N"],
) -> Float[Tensor, ""]:
    """Cross-entropy of likeness over [new, tracks], summed over the detections of an annotation."""
    columns = torch.cat([torch.zeros_like(alike[:, :1]), alike.masked_fill(~existing[:, :, None], -torch.inf)], 1)
    target = torch.where(same.any(1), same.int().argmax(1) + 1, 0)
    return (F.cross_entropy(columns, target, reduction="none") * positive).sum()


def majority(
    votes: Float[Tensor, "B M C"], found: Float[Tensor, "B M C"], seen: Bool[Tensor, "B M 1"]
) -> tuple[Float[Tensor, "B M C"], Float[Tensor, "B M C"]]:
    """Table 1, "scoring from [31]": mean confidence of a track's detections, and the class most of them have.

    Args:
        votes: summed confidence at 0, then how often each class was seen.
        found: class logits of the detection that each track took.

    Returns:
        class logits whose softmax is that confidence for that class and the rest for background; the new votes.
    """
    confidence, category = found.softmax(-1)[..., 1:].max(-1)
    vote = F.one_hot(category + 1, found.shape[-1]).to(votes)
    vote[..., 0] = confidence
    votes = votes + vote * seen
    mean = votes[..., :1] / votes[..., 1:].sum(-1, keepdim=True).clamp(min=1)
    winner = votes[..., 1:].argmax(-1, keepdim=True) + 1
    probability = torch.full_like(votes, 1e-6).scatter(-1, winner, mean)
    probability[..., :1] = 1 - mean
    return probability.clamp(min=1e-6).log(), votes
