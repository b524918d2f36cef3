"""Helpers that several metrics share."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gpen.data.image_io import to_uint8
from gpen.errors import UserError
from gpen.metrics import MetricNotAvailableError
from gpen.weights.downloads import find_weights


def as_saved(images: Tensor, device: torch.device | str) -> Tensor:
    """Return images rounded to 8 bits, as a file holds them: N x 3 x H x W, float32, [-1, 1], on ``device``."""
    return to_uint8(images.to(device)).float() / 127.5 - 1


def as_pixels(images: Tensor) -> np.ndarray:
    """Return images as a file holds them, for OpenCV: N x 3 x H x W in [-1, 1] -> N x H x W x 3, uint8, RGB."""
    return to_uint8(images.cpu()).permute(0, 2, 3, 1).contiguous().numpy()


def filter_separably(images: Tensor, taps: Tensor) -> Tensor:
    """Filter each channel with ``taps`` along both axes, where they fit: N x C x H x W -> N x C x H-K+1 x W-K+1.

    Args:
        images: N x C x H x W.
        taps: K weights, of the type of the images.
    """
    planes = images.flatten(0, 1).unsqueeze(1)  # NC x 1 x H x W
    planes = F.conv2d(F.conv2d(planes, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return planes.squeeze(1).unflatten(0, images.shape[:2])


def check_shapes(restored: Tensor, gt: Tensor) -> None:
    """Raise a ValueError unless both batches have one shape."""
    if restored.shape != gt.shape:
        raise ValueError(f'images of different shapes: {tuple(restored.shape)} and {tuple(gt.shape)}')


def check_sizes(restored: Tensor, gt: Tensor, smallest: int, what: str) -> None:
    """Raise a UserError unless width and height are at least ``smallest``, which ``what`` needs."""
    check_shapes(restored, gt)
    height, width = restored.shape[-2:]
    if min(height, width) < smallest:
        raise UserError(
            f'{what} needs images of at least {smallest} x {smallest}, but these are {width} x {height}. '
            'Leave the metric out or use larger images.'
        )


def require(module: str, requirement: str, owner: str) -> Any:
    """Import and return a module of an optional package.

    Args:
        module: the name of the module.
        requirement: the argument of ``pip install``.
        owner: the metric that needs it.

    Raises:
        MetricNotAvailableError: the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # A requirement such as torchmetrics>=1.4 -> torchmetrics.
        package = requirement.partition('=')[0].rstrip('>~ ')
        raise MetricNotAvailableError(
            f"{owner} needs {package}, which cannot be imported ({error}). Install it: pip install '{requirement}'.",
            f'the package {package}',
        ) from error


def find_metric_weights(url: str, local: str | None, what: str, option: str) -> Path:
    """Return the path of a weight file; see :func:`gpen.weights.downloads.find_weights`.

    Raises:
        MetricNotAvailableError: the file can neither be found nor downloaded.
    """
    try:
        return find_weights(url, local, what, option)
    except UserError as error:
        raise MetricNotAvailableError(str(error), url.rpartition('/')[2]) from error
