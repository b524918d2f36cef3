"""Feature matching on the discriminator."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from gpen.options.types import NonNegativeFloat
from gpen.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register(role='feature_matching')
class FeatureMatchingLoss(nn.Module):
    """Distance of the discriminator's features of restored and GT images.

    - ``l1_mean``: the mean absolute difference, averaged over the layers (Wang et al., "pix2pixHD", 2018, eq. 4).
    - ``l2_sum``: the Euclidean norm of the difference, summed over the layers, and the mean over the batch (Yang et
      al. 2021, GPEN, eq. 3).  It is larger by orders of magnitude; the paper's weight is 0.02.

    No gradient flows into the real features.

    Args:
        loss_weight: factor on the loss.
        norm: one of the above.
    """

    def __init__(self, loss_weight: NonNegativeFloat = 1.0, norm: Literal['l1_mean', 'l2_sum'] = 'l1_mean') -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.norm = norm

    def forward(self, fake_features: Sequence[torch.Tensor], real_features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the weighted loss, a scalar.

        Args:
            fake_features: one tensor for each layer, N x ..., from the restored images.
            real_features: the same layers, from the GT images.

        Raises:
            ValueError: there are no layers, or the two lists differ in length.
        """
        if not fake_features:
            raise ValueError('feature matching needs the features of at least one layer')

        # The difference has the precision of the features; what is summed up has at least float32.
        wide = torch.promote_types(fake_features[0].dtype, torch.float32)
        pairs = zip(fake_features, real_features, strict=True)
        differences = [fake - real.detach() for fake, real in pairs]
        if self.norm == 'l1_mean':
            means = [difference.abs().sum(dtype=wide) / difference.numel() for difference in differences]
            return self.loss_weight * torch.stack(means).mean()
        norms = [torch.linalg.vector_norm(difference.to(wide).flatten(1), dim=1).mean() for difference in differences]
        return self.loss_weight * torch.stack(norms).sum()
