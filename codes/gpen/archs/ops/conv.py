"""Convolutions whose second derivatives are as fast as the first ones.

Autograd's second derivative of a convolution is a convolution whose kernel is as large as the image, which cuDNN has
no fast kernel for.  A convolution is linear in the image and in the weight, so that all its derivatives are made of
three operations for which there are fast kernels: the convolution, its transpose, which is the gradient of the image,
and the gradient of the weight.  Here each is an autograd function whose backward pass consists of the other two.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from gpen.archs.ops.precision import cast_as_autocast, convolution_dtype, full_precision

FEW_CHANNELS = 4
"""Up to so many channels, an image is so small beside the result that it is copied sooner than the result changed."""

_weights_have_gradients = True


@contextmanager
def only_gradients_of_images() -> Iterator[None]:
    """Leave out the gradients of weights in a backward pass that is for the images alone, such as R1's first one.

    Autograd does not tell a function of our own which gradients the caller asked for.
    """
    global _weights_have_gradients
    _weights_have_gradients = False
    try:
        yield
    finally:
        _weights_have_gradients = True


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolve as :func:`torch.nn.functional.conv2d` does.

    Args:
        x: N x I x H x W.
        weight: O x I x K x K.
        bias: O.
        stride: step of the pixels that are kept.
        padding: zeros on each of the four sides.

    Returns:
        N x O x H' x W' with H' = (H + 2 * padding - K) // stride + 1.
    """
    if not torch.is_grad_enabled():  # exporters and tracers see the plain operation
        return F.conv2d(x, weight, bias, stride, padding)
    middle = (weight.shape[2] - 1) // 2
    if bias is not None and x.shape[1] <= FEW_CHANNELS and padding <= middle:
        x, weight = bias_as_channel(*cast(list[Tensor], cast_as_autocast(x, weight, bias)))
        bias = None
    result: Tensor = Convolution.apply(*cast_as_autocast(x, weight, bias), stride, padding, 1)
    return result


def bias_as_channel(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Make a bias the weight of one more channel of the image, which is 1: no pass over the result adds it then.

    The weight is in the middle of the kernel, which must meet no padding.

    Args:
        x: N x I x H x W, with few channels, since it is copied.
        weight: O x I x K x K.
        bias: O.

    Returns:
        Image and weight with I + 1 channels.
    """
    before, after = (weight.shape[2] - 1) // 2, weight.shape[2] // 2
    of_ones = F.pad(bias.view(-1, 1, 1, 1), [before, after] * 2)
    return F.pad(x, [0, 0, 0, 0, 0, 1], value=1.0), torch.cat([weight, of_ones], dim=1)


def conv_transpose2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Apply the transpose of a convolution without padding, as :func:`torch.nn.functional.conv_transpose2d` does.

    Args:
        x: N x I x H x W.
        weight: I x O x K x K.
        stride: ``stride - 1`` zeros are inserted after each pixel first.

    Returns:
        N x O x H' x W' with H' = (H - 1) * stride + K.
    """
    if not torch.is_grad_enabled():
        return F.conv_transpose2d(x, weight, stride=stride)
    height, width = ((length - 1) * stride + weight.shape[2] for length in x.shape[2:])
    result: Tensor = Transpose.apply(*cast_as_autocast(x, weight), (height, width), stride, 0, 1)
    return result


class Convolution(torch.autograd.Function):
    """The convolution itself; see :func:`conv2d`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(*_needed(ctx, x, weight))
        ctx.size, ctx.shape = tuple(x.shape[2:]), tuple(weight.shape)
        ctx.arguments = (stride, padding, groups)
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        needs_x, *of_weights = ctx.needs_input_grad[:3]
        needs_weight, needs_bias = (needed and _weights_have_gradients for needed in of_weights)
        if needs_weight and not torch.is_grad_enabled():  # no second derivative: all in one operation
            weight = _blank(gradient, ctx.shape) if weight is None else weight
            mask = (needs_x, needs_weight, needs_bias)
            stride, padding, groups = ctx.arguments
            return *_convolution_backward(gradient, x, weight, stride, padding, groups, mask), *[None] * 3
        return (
            Transpose.apply(gradient, weight, ctx.size, *ctx.arguments) if needs_x else None,
            WeightGradient.apply(gradient, x, ctx.shape, *ctx.arguments) if needs_weight else None,
            gradient.sum(dim=(0, 2, 3)) if needs_bias else None,
            *[None] * 3,
        )


class Transpose(torch.autograd.Function):
    """The transpose of the convolution of images of ``size`` (height, width), which is the gradient of its images."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(*_needed(ctx, x, weight))
        ctx.shape = tuple(weight.shape)
        ctx.arguments = (stride, padding, groups)
        return transpose(x, weight, size, stride, padding, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        return (
            Convolution.apply(gradient, weight, None, *ctx.arguments) if needs_x else None,
            WeightGradient.apply(x, gradient, ctx.shape, *ctx.arguments) if needs_weight else None,
            *[None] * 4,
        )


class WeightGradient(torch.autograd.Function):
    """The gradient of a weight of ``shape``, O x I x K x K, for images ``x`` and the gradient of their convolution."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, shape: tuple[int, ...], stride: int, padding: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(gradient, x)
        ctx.size = tuple(x.shape[2:])
        ctx.arguments = (stride, padding, groups)
        weight = _blank(x, shape)
        return _convolution_backward(gradient, x, weight, stride, padding, groups, (False, True, False))[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,), (gradient, x) = gradients, ctx.saved_tensors
        needs_gradient, needs_x = ctx.needs_input_grad[:2]
        return (
            Convolution.apply(x, weight, None, *ctx.arguments) if needs_gradient else None,
            Transpose.apply(gradient, weight, ctx.size, *ctx.arguments) if needs_x else None,
            *[None] * 4,
        )


def transpose(x: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int, groups: int) -> Tensor:
    """Return the transpose of the convolution of images of ``size``, without derivatives of its own."""
    kernel_size = weight.shape[2]
    if groups > 1:
        if stride == 1:  # this is a convolution too, whose kernels are faster than those of a transposed one
            return F.conv2d(x, weight.flip(2, 3), padding=kernel_size - 1 - padding, groups=groups)
        if x.device.type == 'cuda':  # a transposed convolution would not use the kernel for a filter per channel
            return gradient_of_images(x, weight, size, stride, padding, groups)
        if convolution_dtype(x) == torch.bfloat16:  # on a CPU: there is a fast kernel for float32 alone
            with full_precision(x):
                images = transpose(x.float(), weight.float(), size, stride, padding, groups)
            return images.to(torch.bfloat16)

    smallest = [(length - 1) * stride - 2 * padding + kernel_size for length in x.shape[2:]]
    extra = [wanted - length for wanted, length in zip(size, smallest, strict=True)]
    return F.conv_transpose2d(x, weight, None, stride, padding, extra, groups)


def gradient_of_images(
    gradient: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int, groups: int
) -> Tensor:
    """Return what :func:`transpose` returns, by the kernel of a convolution's backward pass."""
    images = _blank(gradient, (len(gradient), weight.shape[1] * groups, *size))
    mask = (True, False, False)
    return _convolution_backward(gradient, images, weight, stride, padding, groups, mask)[0]


def _needed(ctx: Any, x: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return what the backward pass needs: each factor for the gradient of the other one."""
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    return x if needs_weight else None, weight if needs_x else None


def _blank(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of which only type and shape count; it has no memory of its own."""
    return like.new_empty(1).expand(shape)


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, mask: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    backward: Any = torch.ops.aten.convolution_backward
    one, zero = [1, 1], [0, 0]
    gradients: tuple[Tensor, Tensor, Tensor] = backward(
        gradient, x, weight, [gradient.shape[1]], [stride] * 2, [padding] * 2, one, False, zero, groups, mask
    )
    return gradients
