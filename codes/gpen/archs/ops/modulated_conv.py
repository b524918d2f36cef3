"""The modulated convolution of StyleGAN2 (Karras et al. 2020, section 2.2)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gpen.archs.ops.precision import full_precision, is_half


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demodulate: bool = True,
    upsample: bool = False,
    squared_weight: Tensor | None = None,
) -> Tensor:
    """Convolve ``x`` with ``weight``, whose input channels are scaled by ``style`` for each sample.

    A convolution is linear, so the input channels of ``x`` are scaled instead of those of the weight, and the output
    channels are scaled by the demodulation factor afterwards: the same result with one weight for the whole batch.  A
    1 x 1 convolution is one matrix product per sample, of which the small matrix is scaled rather than the large image.

    In float16, weight and style are divided by their largest entries first, so that no sum overflows; demodulation
    cancels that (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix D).

    Args:
        x: N x I x H x W.
        weight: O x I x K x K with an odd K; equalised learning rate already applied.
        style: N x I.
        demodulate: scale each output channel so that its weights have a norm of 1.
        upsample: insert a zero after each pixel first (a transposed convolution with stride 2).
        squared_weight: :func:`sum_of_squares` of the weight, if it is known; not used in float16.

    Returns:
        N x O x H x W; with ``upsample`` N x O x (2H + K - 2) x (2W + K - 2), before the blur.
    """
    # Keep sums within the range of float16.
    if demodulate and is_half(x):
        weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
        style = style / style.abs().amax(dim=1, keepdim=True)
        squared_weight = None

    # Modulate and convolve.
    if weight.shape[-1] == 1 and not upsample:
        matrix = weight.flatten(1) * style[:, None, :]  # N x O x I
        x = torch.bmm(matrix, x.flatten(2)).unflatten(2, x.shape[2:])  # N x I x HW -> N x O x H x W
    else:
        x = x * style.to(x.dtype)[:, :, None, None]
        if upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # N x O x (2H + K - 2) x (2W + K - 2)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)  # N x O x H x W

    if demodulate:
        squared_weight = sum_of_squares(weight) if squared_weight is None else squared_weight
        x = x * _demodulation(squared_weight, style).to(x.dtype)[:, :, None, None]
    return x


def sum_of_squares(weight: Tensor) -> Tensor:
    """Return the sum of the squares of each kernel: O x I x K x K -> O x I."""
    return weight.square().sum(dim=(2, 3))


def _demodulation(squared_weight: Tensor, style: Tensor) -> Tensor:
    """Return 1 / norm of the modulated weights of each output channel, N x O, without computing these weights."""
    with full_precision(style):
        return torch.rsqrt(F.linear(style.square(), squared_weight) + 1e-8)
