"""Sharpness: which share of the GT images' fine detail the restored ones have.  It needs no weights."""

import torch
from torch import Tensor

from gpen.metrics.shared import filter_separably
from gpen.registry import METRIC_REGISTRY

BINOMIAL = (1, 4, 6, 4, 1)  # a low-pass filter with a standard deviation of one pixel
SMALLEST_ENERGY = 1e-8  # of an image without any detail, with values in [-1, 1]


@METRIC_REGISTRY.register
def calculate_sharpness(restored: Tensor, gt: Tensor) -> Tensor:
    """High-frequency energy of the restored image as a share of that of the GT image.

    About 1 where a restoration is as sharp as the GT; smooth images are below 0.5, noisy ones above 1.3.  It says
    nothing about whether the detail is in its place.

    Args:
        restored: N x 3 x H x W, [-1, 1].
        gt: the same.

    Returns:
        N values, float64; NaN where the GT image has no detail.
    """
    energy, reference = (_high_frequency_energy(images) for images in (restored, gt))  # N
    return torch.where(reference > SMALLEST_ENERGY, energy / reference, torch.nan)


def _high_frequency_energy(images: Tensor) -> Tensor:
    """Return the mean square of what a binomial filter of five pixels takes away, N values."""
    images = images.double()
    taps = images.new_tensor(BINOMIAL) / sum(BINOMIAL)
    detail = images[..., 2:-2, 2:-2] - filter_separably(images, taps)  # N x 3 x H - 4 x W - 4
    return detail.square().mean(dim=(1, 2, 3))
