"""Losses on the difference of pixel values."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from gpen.options.types import NonNegativeFloat, PositiveFloat
from gpen.registry import LOSS_REGISTRY


class PixelLoss(nn.Module, ABC):
    """``loss_weight`` times the mean (or sum) of a penalty on each pixel's difference.

    Images are in [-1, 1], so differences are twice those of images in [0, 1].

    Args:
        loss_weight: factor on the loss.
        reduction: ``mean`` or ``sum`` over all values of the batch.
    """

    def __init__(self, loss_weight: NonNegativeFloat = 1.0, reduction: Literal['mean', 'sum'] = 'mean') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction: Literal['mean', 'sum'] = reduction

    def forward(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss, a scalar, of two batches of the same shape in [-1, 1].

        Raises:
            ValueError: the shapes differ (PyTorch would broadcast them).
        """
        if restored.shape != gt.shape:
            raise ValueError(f'restored is {tuple(restored.shape)} but gt is {tuple(gt.shape)}')
        return self.loss_weight * self.penalty(restored, gt)

    @abstractmethod
    def penalty(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the reduced loss before its weight."""


@LOSS_REGISTRY.register
class L1Loss(PixelLoss):
    """Absolute difference."""

    def penalty(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the mean or sum of \\|d\\|."""
        return F.l1_loss(restored, gt, reduction=self.reduction)


@LOSS_REGISTRY.register
class MSELoss(PixelLoss):
    """Squared difference."""

    def penalty(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the mean or sum of d**2."""
        return F.mse_loss(restored, gt, reduction=self.reduction)


@LOSS_REGISTRY.register
class SmoothL1Loss(PixelLoss):
    """Quadratic below ``beta``, d**2 / (2 beta), and linear above, \\|d\\| - beta / 2 (Girshick, "Fast R-CNN", 2015).

    Args:
        loss_weight: factor on the loss.
        beta: the difference, for images in [-1, 1], at which the loss becomes linear.
        reduction: ``mean`` or ``sum`` over all values of the batch.
    """

    def __init__(
        self,
        loss_weight: NonNegativeFloat = 1.0,
        beta: PositiveFloat = 1.0,
        reduction: Literal['mean', 'sum'] = 'mean',
    ) -> None:
        super().__init__(loss_weight, reduction)
        self.beta = beta

    def penalty(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the mean or sum of the piecewise penalty."""
        return F.smooth_l1_loss(restored, gt, reduction=self.reduction, beta=self.beta)


@LOSS_REGISTRY.register
class CharbonnierLoss(PixelLoss):
    """sqrt(d**2 + eps), an L1 loss with a gradient everywhere (Lai et al., "Deep Laplacian Pyramid Networks", 2017).

    Args:
        loss_weight: factor on the loss.
        reduction: ``mean`` or ``sum`` over all values of the batch.
        eps: curvature near zero.
    """

    def __init__(
        self,
        loss_weight: NonNegativeFloat = 1.0,
        reduction: Literal['mean', 'sum'] = 'mean',
        eps: PositiveFloat = 1e-12,
    ) -> None:
        super().__init__(loss_weight, reduction)
        self.eps = eps

    def penalty(self, restored: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
        """Return the mean or sum of sqrt(d**2 + eps)."""
        values = ((restored - gt).square() + self.eps).sqrt()
        return values.sum() if self.reduction == 'sum' else values.mean()
