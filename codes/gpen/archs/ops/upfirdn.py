"""Blur, down- and upsampling of images with a small FIR filter.

They are plain depthwise convolutions, for which PyTorch has fast kernels on every device.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gpen.archs.ops.conv import Convolution, Transpose, transpose
from gpen.archs.ops.precision import cast_as_autocast


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
    channels = x.shape[1]
    weight = kernel.flip(0, 1).to(x.dtype).expand(channels, 1, -1, -1)  # conv2d correlates
    if not torch.is_grad_enabled():
        # Exporters and tracers see the plain operation.
        return F.conv2d(x, weight, None, down, padding, groups=channels)
    result: Tensor = Convolution.apply(*cast_as_autocast(x, weight), None, down, padding, channels)
    return result


def fir_upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Insert a zero after each pixel and convolve each channel with ``kernel`` (sum 4 to keep the brightness).

    Args:
        x: N x C x H x W.
        kernel: K x K with an even K; no gradient is computed for it.

    Returns:
        N x C x 2H x 2W.
    """
    channels = x.shape[1]
    arguments = ((2 * x.shape[2], 2 * x.shape[3]), 2, kernel.shape[0] // 2 - 1, channels)
    weight = kernel.to(x.dtype).expand(channels, 1, -1, -1)
    if not torch.is_grad_enabled():
        return transpose(x, weight, *arguments)
    result: Tensor = Transpose.apply(*cast_as_autocast(x, weight), *arguments)
    return result
