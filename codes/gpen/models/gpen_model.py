"""The model that trains GPEN on pairs of degraded and sharp faces."""

from typing import Any

import torch
from torch import Tensor

from gpen.archs.recompute import run_in_micro_batches
from gpen.data.image_io import clamp_images
from gpen.distributed.gradients import Gradients
from gpen.errors import UserError
from gpen.losses import build_loss
from gpen.models.adversarial import AdversarialModel, Values
from gpen.models.optimizers import build_optimizer, load_optimizer_state, optimize, set_learning_rates
from gpen.models.precision import LossScale
from gpen.options.blocks import Loss
from gpen.registry import MODEL_REGISTRY
from gpen.utils.seeds import derive_seed
from gpen.weights.downloads import MissingWeightsError


@MODEL_REGISTRY.register
class GPENModel(AdversarialModel):
    """Adversarial training of a generator on pairs of degraded and sharp faces (Yang et al. 2021, section 3.3).

    The generator learns from losses between restored image and GT, from the adversarial loss and, where the options
    ask for it, from feature matching and from discriminators of the facial components, which see the ``boxes`` of a
    batch.  The EMA of the generator is what validation and restoring use.

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Raises:
        UserError: weights that cannot be had or do not fit, or a pattern that matches no parameter.
    """

    def _build_training(self) -> None:
        super()._build_training()
        self.losses = {name: self._build_loss(name, loss) for name, loss in self.options.generator_losses.items()}
        matching = self.options.train.feature_matching_opt
        self.feature_matching = build_loss(matching.to_dict()) if matching is not None and matching.is_on else None
        self.component_loss: Any = None
        if self.options.train.component_opt is not None and self.options.train.component_opt.is_on:
            self._build_components(self.options.train.component_opt.to_dict())

    def _build_components(self, options: dict[str, Any]) -> None:
        """Build the component losses with their discriminators, and the optimizer of these, which is as ``optim_d``."""
        torch.manual_seed(derive_seed(self.options.seed, 'init_d_components'))
        self.component_loss = build_loss(options).to(self.device)
        self.net_d_components = self.component_loss.discriminators
        optim_d = self.options.train.optim_d.model_copy(update={'param_groups': {}})
        self.optimizer_d_components = build_optimizer(self.component_loss.discriminators, optim_d, [], 'd')
        self.gradients_d_components = Gradients(self.component_loss.discriminators, self.options.train.grad_compression)
        self.scale_d_components = LossScale(self.options.train.amp, self.device)
        self.inputs = (*self.inputs, 'boxes')

    def _build_loss(self, name: str, loss: Loss) -> Any:
        """Build a loss on (restored, GT); where its weights cannot be had, the error says how to go without it."""
        option = f'losses:{name}' if name in self.options.train.losses else f'{name}_opt'
        try:
            return build_loss(loss.to_dict()).to(self.device)
        except MissingWeightsError as error:
            raise UserError(f'{error} To train without this loss: --force_yml train:{option}=~') from error
        except UserError as error:
            raise UserError(f'train.{option.replace(":", ".")}: {error}') from error

    def generate(self, batch: Values) -> Tensor:
        """Restore ``lq``."""
        (restored,) = run_in_micro_batches(lambda part: [self.run_g(part)], batch['lq'], self.micro_batches)
        return restored

    def generator_loss(self, fake: Tensor, batch: Values, iteration: int) -> tuple[Tensor, Values]:  # noqa: ARG002
        """Return the sum of all losses of the generator, and each one as ``G_loss_NAME``."""
        with self.autocast():  # for the networks in them; distances stay in float32
            losses = {name: loss(fake, batch['gt']) for name, loss in self.losses.items()}
        if self.net_d is not None:
            losses |= self._adversarial_losses(fake, batch['gt'])
        if self.component_loss is not None:
            with self.autocast():
                found = self.component_loss.generator(fake, batch['gt'], batch['boxes'], self.micro_batches)
            losses |= {f'component_{name}': loss for name, loss in found.items()}
        first, *rest = losses.values()
        return sum(rest, first), {f'G_loss_{name}': loss for name, loss in losses.items()}

    def _adversarial_losses(self, restored: Tensor, gt: Tensor) -> Values:
        if self.feature_matching is None:
            return {'adv': self.gan.generator(self.judge(*self.augment(restored)))}

        restored, gt = self.augment(restored, gt)  # alike, so that their features can be compared
        logits, fake_features = self.judge(restored, return_features=True)
        with torch.no_grad():
            _, real_features = self.judge(gt, return_features=True)
        return {
            'adv': self.gan.generator(logits),
            'feature_matching': self.feature_matching(fake_features, real_features),
        }

    def train_components(self, fake: Tensor, batch: Values) -> Values:
        """Train the discriminators of facial components; return each one's loss and the norm of their gradients."""
        if self.component_loss is None or self.net_d_components is None:
            return {}
        with self.autocast():
            losses = self.component_loss.discriminator(fake, batch['gt'], batch['boxes'], self.micro_batches)
        scale = self.scale_d_components
        first, *rest = losses.values()
        step = optimize(sum(rest, first), self.gradients_d_components, self.optimizer_d_components, scale)
        return {
            **{f'D_loss_component_{name}': loss for name, loss in losses.items()},
            'grad_norm_d_components': scale.ignore_overflow(step.norm),
        }

    def set_learning_rates(self, rates: dict[str, float]) -> None:
        """Set the learning rates for the coming steps; discriminators of components have the rate ``d``."""
        super().set_learning_rates(rates)
        if self.component_loss is not None:
            set_learning_rates(self.optimizer_d_components, rates, 'd')

    def state_dict(self) -> dict[str, Any]:
        """Return the training state beside the networks."""
        state = super().state_dict()
        if self.component_loss is not None:
            state['optimizer_d_components'] = self.optimizer_d_components.state_dict()
            state['loss_scale_d_components'] = self.scale_d_components.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        if self.component_loss is not None:
            load_optimizer_state(self.optimizer_d_components, state['optimizer_d_components'])
            self.scale_d_components.load_state_dict(state['loss_scale_d_components'])

    @torch.inference_mode()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images with the EMA generator: N x 3 x H x W in [-1, 1] to N x 3 x size x size, clamped."""
        return clamp_images(self.net_g_ema(self._to_device(lq)))

    @torch.no_grad()
    def restore_raw(self, lq: Tensor) -> Tensor:
        """Restore images as :meth:`restore`, with the generator itself instead of its EMA."""
        was_training = self.net_g.training
        restored: Tensor = self.net_g.eval()(self._to_device(lq))
        self.net_g.train(was_training)
        return clamp_images(restored)
