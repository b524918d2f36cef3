"""The degradation of GFPGAN."""

from collections.abc import Sequence

import numpy as np

from gpen.data.degradations.colour import color_jitter, color_shift, grayscale
from gpen.data.degradations.compression import round_to_8_bits, through_jpeg
from gpen.data.degradations.convolution import convolve_and_resize
from gpen.data.degradations.draws import draw_chance, draw_integer
from gpen.data.degradations.kernels import draw_kernel
from gpen.data.degradations.noise import gaussian_noise
from gpen.data.degradations.resampling import draw_smaller_size, resample
from gpen.options.types import (
    KernelShapes,
    NonNegativeFloat,
    OddInt,
    Probability,
    QualityRange,
    Range,
    ShrinkingRange,
    SignedRange,
)
from gpen.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register
def gfpgan(
    image: np.ndarray,
    generator: np.random.Generator,
    kernel_list: KernelShapes = ('iso', 'aniso'),
    kernel_prob: Sequence[NonNegativeFloat] = (0.5, 0.5),
    blur_kernel_size: OddInt = 41,
    blur_sigma: Range = (0.1, 10),
    downsample_range: ShrinkingRange = (0.8, 8),
    noise_range: Range | None = (0, 20),
    jpeg_range: QualityRange | None = (60, 100),
    color_jitter_prob: Probability | None = 0.3,
    color_jitter_shift: NonNegativeFloat = 20,
    color_jitter_pt_prob: Probability | None = 0.3,
    brightness: Range | None = (0.5, 1.5),
    contrast: Range | None = (0.5, 1.5),
    saturation: Range | None = (0, 1.5),
    hue: SignedRange | None = (-0.1, 0.1),
    gray_prob: Probability | None = 0.01,
) -> np.ndarray:
    """Blur, make smaller, add noise, compress as JPEG, enlarge, change colours.

    Source: Wang et al. 2021, "Towards Real-World Blind Face Restoration with Generative Facial Prior", equation 13; the
    option names and numbers are those of its ``train_gfpgan_v1.yml`` for 512 x 512, changes of colour included.  To
    leave those out, set ``color_jitter_prob``, ``color_jitter_pt_prob`` and ``gray_prob`` to 0; to grey both images of
    a pair, use ``augment``.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws everything.
        kernel_list: shapes of the blur kernel.
        kernel_prob: how often each shape is taken.
        blur_kernel_size: height and width of the kernel, pixels.
        blur_sigma: standard deviation of the kernel along each axis, pixels.
        downsample_range: how many times smaller.
        noise_range: standard deviation of the noise, 8-bit steps; None: no noise.
        jpeg_range: quality; None: no compression.
        color_jitter_prob: how often the three channels are shifted.
        color_jitter_shift: the largest such shift, 8-bit steps.
        color_jitter_pt_prob: how often brightness, contrast, saturation and hue are changed.
        brightness: factors; None: left as it is.
        contrast: factors; None: left as it is.
        saturation: factors; None: left as it is.
        hue: turns of the colour circle; None: left as it is.
        gray_prob: how often the image is made grey.

    Raises:
        UserError: the lists do not fit together, or ``downsample_range`` reaches down to 0.
    """
    height, width = image.shape[:2]

    # Blur, make smaller, add noise, compress, enlarge.
    kernel = draw_kernel(generator, kernel_list, kernel_prob, blur_kernel_size, blur_sigma)
    result = convolve_and_resize(image, kernel, *draw_smaller_size(image, generator, downsample_range))
    if noise_range is not None:
        result = gaussian_noise(result, generator, noise_range)
    if jpeg_range is not None:
        result = through_jpeg(result, draw_integer(generator, jpeg_range))
    result = resample(result, height, width, 'bilinear')

    # Colours are changed at full size.
    if draw_chance(generator, color_jitter_prob):
        result = color_shift(result, generator, color_jitter_shift)
    if draw_chance(generator, gray_prob):
        result = grayscale(result, generator)
    if draw_chance(generator, color_jitter_pt_prob):
        result = color_jitter(result, generator, brightness, contrast, saturation, hue)

    return round_to_8_bits(result, out=None if result is image else result)
