"""The model that trains GPEN on pairs of degraded and sharp faces."""

from __future__ import annotations

import torch
from torch import Tensor

from gpen.archs.recompute import run_in_micro_batches
from gpen.losses import build_loss
from gpen.models.adversarial import AdversarialModel, Values
from gpen.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register
class GPENModel(AdversarialModel):
    """Adversarial training of a generator on pairs of degraded and sharp faces (Yang et al. 2021, section 3.3).

    The generator learns from losses between restored image and GT, from the adversarial loss and, where the options
    ask for it, from feature matching.  The EMA of the generator is what validation and restoring use.

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Raises:
        UserError: weights that cannot be had or do not fit, or a pattern that matches no parameter.
    """

    def _build_training(self) -> None:
        super()._build_training()
        self.losses = {
            name: build_loss(loss.to_dict()).to(self.device) for name, loss in self.options.generator_losses.items()
        }
        matching = self.options.train.feature_matching_opt
        self.feature_matching = build_loss(matching.to_dict()) if matching is not None and matching.is_on else None

    def generate(self, batch: Values) -> Tensor:
        """Restore ``lq``."""
        (restored,) = run_in_micro_batches(lambda part: [self.run_g(part)], batch['lq'], self.micro_batches)
        return restored

    def generator_loss(self, fake: Tensor, batch: Values, iteration: int) -> tuple[Tensor, Values]:  # noqa: ARG002
        """Return the sum of all losses of the generator, and each one as ``G_loss_NAME``."""
        losses = {name: loss(fake, batch['gt']) for name, loss in self.losses.items()}
        if self.net_d is not None:
            losses |= self._adversarial_losses(fake, batch['gt'])
        first, *rest = losses.values()
        return sum(rest, first), {f'G_loss_{name}': loss for name, loss in losses.items()}

    def _adversarial_losses(self, restored: Tensor, gt: Tensor) -> Values:
        if self.feature_matching is None:
            return {'adv': self.gan.generator(self.judge(restored))}

        logits, fake_features = self.judge(restored, return_features=True)
        with torch.no_grad():
            _, real_features = self.judge(gt, return_features=True)
        return {
            'adv': self.gan.generator(logits),
            'feature_matching': self.feature_matching(fake_features, real_features),
        }

    @torch.inference_mode()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images with the EMA generator: N x 3 x H x W in [-1, 1] to N x 3 x size x size, clamped."""
        return self.net_g_ema(lq.to(self.device)).clamp(-1, 1)

    @torch.no_grad()
    def restore_raw(self, lq: Tensor) -> Tensor:
        """Restore images as :meth:`restore`, with the generator itself instead of its EMA."""
        was_training = self.net_g.training
        restored: Tensor = self.net_g.eval()(lq.to(self.device))
        self.net_g.train(was_training)
        return restored.clamp(-1, 1)
