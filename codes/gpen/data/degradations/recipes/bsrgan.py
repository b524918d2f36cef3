"""The shuffled degradation of BSRGAN."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from gpen.data.degradations.compression import through_jpeg
from gpen.data.degradations.convolution import convolve, convolve_plain
from gpen.data.degradations.draws import draw_chance, draw_integer
from gpen.data.degradations.kernels import draw_size, gaussian
from gpen.data.degradations.noise import add_correlated_gaussian, add_gaussian
from gpen.data.degradations.resampling import draw_interpolation, resample
from gpen.options.types import Probability, QualityRange, Range, SmallInt
from gpen.registry import DEGRADATION_REGISTRY

_INTERPOLATIONS = ('bilinear', 'bicubic', 'area')
_STEPS = ('blur', 'blur', 'shrink', 'shrink to size', 'noise', 'jpeg')


@DEGRADATION_REGISTRY.register
def bsrgan(
    image: np.ndarray,
    generator: np.random.Generator,
    scale: SmallInt = 4,
    halve_prob: Probability = 0.25,
    resize_prob: Probability = 0.75,
    noise_range: Range = (2, 25),
    jpeg_prob: Probability = 0.9,
    jpeg_range: QualityRange = (30, 95),
) -> np.ndarray:
    """Two blurs, two steps of shrinking, noise and JPEG, in an order drawn for each image, then JPEG again.

    Source: Zhang et al. 2021, "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution", section
    3, and ``degradation_bsrgan`` in its code.  Its result is ``scale`` times smaller than the image; here it is
    enlarged again, bilinearly.  Its simulated camera is left out, as its code leaves it out where no model of a camera
    is given.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws everything.
        scale: how many times smaller the result is before it is enlarged; the blur grows with it.
        halve_prob: how often, where ``scale`` is 4, the image is halved first and then treated as for 2.
        resize_prob: how often the first shrinking resamples, by 1 to twice the scale; else it blurs and takes every
            ``scale``-th pixel.
        noise_range: standard deviation of the noise, whole 8-bit steps; it is coloured, grey, or correlated between
            the channels (that one at the upper end).
        jpeg_prob: how often there is JPEG among the steps.
        jpeg_range: quality, of the last JPEG too.
    """
    height, width = image.shape[:2]
    result, rest = image, scale
    if scale == 4 and draw_chance(generator, halve_prob):
        result, rest = _halve(image, generator), 2

    final_size = _divide(result, rest)
    for step in _draw_order(generator):
        if step == 'blur':
            result = convolve(result, _draw_kernel(generator, rest))
        elif step == 'shrink':
            final_size = _divide(result, rest)
            result = _shrink(result, generator, rest, resize_prob)
        elif step == 'shrink to size':
            result = resample(result, *final_size, draw_interpolation(generator, _INTERPOLATIONS))
        elif step == 'noise':
            result = _add_noise(result, generator, noise_range)
        elif draw_chance(generator, jpeg_prob):
            result = through_jpeg(result, draw_integer(generator, jpeg_range))

    result = through_jpeg(result, draw_integer(generator, jpeg_range))
    return resample(result, height, width, 'bilinear')


def _draw_order(generator: np.random.Generator) -> list[str]:
    """Return the steps in random order, except that shrinking to the final size comes after the other shrinking."""
    order = [_STEPS[index] for index in generator.permutation(len(_STEPS))]
    first, second = sorted(order.index(step) for step in ('shrink', 'shrink to size'))
    order[first], order[second] = 'shrink', 'shrink to size'
    return order


def _divide(image: np.ndarray, divisor: float) -> tuple[int, int]:
    return max(1, int(image.shape[0] / divisor)), max(1, int(image.shape[1] / divisor))


def _fit_blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Return the image in whole blocks of ``side`` pixels; a rest cut off, or a block too many, would move it."""
    height, width = _divide(image, side)
    return resample(image, height * side, width * side, 'bilinear')


def _draw_kernel(generator: np.random.Generator, scale: int) -> np.ndarray:
    """Return a Gaussian, isotropic half of the time, of a size from 7 to 25 (section 3.1)."""
    size = draw_size(generator, 7, 25)
    if generator.random() < 0.5:
        sigma_x, sigma_y = np.sqrt(generator.uniform(0, 4 + scale, 2))
        return gaussian(size, sigma_x, sigma_y, generator.uniform(0, math.pi))
    return gaussian(size, generator.uniform(0, 2 + 0.2 * scale))


def _shrink(image: np.ndarray, generator: np.random.Generator, scale: int, resize_prob: float) -> np.ndarray:
    """Resample, or blur and take every ``scale``-th pixel (section 3.2)."""
    if draw_chance(generator, resize_prob):
        size = _divide(image, generator.uniform(1, 2 * scale))
        return resample(image, *size, draw_interpolation(generator, _INTERPOLATIONS))
    # The pixels taken are the first of each scale x scale block; the shifted kernel looks at the block's middle.
    middle = (scale - 1) / 2
    half = max(12, scale)
    sigma = generator.uniform(0.1, 0.6 * scale)
    profile = np.exp(-0.5 * ((np.arange(-half, half + 1) - middle) / sigma) ** 2)
    column = (profile / profile.sum())[:, None]
    image = _fit_blocks(image, scale)
    return np.ascontiguousarray(convolve_plain(convolve_plain(image, column)[::scale], column.T)[:, ::scale])


def _halve(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the image at half its size, resampled in one of four ways."""
    if generator.random() < 0.5:
        return resample(image, *_divide(image, 2), draw_interpolation(generator, _INTERPOLATIONS))
    return _halve_without_aliasing(image)


def _halve_without_aliasing(image: np.ndarray) -> np.ndarray:
    """Return the image at half its size by bicubic interpolation with a kernel twice as wide, as MATLAB does it."""
    distance = np.abs(np.arange(-3, 5) - 0.5) / 2  # of the pixels 2n - 3 to 2n + 4 from the middle of 2n and 2n + 1
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    column = (np.where(distance <= 1, near, far) / 2)[:, None]
    image = _fit_blocks(image, 2)
    rows = cv2.filter2D(image, -1, column, anchor=(0, 3), borderType=cv2.BORDER_REFLECT)[::2]
    result = cv2.filter2D(rows, -1, column.T, anchor=(3, 0), borderType=cv2.BORDER_REFLECT)[:, ::2]
    return np.clip(result, -1, 1)


def _add_noise(image: np.ndarray, generator: np.random.Generator, noise_range: Sequence[float]) -> np.ndarray:
    """Add coloured, grey or correlated noise: two, two and one time out of five (section 3.3)."""
    sigma = draw_integer(generator, noise_range)
    kind = generator.random()
    if 0.4 <= kind <= 0.6:
        return add_correlated_gaussian(image, generator, noise_range[1])
    return add_gaussian(image, generator, sigma, gray=kind < 0.4)
