"""The degradation of this project's example data sets."""

import cv2
import numpy as np

from gpen.data.degradations.compression import through_jpeg
from gpen.data.degradations.convolution import BORDER
from gpen.data.degradations.draws import check_above_zero, draw_between, draw_integer
from gpen.data.degradations.noise import add_gaussian
from gpen.data.degradations.resampling import resample
from gpen.options.types import QualityRange, Range, ShrinkingRange
from gpen.registry import DEGRADATION_REGISTRY

_REFERENCE_SIZE = 64
_BLUR = (0.6, 1.7)
_SHRINK = (1.6, 3.4)


@DEGRADATION_REGISTRY.register
def simple(
    image: np.ndarray,
    generator: np.random.Generator,
    blur: Range | None = None,
    shrink: ShrinkingRange | None = None,
    noise: Range = (0, 12),
    jpeg: QualityRange = (60, 95),
) -> np.ndarray:
    """Blur, make smaller, add noise, compress as JPEG, enlarge: mild, one kind of each.

    Where ``blur`` and ``shrink`` are None, they fit the image's shorter side: at 64 pixels 0.6 to 1.7 and 1.6 to 3.4,
    which costs about as much as a face can lose and still be known; larger images bear more, with the square root of
    their size.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the strengths and the noise.
        blur: standard deviation of an isotropic Gaussian, pixels.
        shrink: how many times smaller before it is enlarged again.
        noise: standard deviation of the noise, 8-bit steps.
        jpeg: quality.

    Raises:
        UserError: ``shrink`` reaches down to 0.
    """
    height, width = image.shape[:2]
    scale = (min(height, width) / _REFERENCE_SIZE) ** 0.5
    sigma = draw_between(generator, blur or [scale * limit for limit in _BLUR])
    factors = shrink or [max(1.0, scale * limit) for limit in _SHRINK]
    check_above_zero(factors, 'shrink')
    factor = draw_between(generator, factors)
    deviation = draw_between(generator, noise)
    quality = draw_integer(generator, jpeg)

    blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=BORDER) if sigma > 0 else image
    small = resample(blurred, max(1, round(height / factor)), max(1, round(width / factor)), 'area')
    small = through_jpeg(add_gaussian(small, generator, deviation), quality)
    result = resample(small, height, width, 'bilinear')
    return np.clip(result, -1, 1, out=result)
