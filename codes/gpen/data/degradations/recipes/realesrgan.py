"""The second-order degradation of Real-ESRGAN."""

import math
from collections.abc import Sequence

import numpy as np

from gpen.data.degradations.compression import round_to_8_bits, through_jpeg
from gpen.data.degradations.convolution import convolve
from gpen.data.degradations.draws import draw_chance, draw_integer
from gpen.data.degradations.kernels import draw_kernel, draw_sinc, draw_size
from gpen.data.degradations.noise import gaussian_noise, poisson_noise
from gpen.data.degradations.resampling import draw_factor, draw_interpolation, resample
from gpen.options.types import (
    EnlargingRange,
    KernelShapes,
    NonNegativeFloat,
    OddInt,
    Probability,
    QualityRange,
    Range,
    SmallInt,
)
from gpen.registry import DEGRADATION_REGISTRY

_SMALLEST_KERNEL = 7


@DEGRADATION_REGISTRY.register
def realesrgan(
    image: np.ndarray,
    generator: np.random.Generator,
    scale: SmallInt = 4,
    kernel_list: KernelShapes = (
        'iso',
        'aniso',
        'generalized_iso',
        'generalized_aniso',
        'plateau_iso',
        'plateau_aniso',
    ),
    kernel_prob: Sequence[NonNegativeFloat] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    blur_kernel_size: OddInt = 21,
    sinc_prob: Probability = 0.1,
    blur_sigma: Range = (0.2, 3),
    betag_range: Range = (0.5, 4),
    betap_range: Range = (1, 2),
    resize_prob: Sequence[NonNegativeFloat] = (0.2, 0.7, 0.1),
    resize_range: EnlargingRange = (0.15, 1.5),
    gaussian_noise_prob: Probability = 0.5,
    noise_range: Range = (1, 30),
    poisson_scale_range: Range = (0.05, 3),
    gray_noise_prob: Probability = 0.4,
    jpeg_range: QualityRange = (30, 95),
    second_blur_prob: Probability = 0.8,
    sinc_prob2: Probability = 0.1,
    blur_sigma2: Range = (0.2, 1.5),
    betag_range2: Range = (0.5, 4),
    betap_range2: Range = (1, 2),
    resize_prob2: Sequence[NonNegativeFloat] = (0.3, 0.4, 0.3),
    resize_range2: EnlargingRange = (0.3, 1.2),
    gaussian_noise_prob2: Probability = 0.5,
    noise_range2: Range = (1, 25),
    poisson_scale_range2: Range = (0.05, 2.5),
    gray_noise_prob2: Probability = 0.4,
    jpeg_range2: QualityRange = (30, 95),
    final_sinc_prob: Probability = 0.8,
) -> np.ndarray:
    """Blur, resize, add noise and compress, twice over, with a sinc filter before or after the last compression.

    Source: Wang et al. 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
    section 3 and figure 2; the option names and numbers are those of its ``train_realesrgan_x4plus.yml``.  Its result
    is ``scale`` times smaller than the image; here it is enlarged again, bilinearly.  Options that end in 2 belong to
    the second round; the kernels' shapes and sizes are the same in both.  Its sharpening of the GT image is left out.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws everything.
        scale: how many times smaller the result is before it is enlarged; 1 and 2 are milder.
        kernel_list: shapes of the blur kernels.
        kernel_prob: how often each shape is taken.
        blur_kernel_size: the largest height and width of a kernel; odd ones from 7 on are drawn, pixels.
        sinc_prob: how often the blur is a sinc filter instead.
        blur_sigma: standard deviation of the kernel along each axis, pixels.
        betag_range: exponents of generalised Gaussians.
        betap_range: exponents of plateaus.
        resize_prob: how often the image gets larger, smaller, or keeps its size.
        resize_range: the smallest and the largest factor.
        gaussian_noise_prob: how often the noise is Gaussian; else it is shot noise.
        noise_range: standard deviation of Gaussian noise, 8-bit steps.
        poisson_scale_range: factor of shot noise.
        gray_noise_prob: how often the three channels get the same noise.
        jpeg_range: quality.
        second_blur_prob: how often the second round blurs.
        sinc_prob2: as ``sinc_prob``.
        blur_sigma2: as ``blur_sigma``.
        betag_range2: as ``betag_range``.
        betap_range2: as ``betap_range``.
        resize_prob2: as ``resize_prob``.
        resize_range2: as ``resize_range``, but of an image ``scale`` times smaller.
        gaussian_noise_prob2: as ``gaussian_noise_prob``.
        noise_range2: as ``noise_range``.
        poisson_scale_range2: as ``poisson_scale_range``.
        gray_noise_prob2: as ``gray_noise_prob``.
        jpeg_range2: as ``jpeg_range``.
        final_sinc_prob: how often there is a last sinc filter.

    Raises:
        UserError: lists do not fit together.
    """
    height, width = image.shape[:2]

    def draw_blur(sinc_prob: float, sigma: Range, betag: Range, betap: Range) -> np.ndarray:
        size = draw_size(generator, _SMALLEST_KERNEL, blur_kernel_size)
        if draw_chance(generator, sinc_prob):
            return draw_sinc(generator, size)
        return draw_kernel(generator, kernel_list, kernel_prob, size, sigma, betag, betap)

    def resize(image: np.ndarray, factor: float) -> np.ndarray:
        """Return the image at ``factor`` times the size of the original, by a random interpolation."""
        size = max(1, int(height * factor)), max(1, int(width * factor))
        return resample(image, *size, draw_interpolation(generator))

    def add_noise(image: np.ndarray, gaussian: float, sigma: Range, poisson_scale: Range, gray: float) -> np.ndarray:
        if draw_chance(generator, gaussian):
            return gaussian_noise(image, generator, sigma, gray)
        return poisson_noise(image, generator, poisson_scale, gray)

    # First round.
    result = convolve(image, draw_blur(sinc_prob, blur_sigma, betag_range, betap_range))
    result = resize(result, draw_factor(generator, resize_range, resize_prob, 'resize_prob'))
    result = add_noise(result, gaussian_noise_prob, noise_range, poisson_scale_range, gray_noise_prob)
    result = through_jpeg(result, draw_integer(generator, jpeg_range))

    # Second round, without its JPEG.
    if draw_chance(generator, second_blur_prob):
        result = convolve(result, draw_blur(sinc_prob2, blur_sigma2, betag_range2, betap_range2))
    result = resize(result, draw_factor(generator, resize_range2, resize_prob2, 'resize_prob2') / scale)
    result = add_noise(result, gaussian_noise_prob2, noise_range2, poisson_scale_range2, gray_noise_prob2)

    # JPEG comes first or last; between resizing and filtering it leaves twisted lines, says the published code.
    jpeg_is_last = generator.random() < 0.5
    if not jpeg_is_last:
        result = through_jpeg(result, draw_integer(generator, jpeg_range2))
    result = _filter_last(resize(result, 1 / scale), generator, final_sinc_prob, blur_kernel_size)
    if jpeg_is_last:
        result = through_jpeg(result, draw_integer(generator, jpeg_range2))
    return resample(round_to_8_bits(result), height, width, 'bilinear')


def _filter_last(image: np.ndarray, generator: np.random.Generator, probability: float, largest: int) -> np.ndarray:
    """Return the image, with this probability after a sinc filter of an odd size up to ``largest`` pixels."""
    if not draw_chance(generator, probability):
        return image
    size = draw_size(generator, _SMALLEST_KERNEL, largest)
    return convolve(image, draw_sinc(generator, size, math.pi / 3))
