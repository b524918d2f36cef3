"""Bias and leaky ReLU, with as few passes over the memory as there can be.

The gain of StyleGAN2's leaky ReLU, sqrt(2), commutes with it.  It belongs to what the activation is made from, such as
the weight of the convolution before, which is much smaller than the images.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpen.archs.ops.layout import memory_format

NEGATIVE_SLOPE = 0.2
GAIN = math.sqrt(2)


def leaky_relu_(x: Tensor) -> Tensor:
    """Apply ``leaky_relu(x, 0.2)`` in place."""
    return F.leaky_relu_(x, NEGATIVE_SLOPE)


def concat_leaky_relu(parts: Sequence[Tensor], feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``leaky_relu(cat([x, weight * feature], 1) + bias, 0.2)``, where ``x`` is ``torch.cat(parts)``.

    Args:
        parts: parts of the batch x, which is N x C x H x W.
        feature: N x C x H x W.
        weight: 1.
        bias: 2C.

    Returns:
        N x 2C x H x W.
    """
    dtype, channels = parts[0].dtype, parts[0].shape[1]
    weight, bias = weight.to(dtype), bias.to(dtype)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result: Tensor = _ConcatLeakyReLU.apply(feature, weight, bias, *parts)
        return result

    # Exporters see plain operations, and a compiler fuses them by itself.
    x = join(parts)
    bias_x, bias_feature = _split(bias, channels)
    return leaky_relu_(torch.cat([x + bias_x, torch.addcmul(bias_feature, feature, weight)], dim=1))


def join(parts: Sequence[Tensor]) -> Tensor:
    """Return ``torch.cat(parts)``, without a copy where there is only one part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _split(bias: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return the biases of both halves, 1 x C x 1 x 1 each."""
    bias = bias.view(1, -1, 1, 1)
    return bias[:, :channels], bias[:, channels:]


class _ConcatLeakyReLU(torch.autograd.Function):
    """All parts and the feature are written into one tensor, of which their gradients are made without copies."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
        batch, channels, height, width = feature.shape
        (x, *_), ctx.sizes = parts, [len(part) for part in parts]
        result = torch.empty(
            (batch, 2 * channels, height, width), dtype=x.dtype, device=x.device, memory_format=memory_format(x)
        )
        upper, lower = result.chunk(2, dim=1)
        bias_x, bias_feature = _split(bias, channels)

        for part, place in zip(parts, upper.split(ctx.sizes), strict=True):
            torch.add(part, bias_x, out=place)
        torch.addcmul(bias_feature, feature, weight, out=lower)
        leaky_relu_(result)
        ctx.save_for_backward(feature, weight, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (feature, weight, result) = gradients, ctx.saved_tensors

        # Each of these has derivatives of its own, so that second ones can be had.
        pairs = zip(gradient.chunk(2, dim=1), result.chunk(2, dim=1), strict=True)
        of_x, of_sum = (torch.ops.aten.leaky_relu_backward(*pair, NEGATIVE_SLOPE, True) for pair in pairs)
        needs_feature, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        of_bias = torch.cat([of_x.sum(dim=(0, 2, 3)), of_sum.sum(dim=(0, 2, 3))]) if needs_bias else None
        return (
            of_sum * weight if needs_feature else None,
            (of_sum * feature).sum().view(1) if needs_weight else None,
            of_bias,
            *of_x.split(ctx.sizes),
        )
