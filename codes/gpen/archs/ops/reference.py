"""Plain, slow versions of the operations, as the papers state them; tests compare the fast ones with them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad, convolve with one 2-D filter, keep each ``down``-th pixel.

    Args:
        x: N x C x H x W.
        kernel: K x K.
        up: ``up - 1`` zeros are inserted after each pixel in both directions.
        down: step of the pixels that are kept.
        padding: zeros before and after, the same for rows and columns.
    """
    batch, channels, height, width = x.shape
    if up > 1:
        spread = x.new_zeros(batch, channels, height, up, width, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.reshape(batch, channels, height * up, width * up)

    x = F.pad(x, (*padding, *padding))
    x = x.reshape(batch * channels, 1, *x.shape[2:])
    x = F.conv2d(x, kernel.flip(0, 1)[None, None])  # conv2d correlates, so the filter is flipped
    return x.reshape(batch, channels, *x.shape[2:])[:, :, ::down, ::down]


def fir_filter(x: Tensor, kernel: Tensor, padding: int, down: int = 1) -> Tensor:
    """See :func:`gpen.archs.ops.fir_filter`."""
    return upfirdn2d(x, kernel, down=down, padding=(padding, padding))


def fir_upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """See :func:`gpen.archs.ops.fir_upsample`."""
    size = kernel.shape[0]
    return upfirdn2d(x, kernel, up=2, padding=(size // 2, size // 2 - 1))


def fused_leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    """Return ``leaky_relu(x + bias, 0.2) * sqrt(2)`` for a bias of each channel."""
    x = x + bias.view(1, -1, *[1] * (x.ndim - 2))
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def concat_leaky_relu(x: Tensor, feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See :func:`gpen.archs.ops.concat_leaky_relu`."""
    return fused_leaky_relu(torch.cat([x, weight * feature], dim=1), bias) / math.sqrt(2)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """See :func:`gpen.archs.ops.conv2d`."""
    return F.conv2d(x, weight, bias, stride, padding)


def conv_transpose2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """See :func:`gpen.archs.ops.conv_transpose2d`."""
    return F.conv_transpose2d(x, weight, stride=stride)


def equal_linear(x: Tensor, weight: Tensor, bias: Tensor, lr_mul: float = 1.0, activate: bool = False) -> Tensor:
    """See :func:`gpen.archs.ops.equal_linear`."""
    x = x @ (weight * lr_mul / math.sqrt(weight.shape[1])).t()
    return fused_leaky_relu(x, bias * lr_mul) if activate else x + bias * lr_mul


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True, upsample: bool = False, gain: float = 1.0
) -> Tensor:
    """See :func:`gpen.archs.ops.modulated_conv2d`: a weight per sample and a grouped convolution."""
    batch, channels, height, width = x.shape
    weight = weight[None] * style[:, None, :, None, None]  # N x O x I x K x K
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8) * gain

    # A group for each sample.
    x = x.reshape(1, batch * channels, height, width)
    if upsample:
        weight = weight.transpose(1, 2).flatten(0, 1)  # NI x O x K x K
        x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
    else:
        weight = weight.flatten(0, 1)  # NO x I x K x K
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=batch)
    return x.reshape(batch, -1, *x.shape[2:])
