"""Adversarial losses."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from gpen.errors import UserError
from gpen.options.types import FiniteFloat, NonNegativeFloat
from gpen.registry import LOSS_REGISTRY

ALIASES = {'wgan_softplus': 'logistic', 'vanilla': 'logistic', 'lsgan': 'least_squares'}


@LOSS_REGISTRY.register(role='adversarial')
class GANLoss(nn.Module):
    """The losses of generator and discriminator on the discriminator's logits.

    - ``logistic``: softplus, non-saturating for the generator (Goodfellow et al., "Generative Adversarial Networks",
      2014, as StyleGAN2 uses it). BasicSR calls it ``vanilla`` or ``wgan_softplus``.
    - ``hinge``: Lim and Ye, "Geometric GAN", 2017.
    - ``least_squares``: Mao et al., "Least Squares Generative Adversarial Networks", 2017. BasicSR's ``lsgan``.

    Logits may have any shape; they are averaged, in float32.

    Args:
        gan_type: one of the above.
        loss_weight: factor on the generator's loss; the discriminator's is not weighted.
        real_label_val: label of real images; below 1 is one-sided label smoothing. Not for ``hinge``.
        fake_label_val: label of restored images. Not for ``hinge``.

    Raises:
        UserError: ``hinge`` with other labels than 1 and 0.
    """

    def __init__(
        self,
        gan_type: Literal['logistic', 'hinge', 'least_squares', 'wgan_softplus', 'vanilla', 'lsgan'] = 'logistic',
        loss_weight: NonNegativeFloat = 1.0,
        real_label_val: FiniteFloat = 1.0,
        fake_label_val: FiniteFloat = 0.0,
    ) -> None:
        super().__init__()
        self.gan_type = ALIASES.get(gan_type, gan_type)
        if self.gan_type not in ('logistic', 'hinge', 'least_squares'):
            known = ', '.join(['logistic', 'hinge', 'least_squares', *ALIASES])
            raise UserError(f'There is no gan_type {gan_type!r}. Available: {known}.')
        if self.gan_type == 'hinge' and (real_label_val, fake_label_val) != (1.0, 0.0):
            raise UserError(
                'GANLoss: real_label_val and fake_label_val have no effect with gan_type hinge; remove them.'
            )

        self.loss_weight = loss_weight
        self.real_label = real_label_val
        self.fake_label = fake_label_val

    def generator(self, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the generator's loss times ``loss_weight``, a scalar."""
        if self.gan_type == 'hinge':
            return -self.loss_weight * fake_logits.float().mean()
        return self.loss_weight * self._distance(fake_logits, self.real_label)

    def discriminator(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the discriminator's losses on real and on restored images, two scalars without weight.

        ``fake_logits`` should be computed from detached images.
        """
        if self.gan_type == 'hinge':
            return F.relu(1 - real_logits.float()).mean(), F.relu(1 + fake_logits.float()).mean()
        return self._distance(real_logits, self.real_label), self._distance(fake_logits, self.fake_label)

    @torch.no_grad()
    def accuracy(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shares of real and of restored images classified correctly, two scalars in [0, 1] on the device.

        An image counts as real when its logit is above 0, or above the mean of the two labels for least squares.
        """
        threshold = (self.real_label + self.fake_label) / 2 if self.gan_type == 'least_squares' else 0.0
        return (real_logits > threshold).float().mean(), (fake_logits <= threshold).float().mean()

    def _distance(self, logits: torch.Tensor, label: float) -> torch.Tensor:
        """Return the mean squared error or the cross entropy of logits and a label."""
        logits = logits.float()
        if self.gan_type == 'least_squares':
            return (logits - label).square().mean()
        # The cross entropy of sigmoid(x) with a label y: softplus(x) - x y, so softplus(-x) for y = 1.
        return F.softplus(-logits).mean() if label == 1 else (F.softplus(logits) - label * logits).mean()
