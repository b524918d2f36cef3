"""Steps that blur."""

import math
from collections.abc import Sequence

import numpy as np

from gpen.data.degradations.convolution import convolve
from gpen.data.degradations.draws import draw_between
from gpen.data.degradations.kernels import draw_kernel, draw_sinc, draw_size, motion
from gpen.options.types import KernelShapes, LengthRange, NonNegativeFloat, OddInt, Range
from gpen.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register
def blur(
    image: np.ndarray,
    generator: np.random.Generator,
    kernel_list: KernelShapes = ('iso', 'aniso'),
    kernel_prob: Sequence[NonNegativeFloat] | None = None,
    kernel_size: OddInt = 41,
    sigma: Range = (0.1, 10),
    betag_range: Range = (0.5, 4),
    betap_range: Range = (1, 2),
) -> np.ndarray:
    """Blur with a kernel of a random shape and size, see :func:`gpen.data.degradations.kernels.draw_kernel`.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the kernel.
        kernel_list: shapes to choose from.
        kernel_prob: how often each is taken; default: equally often.
        kernel_size: height and width of the kernel, pixels.
        sigma: standard deviation along each axis, pixels.
        betag_range: exponents of generalised Gaussians.
        betap_range: exponents of plateaus.

    Raises:
        UserError: the two lists do not fit together.
    """
    shares = kernel_prob if kernel_prob is not None else [1.0] * len(kernel_list)
    kernel = draw_kernel(generator, kernel_list, shares, kernel_size, sigma, betag_range, betap_range)
    return convolve(image, kernel)


@DEGRADATION_REGISTRY.register
def sinc_blur(
    image: np.ndarray,
    generator: np.random.Generator,
    kernel_size: OddInt = 21,
    cutoff: Range = (1.0471975511965976, 3.141592653589793),
) -> np.ndarray:
    """Cut off high frequencies sharply, which leaves ringing and overshoot (Real-ESRGAN, section 3.4).

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws size and cutoff.
        kernel_size: the largest height and width; odd ones from 7 on are drawn, pixels.
        cutoff: radians per pixel; default: pi / 3 to pi.
    """
    size = draw_size(generator, 7, kernel_size)
    low, high = (min(limit, math.pi) for limit in cutoff)
    return convolve(image, draw_sinc(generator, size, low, high))


@DEGRADATION_REGISTRY.register
def motion_blur(image: np.ndarray, generator: np.random.Generator, length: LengthRange = (3, 21)) -> np.ndarray:
    """Blur along a straight line, in any direction.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws length and direction.
        length: of the line, pixels.
    """
    pixels = draw_between(generator, length)
    return convolve(image, motion(2 * math.ceil(pixels / 2) + 1, pixels, generator.uniform(0, math.pi)))
