"""The modulated convolution of StyleGAN2 (Karras et al. 2020, section 2.2)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gpen.archs.ops.conv import conv2d, conv_transpose2d
from gpen.archs.ops.precision import full_precision, is_half

LARGE = 128 * 128
"""Pixels from which on images are larger than the weights, and one is enough work for a GPU."""


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demodulate: bool = True,
    upsample: bool = False,
    squared_weight: Tensor | None = None,
    gain: float = 1.0,
) -> list[Tensor]:
    """Convolve ``x`` with ``weight``, whose input channels are scaled by ``style`` for each sample.

    What is smaller is scaled.  In training, large images are convolved one by one, each with a scaled weight of its
    own.  Otherwise, a convolution being linear, the input channels of ``x`` are scaled instead of those of the weight,
    and the output channels by the demodulation factor: the same result with one weight for the whole batch.  A 1 x 1
    convolution is one matrix product per sample, whose small matrix is scaled.

    In float16, one weight for all and the style are divided by their largest entries first, so that no sum overflows;
    demodulation cancels that (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data",
    appendix D).

    Args:
        x: N x I x H x W.
        weight: O x I x K x K with an odd K; equalised learning rate already applied.
        style: N x I.
        demodulate: scale each output channel so that its weights have a norm of 1.
        upsample: insert a zero after each pixel first (a transposed convolution with stride 2).
        squared_weight: :func:`sum_of_squares` of the weight, if it is known; not used in float16.
        gain: factor on the result where it is demodulated.

    Returns:
        Parts of the batch, which need not be copied together if what follows takes them one by one.  Together N x O x
        H x W; with ``upsample`` N x O x (2H + K - 2) x (2W + K - 2), before the blur.
    """
    if weight.shape[-1] == 1 and not upsample:
        matrix = weight.flatten(1) * style[:, None, :]  # N x O x I
        if demodulate:
            matrix = matrix * _demodulation(sum_of_squares(weight), style, gain)[:, :, None]
        return [torch.bmm(matrix, x.flatten(2)).unflatten(2, x.shape[2:])]  # N x I x HW -> N x O x H x W

    if torch.is_grad_enabled() and x.shape[2] * x.shape[3] >= LARGE:
        return _convolve_one_by_one(x, weight, style, demodulate, upsample, gain)

    # Keep sums within the range of float16.
    if demodulate and is_half(x):
        weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
        style = style / style.abs().amax(dim=1, keepdim=True)
        squared_weight = None

    # Modulate, convolve, demodulate.
    x = _convolve(x * style.to(x.dtype)[:, :, None, None], weight, upsample)
    if demodulate:
        squared_weight = sum_of_squares(weight) if squared_weight is None else squared_weight
        x = x * _demodulation(squared_weight, style, gain).to(x.dtype)[:, :, None, None]
    return [x]


def sum_of_squares(weight: Tensor) -> Tensor:
    """Return the sum of the squares of each kernel: O x I x K x K -> O x I."""
    return weight.square().sum(dim=(2, 3))


def _convolve(x: Tensor, weight: Tensor, upsample: bool) -> Tensor:
    """Convolve all samples with one weight, O x I x K x K."""
    if upsample:
        return conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # N x O x (2H + K - 2) x (2W + K - 2)
    return conv2d(x, weight, padding=weight.shape[-1] // 2)  # N x O x H x W


def _convolve_one_by_one(
    x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, upsample: bool, gain: float
) -> list[Tensor]:
    factor = style[:, None, :]  # N x 1 x I
    if demodulate:
        factor = factor * _demodulation(sum_of_squares(weight), style, gain)[:, :, None]  # N x O x I
    weights = weight * factor[..., None, None]  # N x O x I x K x K
    samples = zip(x.split(1), weights.unbind(), strict=True)
    return [_convolve(sample, own_weight, upsample) for sample, own_weight in samples]


def _demodulation(squared_weight: Tensor, style: Tensor, gain: float) -> Tensor:
    """Return gain / norm of the modulated weights of each output channel, N x O, without computing these weights."""
    with full_precision(style):
        return torch.rsqrt(F.linear(style.square(), squared_weight) + 1e-8) * gain
