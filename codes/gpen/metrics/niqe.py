"""NIQE: distance of an image's statistics from those of natural photographs; it needs no reference."""

import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gpen.errors import UserError
from gpen.metrics import ImageMetric, MetricNotAvailableError, builds_metric
from gpen.options.types import NonNegativeInt
from gpen.registry import METRIC_REGISTRY

BLOCK = 96  # width and height of the blocks whose statistics are compared; an image needs two


@METRIC_REGISTRY.register
@builds_metric
def calculate_niqe(
    device: torch.device | str,  # noqa: ARG001  (it has no network)
    option: str,  # noqa: ARG001
    crop_border: NonNegativeInt = 0,
    convert_to: Literal['y', 'gray'] = 'y',
) -> ImageMetric:
    """Natural image quality evaluator (Mittal et al. 2013, eq. 10), by BasicSR with the parameters it ships.

    It uses the restored image alone, in 8-bit values: from 0, without a unit, about 3 to 6 for photographs of faces.
    The value of an image without any texture is NaN.

    Args:
        device: unused.
        option: unused.
        crop_border: pixels at each edge to leave out.
        convert_to: use BT.601 luma (``y``) or OpenCV's grey.

    Returns:
        The metric; lower is better.

    Raises:
        MetricNotAvailableError: BasicSR is not installed, or cannot be imported.
    """
    from gpen.registry.basicsr import BasicSR

    if importlib.util.find_spec('basicsr') is None:
        raise MetricNotAvailableError(
            "NIQE needs basicsr, which is not installed. Install it: pip install 'basicsr==1.4.2' (Python below 3.13).",
            'the package basicsr',
        )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # BasicSR imports SciPy's filters by their old name
        try:
            niqe: Callable[..., Tensor] = BasicSR('METRIC_REGISTRY').get('calculate_niqe')
        except UserError as error:  # as where another package that BasicSR needs is missing
            raise MetricNotAvailableError(f'NIQE: {error}', 'the package basicsr') from error

    def measure(restored: Tensor, gt: Tensor | None) -> Tensor:  # noqa: ARG001  (no reference)
        height, width = (max(0, side - 2 * crop_border) for side in restored.shape[-2:])
        if (height // BLOCK) * (width // BLOCK) < 2:
            raise UserError(
                f'NIQE needs images that hold two blocks of {BLOCK} x {BLOCK}, such as {2 * BLOCK} x {BLOCK}, after '
                f'crop_border, but {width} x {height} is left. Leave the metric out or use larger images.'
            )
        values = [_measure_one(niqe, image, crop_border, convert_to) for image in restored.split(1)]
        return torch.tensor(values, dtype=torch.float64)

    return ImageMetric(measure, higher_is_better=False, needs_gt=False)


def _measure_one(niqe: Callable[..., Tensor], image: Tensor, crop_border: int, convert_to: str) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # means of empty arrays, for blocks of one colour
        try:
            return float(niqe(image, image, crop_border=crop_border, convert_to=convert_to))
        except np.linalg.LinAlgError:  # fewer than two blocks with any texture
            return math.nan
