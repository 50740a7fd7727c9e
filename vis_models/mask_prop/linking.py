"""Which clips show the same object: those whose masks overlap, frame by frame.

Source: Bertasius, Torresani, "Mask propagation", CVPR 2020, section 4.3, Eq. (3) to (5). Ours, where the paper is
silent: a frame in which both clips show nothing says nothing about them; a track goes on with one object of a frame,
the one that fits best, and the others look for the next best.

Axes: N objects of a clip, K objects of clips before it, W frames in which masks lie, P cells of a mask.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from vis_models.matching import NEW


def every_soft_iou(a: Float[Tensor, "*S N P"], b: Float[Tensor, "*S K P"]) -> Float[Tensor, "*S N K"]:
    """Eq. (3) of each with each, of masks whose cells are 0 to 1; zero where both are empty."""
    both = a @ b.mT
    return both / (a.sum(-1)[..., None] + b.sum(-1)[..., None, :] - both).clamp(min=1e-6)


def matching(
    clip: Float[Tensor, "N W P"], before: Float[Tensor, "K W P"], shared: Bool[Tensor, "K W"]
) -> Float[Tensor, "N K"]:
    """Eq. (4): the mean overlap in the frames that two clips share.

    Args:
        shared: frames that both clips have.
    """
    overlap = every_soft_iou(clip.transpose(0, 1), before.transpose(0, 1))  # (W, N, K)
    shown = (clip.sum(-1).T[:, :, None] > 0) | (before.sum(-1).T[:, None] > 0)
    counted = shown & shared.T[:, None]
    return (overlap * counted).sum(0) / counted.sum(0).clamp(min=1)


def affinity(match: Float[Tensor, "N K"], track: Int[Tensor, " K"], tracks: Int[Tensor, " M"]) -> Float[Tensor, "N M"]:
    """Eq. (5): the mean match with the clips of each track.

    Args:
        track: of each clip before.
        tracks: each that is among them, once.
    """
    member = (track[:, None] == tracks).to(match.dtype)
    return match @ member / member.sum(0)


def assign(affinity: Float[Tensor, "N M"], threshold: float) -> list[int]:
    """The column of each object's track, or `NEW`: pairs from the best down, as long as both are free."""
    chosen = [NEW] * affinity.shape[0]
    taken: set[int] = set()
    order = affinity.flatten().argsort(descending=True, stable=True).tolist()
    for n, column in (divmod(place, affinity.shape[1]) for place in order):
        if float(affinity[n, column]) <= threshold:
            break
        if chosen[n] == NEW and column not in taken:
            chosen[n] = column
            taken.add(column)
    return chosen
