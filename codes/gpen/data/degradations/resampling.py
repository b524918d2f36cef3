"""Steps that change the size; after the last step the image gets its first size back."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from gpen.data.degradations.draws import check_above_zero, draw_between, draw_index
from gpen.errors import UserError
from gpen.options.types import EnlargingRange, NonNegativeFloat, ShrinkingRange
from gpen.registry import DEGRADATION_REGISTRY

METHODS = {
    'nearest': cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST takes the first pixel of several, which moves the image
    'bilinear': cv2.INTER_LINEAR,
    'bicubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
}


@DEGRADATION_REGISTRY.register
def downsample(
    image: np.ndarray,
    generator: np.random.Generator,
    factor: ShrinkingRange = (0.8, 8),
    interpolation: Literal['nearest', 'bilinear', 'bicubic', 'area'] = 'bilinear',
) -> np.ndarray:
    """Make the image smaller by a random factor, as GFPGAN does.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the factor.
        factor: how many times smaller; below 1: larger.
        interpolation: all but ``area`` look at a few pixels only and leave aliasing.

    Raises:
        UserError: the range reaches down to 0.
    """
    return resample(image, *draw_smaller_size(image, generator, factor, 'factor'), interpolation)


@DEGRADATION_REGISTRY.register
def resize(
    image: np.ndarray,
    generator: np.random.Generator,
    factor: EnlargingRange = (0.15, 1.5),
    up_down_keep: Sequence[NonNegativeFloat] = (0.2, 0.7, 0.1),
    interpolations: Sequence[Literal['nearest', 'bilinear', 'bicubic', 'area']] = ('area', 'bilinear', 'bicubic'),
) -> np.ndarray:
    """Make the image larger, make it smaller, or keep its size, as Real-ESRGAN does.

    Args:
        image: H x W x 3, float32, RGB, [-1, 1].
        generator: draws the factor and the interpolation.
        factor: the smallest and the largest.
        up_down_keep: how often it gets larger, gets smaller, or keeps its size.
        interpolations: one of them is drawn, each as often as the others.

    Raises:
        UserError: ``up_down_keep`` does not hold three numbers, or ``interpolations`` is empty.
    """
    scale = draw_factor(generator, factor, up_down_keep, 'up_down_keep')
    height, width = (max(1, int(length * scale)) for length in image.shape[:2])
    if not interpolations:
        raise UserError('interpolations is []; it needs at least one name.')
    return resample(image, height, width, draw_interpolation(generator, interpolations))


def resample(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Return the image as height x width x 3, in [-1, 1]; the image itself where it has this size."""
    if image.shape[:2] == (height, width):
        return image
    result = cv2.resize(image, (width, height), interpolation=METHODS[interpolation])
    return np.clip(result, -1, 1, out=result) if interpolation == 'bicubic' else result  # its weights overshoot


def draw_interpolation(generator: np.random.Generator, names: Sequence[str] = ('area', 'bilinear', 'bicubic')) -> str:
    """Return one of the names."""
    return names[int(generator.integers(len(names)))]


def draw_factor(generator: np.random.Generator, limits: Sequence[float], shares: Sequence[float], option: str) -> float:
    """Return a factor: from 1 to the largest, from the smallest to 1, or 1, with these shares.

    Raises:
        UserError: there are not three shares; ``option`` is their name.
    """
    direction = draw_index(generator, shares, 3, option)
    lowest, highest = ((1.0, max(1.0, limits[1])), (min(1.0, limits[0]), 1.0), (1.0, 1.0))[direction]
    return draw_between(generator, (lowest, highest))


def draw_smaller_size(
    image: np.ndarray, generator: np.random.Generator, factor: Sequence[float], option: str = 'downsample_range'
) -> tuple[int, int]:
    """Return height and width of the image made smaller by a random factor, rounded down.

    Raises:
        UserError: the range reaches down to 0; ``option`` is its name.
    """
    check_above_zero(factor, option)
    divisor = draw_between(generator, factor)
    return max(1, int(image.shape[0] // divisor)), max(1, int(image.shape[1] // divisor))
