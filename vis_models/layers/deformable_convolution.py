"""Deformable convolution: every tap of the kernel reads where an offset, predicted for each output pixel, sends it.

Sources: Dai et al., "Deformable Convolutional Networks", ICCV 2017, Eq. (2) (v1); Zhu et al., "Deformable ConvNets v2",
CVPR 2019, Eq. (1), which weighs each tap (v2). Used by VisSTG and MaskProp. Plain PyTorch: the samples of all taps are
drawn at once, then one matrix product; gradients, also of the offsets, are autograd's.

Axes: B batch, C channels in, D channels out, G groups of offsets, K taps of the kernel in rows, h and w of the output.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def deformable_convolution(
    x: Float[Tensor, "B C H W"],
    offsets: Float[Tensor, "B _ h w"],
    weight: Float[Tensor, "D _ kh kw"],
    bias: Float[Tensor, " D"] | None = None,
    strength: Float[Tensor, "B _ h w"] | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Tensor, "B D h w"]:
    """
    Args:
        offsets: (y, x) in pixels of `x`, tap after tap, group after group, G*K*2 channels: those of `x` are split among
            the groups.
        weight: its second axis says into how many groups the product splits the channels of `x`.
        strength: v2: what each tap counts, G*K channels; v1 has none, every tap counts one.

    Raises:
        ValueError: the sizes do not fit together.
    """
    batch, channels = x.shape[:2]
    outputs, inner, *kernel = weight.shape
    count = kernel[0] * kernel[1]
    size = _output_size(x, kernel, stride, padding, dilation)
    groups, rest = divmod(offsets.shape[1], 2 * count)
    if rest or not groups or channels % groups or tuple(offsets.shape[2:]) != size:
        raise ValueError(
            f"offsets have shape {tuple(offsets.shape)}, expected (batch, groups * {2 * count}, {size[0]}, {size[1]}) "
            f"with groups that divide {channels} channels: a kernel of {kernel[0]}x{kernel[1]}, stride {stride}, "
            f"padding {padding}, dilation {dilation} on {x.shape[2]}x{x.shape[3]} pixels"
        )
    if channels % inner or outputs % (channels // inner):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not divide {channels} channels into groups")
    at = offsets.unflatten(1, (groups, count, 2)) + taps(offsets, size, kernel, stride, padding, dilation)
    samples = sample(x.reshape(batch * groups, -1, *x.shape[2:]), at.flatten(0, 1))  # (B*G, C/G, K, h, w)
    if strength is not None:
        samples = samples * strength.reshape(batch * groups, 1, count, *size)
    columns = samples.reshape(batch, channels // inner, inner * count, size[0] * size[1])
    product = weight.reshape(channels // inner, -1, inner * count) @ columns  # (B, groups, D/groups, h*w)
    answer = product.reshape(batch, outputs, *size)
    return answer if bias is None else answer + bias[:, None, None]


def sample(maps: Float[Tensor, "B C H W"], at: Float[Tensor, "B K 2 h w"]) -> Float[Tensor, "B C K h w"]:
    """Bilinear samples at (y, x) in pixels; pixels outside are zero, so a sample fades out over the edge."""
    height, width = maps.shape[2:]
    unit = at.new_tensor([height, width])[:, None, None]
    grid = ((2 * at + 1) / unit - 1).movedim(2, -1).flip(-1)  # (B, K, h, w, 2) as (x, y); -1 is the edge, not a centre
    found = F.grid_sample(maps, grid.flatten(1, 2).to(maps.dtype), align_corners=False)
    return found.unflatten(2, at.shape[1:2] + at.shape[3:4])


class DeformableConvolution(nn.Module):
    """v1, or v2 where `strength` is given, with weights of its own; the offsets come from elsewhere."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        plain = nn.Conv2d(channels, outputs, kernel, bias=bias)  # for its usual start
        self.weight, self.bias = plain.weight, plain.bias
        self.steps = (stride, padding, dilation)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        offsets: Float[Tensor, "B _ h w"],
        strength: Float[Tensor, "B _ h w"] | None = None,
    ) -> Float[Tensor, "B D h w"]:
        return deformable_convolution(x, offsets, self.weight, self.bias, strength, *self.steps)


def _output_size(x: Tensor, kernel: list[int], stride: int, padding: int, dilation: int) -> tuple[int, int]:
    height, width = (
        (length + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for length, taps in zip(x.shape[2:], kernel, strict=True)
    )
    return height, width


def taps(
    like: Tensor, size: tuple[int, int], kernel: list[int], stride: int, padding: int, dilation: int
) -> Float[Tensor, "K 2 h w"]:
    """Where the taps of a plain convolution read: (y, x) in pixels of its input, for each output pixel."""
    along = []
    for count, length in zip(size, kernel, strict=True):
        first = torch.arange(count, device=like.device) * stride - padding
        along.append(first + dilation * torch.arange(length, device=like.device)[:, None])  # (kh, h), then (kw, w)
    y, x = along[0][:, None, :, None], along[1][None, :, None, :]
    shape = (*kernel, *size)
    return torch.stack([y.expand(shape), x.expand(shape)], 2).flatten(0, 1).to(like.dtype)
