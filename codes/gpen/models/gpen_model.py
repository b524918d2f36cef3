"""Networks, losses and optimizers of GPEN: what one training step and one restoration do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs.recompute import run_in_micro_batches
from gpen.losses import build_loss
from gpen.models.base import AdversarialModel
from gpen.models.precision import autocast
from gpen.options.schema import Options
from gpen.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register
class GPENModel(AdversarialModel):
    """Adversarial training of a generator on pairs of degraded and sharp faces (Yang et al. 2021, section 3.3).

    One step computes the restored images once.  Detached, they train the discriminator (with lazy R1); then, through
    the updated discriminator, the generator.  The EMA of the generator is what validation and restoration use.

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Raises:
        UserError: weights that cannot be had or do not fit, or a pattern that matches no parameter.
    """

    def __init__(self, options: Options, device: torch.device, frozen: bool = False) -> None:
        self.feature_matching: Callable[[list[Tensor], list[Tensor]], Tensor] | None = None
        self.losses: dict[str, nn.Module] = {}
        super().__init__(options, device, frozen)

    def _build_training(self) -> None:
        super()._build_training()
        self.losses = {
            name: build_loss(loss.to_dict()).to(self.device) for name, loss in self.options.generator_losses.items()
        }
        matching = self.options.train.feature_matching_opt
        if matching is not None and matching.is_on:
            self.feature_matching = build_loss(matching.to_dict())

    def train_step(self, batch: dict[str, Any], iteration: int) -> None:
        """Train on one batch.

        Args:
            batch: ``lq`` and ``gt``, N x 3 x H x W in [-1, 1], and ``gt_path``, N file names.
            iteration: counted from 1; every random number of the step depends on it and on the seed alone.
        """
        self._seed_step(iteration)
        lq, gt = (self._take(batch[key]) for key in ('lq', 'gt'))
        generator_learns = self._generator_learns(iteration)
        with torch.set_grad_enabled(generator_learns), autocast(self.options.train.amp, self.device):
            (restored,) = run_in_micro_batches(lambda part: [self.run_g(part)], lq, self.parts)
        values: dict[str, Tensor] = {}
        if self.net_d is not None:
            values |= self._step_discriminator(restored.detach(), gt, iteration)
        if generator_learns:
            generator_values, stepped = self._step_generator(restored, gt)
            values |= generator_values
            self._follow(iteration, stepped)
        self._record(iteration, values, list(batch['gt_path']))

    def _step_generator(self, restored: Tensor, gt: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        losses = {name: loss(restored, gt) for name, loss in self.losses.items()}
        if self.net_d is not None:
            self._let_discriminator_learn(False)
            losses |= self._adversarial_losses(restored, gt)
        values = {f'G_loss_{name}': loss for name, loss in losses.items()}
        norm, stepped = self._backward_and_step(_total(losses), self.net_g, self.optimizer_g, self.scale_g)
        return {**values, 'grad_norm_g': norm}, stepped

    def _adversarial_losses(self, restored: Tensor, gt: Tensor) -> dict[str, Tensor]:
        if self.feature_matching is None:
            return {'adv': self.gan.generator(self._judge(restored))}
        logits, fake_features = self._judge(restored, return_features=True)
        with torch.no_grad():
            _, real_features = self._judge(gt, return_features=True)
        return {
            'adv': self.gan.generator(logits),
            'feature_matching': self.feature_matching(fake_features, real_features),
        }

    @torch.inference_mode()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images with the EMA generator: N x 3 x H x W in [-1, 1] to N x 3 x size x size, clamped."""
        restored: Tensor = self.net_g_ema(lq.to(self.device))
        return restored.clamp(-1, 1)

    @torch.no_grad()
    def restore_raw(self, lq: Tensor) -> Tensor:
        """Restore images as :meth:`restore`, with the generator itself instead of its average."""
        was_training = self.net_g.training
        restored: Tensor = self.net_g.eval()(lq.to(self.device))
        self.net_g.train(was_training)
        return restored.clamp(-1, 1)


def _total(losses: dict[str, Tensor]) -> Tensor:
    first, *rest = losses.values()
    for loss in rest:
        first = first + loss
    return first
