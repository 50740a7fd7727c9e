"""What of a frame lies under each mask: pooled features for the appearance (section 3.3).

Source and axes: as `model.py`.
"""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vis_models.layers.resize import resize_logits

BACKGROUND_LOGIT = 10.0  # of every pixel, against which detections and tracks compete
NO_MASK_LOGIT = -20.0


def box_map(
    boxes_px: Float[Tensor, "F N 4"], size: tuple[int, int], image_size: tuple[int, int]
) -> Float[Tensor, "F N h w"]:
    """1 where a point of the map lies inside the box; points reach from edge to edge of the image, as released."""
    ys = torch.linspace(0, image_size[0], size[0], device=boxes_px.device)
    xs = torch.linspace(0, image_size[1], size[1], device=boxes_px.device)
    x0, y0, x1, y1 = boxes_px[..., None].unbind(-2)
    across = (xs >= x0) & (xs <= x1)
    down = (ys >= y0) & (ys <= y1)
    return (down[..., :, None] & across[..., None, :]).float()


def mask_pool(
    features: Float[Tensor, "F K h w"],
    score: Float[Tensor, "F N hs ws"],
    rule: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[Tensor, "F _ _"]:
    """A constant 1 and the features, averaged under each mask and, last row, over the frame: (F, N+1, 1+K).

    Detections compete for each pixel with the background at a constant logit: all together by softmax, each by
    itself by sigmoid.
    """
    score = resize_logits(score, map_size(features))
    share = (score - BACKGROUND_LOGIT).sigmoid()
    if rule == "softmax":
        share = torch.cat([torch.full_like(score[:, :1], BACKGROUND_LOGIT), score], 1).softmax(1)[:, 1:]
    weight = share / (share.sum((-2, -1), keepdim=True) + 1e-4)
    whole = torch.full_like(features[:, :1], 1 / features[0, 0].numel())
    weight = torch.cat([weight, whole], 1)
    features = torch.cat([torch.ones_like(features[:, :1]), features], 1)
    return torch.einsum("fnhw,fkhw->fnk", weight, features)


def map_size(maps: Shaped[Tensor, "*S h w"]) -> tuple[int, int]:
    """(height, width)."""
    return maps.shape[-2], maps.shape[-1]


def wide(values: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """In float32 at least: for what bfloat16 would round too far."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
