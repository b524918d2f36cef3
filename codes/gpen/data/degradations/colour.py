"""Steps that change colours.

In a data set's ``degradation`` they change the LQ image alone, and the network learns to undo them; in its ``augment``
they change the GT image too.
"""

import cv2
import numpy as np

from gpen.data.degradations.draws import draw_between
from gpen.options.types import NonNegativeFloat, Range, SignedRange
from gpen.registry import DEGRADATION_REGISTRY


@DEGRADATION_REGISTRY.register
def grayscale(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Take the colours away: three equal channels, the luma of ITU-R BT.601.  This is GPEN's colourisation task.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: not used.
    """
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


@DEGRADATION_REGISTRY.register
def color_shift(image: np.ndarray, generator: np.random.Generator, shift: NonNegativeFloat = 20) -> np.ndarray:
    """Shift each channel by a random amount, as GFPGAN does.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws three shifts.
        shift: the largest shift either way, 8-bit steps.
    """
    limit = shift / 127.5
    result = _add_to_channels(image, generator.uniform(-limit, limit, 3))
    return np.clip(result, -1, 1, out=result)


@DEGRADATION_REGISTRY.register
def color_jitter(
    image: np.ndarray,
    generator: np.random.Generator,
    brightness: Range | None = (0.5, 1.5),
    contrast: Range | None = (0.5, 1.5),
    saturation: Range | None = (0, 1.5),
    hue: SignedRange | None = (-0.1, 0.1),
) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, in any order; the defaults are GFPGAN's.

    Each change is that of torchvision's ``adjust_...`` functions.  A range of None leaves a change out.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the order and the four amounts.
        brightness: factor; 1 changes nothing.
        contrast: factor of the distance from the mean grey.
        saturation: factor of the distance from grey; 0 makes grey.
        hue: turns of the colour circle; 0 changes nothing.
    """
    changes = (
        (_scale_brightness, brightness),
        (_scale_contrast, contrast),
        (_scale_saturation, saturation),
        (_turn_hue, hue),
    )

    result = image.copy()
    for index in generator.permutation(4):
        change, limits = changes[index]
        if limits is not None:
            result = change(result, draw_between(generator, limits))
            np.clip(result, -1, 1, out=result)
    return result


# These functions may overwrite the image they are given.


def _scale_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    image += 1
    image *= np.float32(factor)
    image -= 1
    return image


def _scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    image *= np.float32(factor)
    image += np.float32((1 - factor) * mean)
    return image


def _scale_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    luma = np.tile([0.299, 0.587, 0.114], (3, 1))
    return cv2.transform(image, factor * np.eye(3) + (1 - factor) * luma)


def _turn_hue(image: np.ndarray, turns: float) -> np.ndarray:
    image += 1
    image *= 0.5
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # degrees, [0, 1], [0, 1]
    turned = _add_to_channels(hsv, np.array([360 * (turns % 1), 0, 0]))
    cv2.cvtColor(turned, cv2.COLOR_HSV2RGB, dst=image)  # takes angles beyond 360, but not below 0
    image *= 2
    image -= 1
    return image


def _add_to_channels(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    return cv2.transform(image, np.column_stack([np.eye(3), values]))  # NumPy is slow with so short a last axis
