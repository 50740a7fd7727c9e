"""Masks of a frame in another frame: features under each mask are warped there, and say which pixels are whose.

Source: Bertasius, Torresani, "Mask propagation", CVPR 2020, section 4.2 and Figure 4. Ours, where the paper is silent:
offsets start at zero and each dilation has its own; the three deformable convolutions are summed; the attention map is
a sigmoid. As the paper describes them, the layers behind the offsets are linear in a mask. So they are counted from
their end: the weights of the deformable convolutions are multiplied with those of the 1x1 convolution first, and what
is sampled for a mask is one number a tap, not a vector of features. The answer is that of the layers one by one.

Axes: P pairs of frames, N masks of the first of a pair, C channels of features, K taps of all dilations.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vis_models.layers.chunks import in_chunks
from vis_models.layers.deformable_convolution import DeformableConvolution, sample, taps
from vis_models.mask_prop.config import MaskPropConfig

AT_ONCE = 32
"""Masks of a frame that are carried together."""
KERNEL = 3
NOT_THERE = -1e4
"""Logit of a slot without a mask."""


class Propagation(nn.Module):
    """The mask propagation branch."""

    def __init__(self, config: MaskPropConfig) -> None:
        super().__init__()
        channels, hidden = config.detector.channels, config.offset_channels
        carried = config.carried or channels
        self.nobody = nn.Parameter(torch.zeros(1)) if config.nobody else None
        self.dilations = config.dilations
        self.motion = ResidualBlock(channels, hidden)
        self.offsets = nn.Conv2d(hidden, len(self.dilations) * 2 * KERNEL**2, 3, padding=1)
        self.warps = nn.ModuleList(
            DeformableConvolution(channels, carried, KERNEL, padding=d, dilation=d, bias=False) for d in self.dilations
        )
        self.beneath = nn.Conv2d(channels, carried, 1) if config.overlay == "rectified" else None
        self.mask = nn.Conv2d(carried, 1, 1, bias=False)
        self.attention = nn.Conv2d(channels, 1, 3, padding=1) if config.attention else None
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]

    def forward(
        self,
        features: Float[Tensor, "P C h w"],
        target: Float[Tensor, "P C h w"],
        masks: Float[Tensor, "P N h w"],
        there: Bool[Tensor, "P N"],
    ) -> Float[Tensor, "P N h w"]:
        """What each mask of the first frame of a pair becomes in the second, 0 to 1.

        Args:
            features: of the first frames.
            target: of the second frames.
            there: slots that hold a mask; the others take no part.
        """
        logits = self.logits(features, target, masks).masked_fill(~there[..., None, None], NOT_THERE)
        if self.nobody is not None:
            logits = torch.cat([logits, self.nobody.to(logits.dtype).expand_as(logits[:, :1])], 1)
        shares = logits.softmax(1)[:, : masks.shape[1]]
        return shares if self.attention is None else shares * self.attention(target).float().sigmoid()

    def logits(
        self,
        features: Float[Tensor, "P C h w"],
        target: Float[Tensor, "P C h w"],
        masks: Float[Tensor, "P N h w"],
    ) -> Float[Tensor, "P N h w"]:
        """Of each mask, by how much they exceed those of an empty mask: what all have in common, the features of the
        second frame among it, a softmax does not see."""
        at = self.places(features - target)  # (P, K, 2, h, w)
        if self.beneath is not None:
            return self._rectified(features, self.beneath(target), masks, at)
        of_taps = F.conv2d(features, self.of_taps().to(features.dtype)).float()  # (P, K, h, w)

        def brought(own: Float[Tensor, "n P h w"]) -> tuple[Float[Tensor, "n P h w"]]:
            under = of_taps[:, :, None] * own.transpose(0, 1).float()[:, None]  # (P, K, n, h, w)
            return (sample(under.flatten(0, 1), at.flatten(0, 1)[:, None]).view(under.shape).sum(1).transpose(0, 1),)

        return in_chunks(brought, AT_ONCE, masks.transpose(0, 1))[0].transpose(0, 1)

    def _rectified(
        self,
        features: Float[Tensor, "P C h w"],
        beneath: Float[Tensor, "P D h w"],
        masks: Float[Tensor, "P N h w"],
        at: Float[Tensor, "P K 2 h w"],
    ) -> Float[Tensor, "P N h w"]:
        """With a ReLU after the sum. Differs from f * M: features and mask are each looked up between cells, then
        multiplied, so that the features are looked up once for all masks."""
        taps_, places = at.shape[1], at.flatten(0, 1)[:, None]
        weights = torch.cat([weight.flatten(2).movedim(2, 0) for weight in self.warps.parameters()])  # (K, D, C)
        values = F.conv2d(features, weights.flatten(0, 1)[..., None, None].to(features.dtype)).float()
        seen = sample(values.unflatten(1, (taps_, -1)).flatten(0, 1), places).unflatten(0, at.shape[:2])[:, :, :, 0]
        under = F.relu(beneath.float())[:, None]

        def overlaid(own: Float[Tensor, "n P h w"]) -> tuple[Float[Tensor, "n P h w"]]:
            every = own.transpose(0, 1).float().repeat_interleave(taps_, 0)
            share = sample(every, places).unflatten(0, at.shape[:2])[:, :, :, 0]
            brought = torch.einsum("pkdyx,pknyx->pndyx", seen, share)
            more = F.relu(brought + beneath.float()[:, None]) - under
            return (torch.einsum("pndyx,d->npyx", more, self.mask.weight[0, :, 0, 0].float()),)

        return in_chunks(overlaid, AT_ONCE, masks.transpose(0, 1))[0].transpose(0, 1)

    def places(self, difference: Float[Tensor, "P C h w"]) -> Float[Tensor, "P K 2 h w"]:
        """Where each tap of each dilation reads, in cells."""
        size = (difference.shape[-2], difference.shape[-1])
        moved = self.offsets(self.motion(difference)).float().unflatten(1, (len(self.dilations), KERNEL**2, 2))
        still = [taps(moved, size, [KERNEL, KERNEL], 1, dilation, dilation) for dilation in self.dilations]
        return (moved + torch.stack(still)).flatten(1, 2)

    def of_taps(self) -> Float[Tensor, "K C 1 1"]:
        """What the features under a tap add to a mask's logit."""
        ours = self.mask.weight[0, :, 0, 0]
        of_each = [torch.einsum("d,dckl->klc", ours, weight).flatten(0, 1) for weight in self.warps.parameters()]
        return torch.cat(of_each)[..., None, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and what they are added to, by a 1x1 convolution where it has another number of channels."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip = nn.Identity() if channels == outputs else nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Float[Tensor, "F C h w"]) -> Float[Tensor, "F D h w"]:
        return F.relu(self.convs(x) + self.skip(x))
