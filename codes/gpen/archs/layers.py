"""Layers that generator and discriminator share.

Modules are nested and ordered so that the keys of a state dict are those of the published GPEN files.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs.ops import GAIN, conv2d, equal_linear, fir_filter, leaky_relu_, make_fir_kernel


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate.

    Args:
        in_features: length of the input vectors.
        out_features: length of the output vectors.
        bias_init: initial value of the bias.
        lr_mul: factor on the learning rate of this layer.
        activate: end with a leaky ReLU.
    """

    def __init__(
        self, in_features: int, out_features: int, bias_init: float = 0.0, lr_mul: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        return equal_linear(x, self.weight, self.bias, self.lr_mul, self.activate)


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate, whose bias is given in each call.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: width and height of the kernel.
        stride: step of the pixels that are kept.
        padding: zeros on each side.
        gain: factor on the result without the bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.scale = gain / math.sqrt(in_channels * kernel_size**2)
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = self.weight if self.scale == 1 else self.weight * self.scale
        return conv2d(x, weight, bias, self.stride, self.padding)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply the weight by its scale, once for all calls; not for training."""
        self.weight.mul_(self.scale)
        self.scale = 1


class Bias(nn.Module):
    """A bias for each channel, which the layer that owns it adds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))


class Blur(nn.Module):
    """Filter with [1, 3, 3, 1] in both directions and keep each ``down``-th pixel.

    Args:
        padding: zeros on each side.
        down: 1 or 2.
        gain: sum of the filter; 4 makes up for zeros that were inserted between the pixels.
    """

    kernel: Tensor

    def __init__(self, padding: int, down: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer('kernel', make_fir_kernel(gain))
        self.padding = padding
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        return fir_filter(x, self.kernel, self.padding, self.down)


class ConvLayer(nn.Sequential):
    """Convolution, bias and leaky ReLU; ``downsample`` blurs first and halves the resolution.

    A leaky ReLU commutes with a positive factor, so its gain is part of weight and bias, which are small.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: 1 or 3.
        downsample: N x C x H x W -> N x C' x H/2 x W/2.
        gain: factor on the result; the default is that of the leaky ReLU.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, downsample: bool = False, gain: float = GAIN
    ) -> None:
        blur = [Blur(padding=(kernel_size + 1) // 2)] if downsample else []
        stride, padding = (2, 0) if downsample else (1, kernel_size // 2)
        super().__init__(
            *blur,
            EqualConv2d(in_channels, out_channels, kernel_size, stride, padding, gain),
            Bias(out_channels),
        )
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        modules: list[Any] = list(self)
        *blur, convolution, activation = modules
        for layer in blur:
            x = layer(x)
        return leaky_relu_(convolution(x, activation.bias * self.gain))
