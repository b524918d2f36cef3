"""Blur, down- and upsampling of images with a small FIR filter.

They are plain depthwise convolutions, for which PyTorch has fast kernels on every device.  Two autograd functions wrap
them, each the derivative of the other: the second derivative that autograd finds by itself would also compute the
gradient of the filter, which nothing needs and which is about ten times slower on a CPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def make_fir_kernel(gain: float = 1.0) -> Tensor:
    """Return the filter [1, 3, 3, 1] in two dimensions, 4 x 4, with the sum ``gain``."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) * (gain / 64)


def fir_filter(x: Tensor, kernel: Tensor, padding: int, down: int = 1) -> Tensor:
    """Pad with zeros, convolve each channel with ``kernel``, keep each ``down``-th pixel.

    Args:
        x: N x C x H x W.
        kernel: K x K; no gradient is computed for it.
        padding: zeros on each of the four sides.
        down: 1 or 2.

    Returns:
        N x C x H' x W' with H' = (H + 2 * padding - K) // down + 1.
    """
    kernel = kernel.flip(0, 1)  # conv2d correlates
    if torch.is_grad_enabled() and x.requires_grad:
        return _Filter.apply(x, kernel, padding, down)
    return _filter(x, kernel, padding, down)


def fir_upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Insert a zero after each pixel and convolve each channel with ``kernel`` (sum 4 to keep the brightness).

    Args:
        x: N x C x H x W.
        kernel: K x K with an even K; no gradient is computed for it.

    Returns:
        N x C x 2H x 2W.
    """
    size = (2 * x.shape[2], 2 * x.shape[3])
    padding = kernel.shape[0] // 2 - 1
    if torch.is_grad_enabled() and x.requires_grad:
        return _Transpose.apply(x, kernel, padding, 2, size)
    # Without gradients the plain operation runs, so that exporters and tracers see a convolution.
    return _transpose(x, kernel, padding, 2, size)


def _filter(x: Tensor, kernel: Tensor, padding: int, stride: int) -> Tensor:
    """Correlate each channel with ``kernel``."""
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=channels)


def _transpose(x: Tensor, kernel: Tensor, padding: int, stride: int, size: tuple[int, int]) -> Tensor:
    """Apply the transpose of :func:`_filter`, which then takes images of ``size`` (height, width)."""
    if stride == 1:  # this is a convolution too, whose kernels are faster than those of a transposed one
        return _filter(x, kernel.flip(0, 1), kernel.shape[0] - 1 - padding, 1)
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    smallest = [(length - 1) * stride - 2 * padding + kernel.shape[0] for length in x.shape[2:]]
    extra = [wanted - length for wanted, length in zip(size, smallest, strict=True)]
    return F.conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=extra, groups=channels)


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int, stride: int) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.arguments = (padding, stride, tuple(x.shape[2:]))
        return _filter(x, kernel, padding, stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (kernel,) = ctx.saved_tensors
        return _Transpose.apply(gradients[0], kernel, *ctx.arguments), None, None, None


class _Transpose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int, stride: int, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.arguments = (padding, stride)
        return _transpose(x, kernel, padding, stride, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (kernel,) = ctx.saved_tensors
        return _Filter.apply(gradients[0], kernel, *ctx.arguments), None, None, None, None
