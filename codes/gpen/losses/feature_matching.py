"""Feature matching on the discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from gpen.options.types import NonNegativeFloat
from gpen.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register(role='feature_matching')
class FeatureMatchingLoss(nn.Module):
    """L1 distance of the discriminator's features, averaged over its layers (Wang et al., "pix2pixHD", 2018, eq. 4).

    No gradient flows into the real features.

    Args:
        loss_weight: factor on the loss.
    """

    def __init__(self, loss_weight: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, fake_features: Sequence[torch.Tensor], real_features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the weighted loss, a scalar.

        Args:
            fake_features: one tensor of any shape for each layer, from the restored images.
            real_features: the same layers, from the GT images.

        Raises:
            ValueError: there are no layers, or the two lists differ in length.
        """
        if not fake_features:
            raise ValueError('feature matching needs the features of at least one layer')

        distances = [
            F.l1_loss(fake.float(), real.detach().float())
            for fake, real in zip(fake_features, real_features, strict=True)
        ]
        return self.loss_weight * torch.stack(distances).mean()
