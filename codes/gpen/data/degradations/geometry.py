"""The step that moves the face within its image.

It belongs to a data set's ``augment``, where both images move; in ``degradation`` it would move the LQ image alone.
"""

import cv2
import numpy as np

from gpen.data.degradations.draws import check_above_zero, draw_between
from gpen.options.types import EnlargingRange, SignedRange
from gpen.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register
def affine(
    image: np.ndarray,
    generator: np.random.Generator,
    rotation: SignedRange = (-8, 8),
    scale: EnlargingRange = (0.95, 1.15),
    shift: SignedRange = (-0.04, 0.04),
) -> np.ndarray:
    """Turn, scale and shift the image, for more variety where there are few faces.

    What comes in from outside is the mirrored image.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws an angle, a factor and two shifts.
        rotation: degrees about the middle, counter-clockwise.
        scale: factor; above 1: larger.
        shift: to the right and down, as shares of width and height.

    Raises:
        UserError: ``scale`` reaches down to 0.
    """
    check_above_zero(scale, 'scale')
    height, width = image.shape[:2]
    angle, factor = draw_between(generator, rotation), draw_between(generator, scale)
    offset = draw_between(generator, shift) * width, draw_between(generator, shift) * height
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, factor)  # pixels count from 0
    matrix[:, 2] += offset
    # Not BORDER_REFLECT_101: OpenCV 5 never returns from it where an image is one pixel wide.
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.clip(moved, -1, 1, out=moved)  # bicubic weights overshoot
