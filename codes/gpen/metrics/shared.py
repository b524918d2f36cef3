"""What the metrics that look through a network have in common."""

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
    """Return images as an 8-bit file would hold them: N x 3 x H x W, float32, [-1, 1], on ``device``."""
    return to_uint8(images.to(device)).float() / 127.5 - 1


def check_sizes(restored: Tensor, target: Tensor, smallest: int, what: str) -> None:
    """Raise a UserError for images of less than ``smallest`` pixels in width or height."""
    if restored.shape != target.shape:
        raise ValueError(f'images of different shapes: {tuple(restored.shape)} and {tuple(target.shape)}')
    height, width = restored.shape[-2:]
    if min(height, width) < smallest:
        raise UserError(
            f'{what} needs images of at least {smallest} x {smallest}, but these are {width} x {height}. '
            'Leave the metric out or use larger images.'
        )


def require(module: str, requirement: str, owner: str) -> Any:
    """Import and return a module of an optional package.

    Args:
        module: its name.
        requirement: what to write after ``pip install``.
        owner: the metric that needs it.

    Raises:
        MetricNotAvailableError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = requirement.partition('=')[0].rstrip('>~ ')
        raise MetricNotAvailableError(
            f"{owner} needs {package}, which cannot be imported ({error}). Install it: pip install '{requirement}'.",
            f'the package {package}',
        ) from error


@contextmanager
def needing(filename: str) -> Iterator[None]:
    """Turn the UserError of a weight file that cannot be found into one that says so in a few words, too.

    Raises:
        MetricNotAvailableError: the block ended in a UserError.
    """
    try:
        yield
    except UserError as error:
        raise MetricNotAvailableError(str(error), filename) from error
