"""Multi-scale deformable attention: every query reads a few points of every level.

Source: Zhu et al., "Deformable DETR", ICLR 2021, Eq. (3), and appendix A.4 for the offsets at the start. Used by IDOL.
`deformable_attention` is the definition; `gathered_attention` answers the same in one gather of rows over all levels.

Axes: B batch, Q queries, G heads, L levels, K points of a head on a level, D channels of a head, S cells of all levels
in a row, fine to coarse, C = G*D channels of a query.
"""

from collections.abc import Sequence
from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Size = tuple[int, int]
"""(height, width) of a level in cells."""


def deformable_attention(
    levels: Sequence[Float[Tensor, "B G D _ _"]],
    points: Float[Tensor, "B Q G L K 2"],
    weights: Float[Tensor, "B Q G L K"],
) -> Float[Tensor, "B Q G*D"]:
    """Weighted sum of bilinear samples: Eq. (3) without its projections W and W'.

    Args:
        levels: values of each level, fine to coarse; height and width differ.
        points: (x, y) as fractions of the padded picture: (0, 0) is its top left corner, (1, 1) its bottom right one.
            Outside of it every value is zero.
        weights: A in Eq. (3); for one query and head they sum to one over L and K.

    Raises:
        ValueError: `levels` and `points` disagree about L.
    """
    if len(levels) != points.shape[3]:
        raise ValueError(
            f"there are {len(levels)} levels of values and points on {points.shape[3]}, expected one number of both: "
            "they come from `levels` of the config and from the weights"
        )
    grid = (2 * points - 1).movedim(2, 1).flatten(0, 1)  # grid_sample counts from -1 to 1; now (B*G, Q, L, K, 2)
    share = weights.movedim(2, 1).flatten(0, 1)  # (B*G, Q, L, K)
    total = torch.zeros((), device=points.device)
    for level, value in enumerate(levels):
        sample = F.grid_sample(value.flatten(0, 1), grid[:, :, level], align_corners=False)  # (B*G, D, Q, K)
        total = total + (sample * share[:, None, :, level]).sum(-1)
    return total.unflatten(0, levels[0].shape[:2]).permute(0, 3, 1, 2).flatten(2)


def gathered_attention(
    values: Float[Tensor, "B S G D"],
    sizes: Sequence[Size],
    points: Float[Tensor, "B Q G L K 2"],
    weights: Float[Tensor, "B Q G L K"],
) -> Float[Tensor, "B Q G*D"]:
    """`deformable_attention`, of levels in a row: what a head of a query answers is a weighted sum of 4*L*K rows of
    values, the four cells around each point. torch has that sum as `embedding_bag`.

    On CPUs about twice as fast as the definition, while its gradient takes longer: for inference there. On a GPU it is
    not measured yet, and not used.
    """
    batch, cells, heads, _ = values.shape
    size = torch.tensor(sizes, device=values.device)
    height, width = size[:, :1], size[:, 1:]  # (L, 1)
    first = size.prod(1).cumsum(0) - size.prod(1)
    base = first[:, None] + torch.arange(batch, device=values.device)[:, None, None, None, None] * cells
    head = torch.arange(heads, device=values.device)[:, None, None]
    at = points * size.flip(1)[:, None] - 0.5  # in cells; (0, 0) is the middle of the first one
    corner = at.floor()
    (right, down), (x0, y0) = (at - corner).unbind(-1), corner.long().unbind(-1)
    rows, shares = [], []
    for y, vertical in ((y0, 1 - down), (y0 + 1, down)):
        for x, horizontal in ((x0, 1 - right), (x0 + 1, right)):
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            rows.append(torch.where(inside, (base + y * width + x) * heads + head, 0))
            shares.append(weights * vertical * horizontal * inside)
    row, share = (torch.stack(parts, -1).flatten(3).flatten(0, 2) for parts in (rows, shares))  # (B*Q*G, L*K*4)
    summed = F.embedding_bag(row, values.flatten(0, 2), mode="sum", per_sample_weights=share.to(values.dtype))
    return summed.view(*points.shape[:2], -1)


class DeformableAttention(nn.Module):
    """Eq. (3) with its projections; parameter names are the authors'."""

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def reset(self) -> None:
        """At the start head g looks in direction 2*pi*g/G, its k-th point k cells away; all points count alike."""
        heads, levels, points = self.shape
        for module in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(module.weight)
        angle = torch.arange(heads) * (2 * pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # on the sides of a square
        distance = torch.arange(1, points + 1)
        offsets = (direction[:, None, None] * distance[:, None]).expand(heads, levels, points, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.bias)
        for module in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(
        self,
        queries: Float[Tensor, "B Q C"],
        references: Float[Tensor, "B Q L _"],
        values: Float[Tensor, "B S C"],
        sizes: Sequence[Size],
        padding: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B Q C"]:
        """
        Args:
            references: (x, y), or a box (cx, cy, width, height), of each query on each level as fractions of the padded
                picture.
            padding: cells that are worth zero.
        """
        value = self.value_proj(values).masked_fill(padding[..., None], 0.0)
        value = value.unflatten(2, (self.shape[0], -1)).float()  # half of a number's digits would move points by pixels
        points, weights = self.points(queries, references, sizes)
        learning = any(tensor.requires_grad for tensor in (value, points, weights))
        if value.device.type == "cpu" and not learning:
            found = gathered_attention(value, sizes, points, weights)
        else:
            lengths = [height * width for height, width in sizes]
            levels = [
                part.unflatten(1, size).permute(0, 3, 4, 1, 2)
                for part, size in zip(value.split(lengths, 1), sizes, strict=True)
            ]
            found = deformable_attention(levels, points, weights)
        return self.output_proj(found)

    def points(
        self, queries: Float[Tensor, "B Q C"], references: Float[Tensor, "B Q L _"], sizes: Sequence[Size]
    ) -> tuple[Float[Tensor, "B Q G L K 2"], Float[Tensor, "B Q G L K"]]:
        """Where each query looks, and how much what is there counts. Offsets from a point are in cells, those from a
        box's centre in K-ths of half its sides."""
        heads, levels, count = self.shape
        offsets = self.sampling_offsets(queries).unflatten(2, (heads, levels, count, 2)).float()
        weights = self.attention_weights(queries).unflatten(2, (heads, levels * count)).float().softmax(-1)
        reference = references[:, :, None, :, None]  # (B, Q, 1, L, 1, 2 or 4)
        if references.shape[-1] == 2:
            size = torch.tensor(sizes, device=queries.device).flip(1)[:, None]
            points = reference + offsets / size
        else:
            points = reference[..., :2] + offsets / count * reference[..., 2:] * 0.5
        return points, weights.unflatten(3, (levels, count))
