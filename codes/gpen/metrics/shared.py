"""Helpers of the metrics that use a network."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gpen.data.image_io import to_uint8
from gpen.errors import UserError
from gpen.metrics import MetricNotAvailableError


def as_saved(images: Tensor, device: torch.device | str) -> Tensor:
    """Return images rounded to 8 bits, as a file holds them: N x 3 x H x W, float32, [-1, 1], on ``device``."""
    return to_uint8(images.to(device)).float() / 127.5 - 1


def check_sizes(restored: Tensor, gt: Tensor, smallest: int, what: str) -> None:
    """Raise a UserError for images of less than ``smallest`` pixels in width or height; ``what`` needs them."""
    if restored.shape != gt.shape:
        raise ValueError(f'images of different shapes: {tuple(restored.shape)} and {tuple(gt.shape)}')
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


@contextmanager
def needing(filename: str) -> Iterator[None]:
    """Turn a UserError about the weight file ``filename`` into a MetricNotAvailableError.

    Raises:
        MetricNotAvailableError: the block raised a UserError.
    """
    try:
        yield
    except UserError as error:
        raise MetricNotAvailableError(str(error), filename) from error
