"""The two degradations of GPEN: that of its published training code, and that of its paper."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from gpen.data.degradations.colour import grayscale
from gpen.data.degradations.compose import changes_both
from gpen.data.degradations.compression import through_jpeg
from gpen.data.degradations.convolution import convolve, convolve_and_resize
from gpen.data.degradations.draws import draw_chance, draw_integer
from gpen.data.degradations.kernels import draw_kernel, draw_size
from gpen.data.degradations.noise import gaussian_noise
from gpen.data.degradations.resampling import draw_smaller_size, resample
from gpen.options.types import KernelShapes, NonNegativeFloat, OddInt, Probability, QualityRange, Range, ShrinkingRange
from gpen.registry import DEGRADATION_REGISTRY

PAPER_SIZE = 1024
"""Images of this many pixels a side are what the paper's numbers are for."""

_SMALLEST_SIDE = 4  # pixels; a face of fewer is only a colour

# kernel_list, downsample_range, noise_range and jpeg_range, where they are None.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    'code': (('iso', 'aniso'), (0.8, 8), (0, 20), (60, 100)),
    'paper': (('iso', 'motion'), (10, 200), (0, 25), (5, 50)),
}
_GRAY_PAIRS = {'code': 0.2, 'paper': 0.0}


def _grey_pairs(version: str = 'code', gray_pair_prob: float | None = None, **_: Any) -> list[dict[str, Any]]:
    """Return the step that the published code does on both images of a pair."""
    probability = _GRAY_PAIRS[version] if gray_pair_prob is None else gray_pair_prob
    return [{'type': 'grayscale', 'probability': probability}] if probability else []


@DEGRADATION_REGISTRY.register
@changes_both(_grey_pairs)
def gpen(
    image: np.ndarray,
    generator: np.random.Generator,
    version: Literal['code', 'paper'] = 'code',
    kernel_list: KernelShapes | None = None,
    kernel_prob: Sequence[NonNegativeFloat] = (0.5, 0.5),
    blur_kernel_size: OddInt = 41,
    blur_sigma: Range = (0.1, 10),
    downsample_range: ShrinkingRange | None = None,
    noise_range: Range | None = None,
    jpeg_range: QualityRange | None = None,
    gray_prob: Probability = 0.0,
    gray_pair_prob: Probability | None = None,  # noqa: ARG001
) -> np.ndarray:
    """Blur, make smaller, add noise, compress as JPEG, enlarge.

    Source: Yang et al. 2021, "GAN Prior Embedded Network for Blind Face Restoration in the Wild".

    ``version: code`` is the published training code (``training/data_loader/dataset_face.py``): nearly GFPGAN's, with
    one face in five made grey first, GT and LQ image alike (``gray_pair_prob``).  With ``gray_prob``, the LQ image
    alone is made grey, and the network learns to add colours.

    ``version: paper`` is section 4.1 of the paper, for heavily damaged faces of 1024 x 1024.  For other sizes all
    lengths (kernel, deviation, factor) are multiplied by size / 1024, so that as much of a face is left: at the
    strongest, five pixels a side.  The factor is never below 1, and no side gets smaller than four pixels.  The paper
    names Gaussian and motion blur of various kernel sizes without numbers: the odd sizes up to ``blur_kernel_size``
    are drawn here, with the published code's deviations.  Nor does it name an interpolation: areas are averaged here,
    because single pixels, 200 apart, would show anything but the face.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws everything.
        version: whose numbers stand for options that are None.
        kernel_list: shapes of the blur kernel; code: iso, aniso; paper: iso, motion.
        kernel_prob: how often each shape is taken.
        blur_kernel_size: height and width of the kernel (paper: the largest), pixels.
        blur_sigma: standard deviation of the kernel along each axis, pixels.
        downsample_range: how many times smaller; code: 0.8 to 8, paper: 10 to 200.
        noise_range: standard deviation of the noise, 8-bit steps; code: 0 to 20, paper: 0 to 25.
        jpeg_range: quality; code: 60 to 100, paper: 5 to 50.
        gray_prob: how often the LQ image alone is made grey.
        gray_pair_prob: how often both images of a pair are made grey before all else, where a data set or the
            preparation makes pairs, and this is no step within another; code: 0.2, paper: 0.

    Raises:
        UserError: the lists do not fit together, or ``downsample_range`` reaches down to 0.
    """
    height, width = image.shape[:2]
    given: tuple[Any, ...] = (kernel_list, downsample_range, noise_range, jpeg_range)
    shapes, factors, noise, quality = (
        default if value is None else value for value, default in zip(given, _DEFAULTS[version], strict=True)
    )
    if draw_chance(generator, gray_prob):
        image = grayscale(image, generator)

    if version == 'code':
        kernel = draw_kernel(generator, shapes, kernel_prob, blur_kernel_size, blur_sigma)
        result = convolve_and_resize(image, kernel, *draw_smaller_size(image, generator, factors))
    else:
        # All lengths of the paper are those for 1024 pixels.
        scale = min(height, width) / PAPER_SIZE
        size = draw_size(generator, 3, 2 * round(blur_kernel_size * scale / 2) + 1)
        kernel = draw_kernel(generator, shapes, kernel_prob, size, [sigma * scale for sigma in blur_sigma])
        small_height, small_width = draw_smaller_size(
            image, generator, [max(1.0, factor * scale) for factor in factors]
        )
        small_height = max(small_height, min(_SMALLEST_SIDE, height))
        small_width = max(small_width, min(_SMALLEST_SIDE, width))
        result = resample(convolve(image, kernel), small_height, small_width, 'area')

    result = gaussian_noise(result, generator, noise)
    result = through_jpeg(result, draw_integer(generator, quality))
    return resample(result, height, width, 'bilinear')
