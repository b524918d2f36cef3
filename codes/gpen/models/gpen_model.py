"""Networks, losses and optimizers of GPEN: what one training step and one restoration do."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs import build_network
from gpen.archs.checkpoints import load_network
from gpen.archs.discriminator import GPENDiscriminator
from gpen.archs.gpen import GPEN
from gpen.archs.recompute import run_in_parts
from gpen.losses import build_loss
from gpen.losses.r1 import r1_in_parts, r1_penalty
from gpen.models.ema import ema_decay_at, update_ema
from gpen.models.optimizers import build_optimizer, load_optimizer_state, set_learning_rate, step_if
from gpen.models.precision import LossScale, autocast
from gpen.models.step_log import FiniteGuard, RunningMeans
from gpen.options.schema import Options
from gpen.registry import MODEL_REGISTRY
from gpen.utils import ranks
from gpen.utils.files import resolve_path
from gpen.utils.seeds import derive_seed
from gpen.utils.weight_files import DISCRIMINATOR_WRAPPERS, WRAPPERS

LOGGER = logging.getLogger('gpen')


@MODEL_REGISTRY.register
class GPENModel:
    """Adversarial training of a generator on pairs of degraded and sharp faces (Yang et al. 2021, section 3.3).

    One step computes the restored images once.  Detached, they train the discriminator (with lazy R1); then, through
    the updated discriminator, the generator.  The EMA of the generator is what validation and restoration use.

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Raises:
        UserError: weights that cannot be had or do not fit.
    """

    def __init__(self, options: Options, device: torch.device, frozen: bool = False) -> None:
        self.options = options
        self.device = device
        self.parts = options.datasets.train.accumulate if options.datasets.train is not None else 1
        self.net_g = self._build('network_g', 'g')
        self.net_d: nn.Module | None = None
        self.gan: Any = None
        self.feature_matching: Callable[[list[Tensor], list[Tensor]], Tensor] | None = None
        self.losses: dict[str, nn.Module] = {}
        if not frozen:
            self._build_training()
        # Copied after the published weights are in.
        self.net_g_ema = copy.deepcopy(self.net_g).eval().requires_grad_(False)
        if isinstance(self.net_g_ema, GPEN):
            self.net_g_ema.fix_noise()  # validation sees what restoring gives

    def _build_training(self) -> None:
        train = self.options.train
        self.losses = {
            name: build_loss(loss.to_dict()).to(self.device) for name, loss in self.options.generator_losses.items()
        }
        self.optimizer_g = build_optimizer(train.optim_g.to_dict(), self.net_g.parameters())
        self.optimizer_d: torch.optim.Optimizer | None = None
        if train.gan_opt is not None and train.gan_opt.is_on:
            self.gan = build_loss(train.gan_opt.to_dict())
            self.net_d = self._build('network_d', 'd')
            self.optimizer_d = build_optimizer(train.optim_d.to_dict(), self.net_d.parameters())
        if train.feature_matching_opt is not None and train.feature_matching_opt.is_on:
            self.feature_matching = build_loss(train.feature_matching_opt.to_dict())
        self.run_g = torch.compile(self.net_g) if train.compile else self.net_g
        self.run_d = torch.compile(self.net_d) if train.compile and self.net_d is not None else self.net_d
        self.scale_g, self.scale_d = (LossScale(train.amp, self.device) for _ in range(2))
        self.memory_format = torch.channels_last if train.channels_last else torch.contiguous_format
        self.means = RunningMeans(self.device)
        self.guard = FiniteGuard()

    def _build(self, option: str, letter: str) -> nn.Module:
        torch.manual_seed(derive_seed(self.options.seed, f'init_{letter}'))
        network: nn.Module = build_network(getattr(self.options, option).to_dict())
        path = getattr(self.options.path, f'pretrain_network_{letter}')
        if path is not None:
            left_out = load_network(
                network,
                resolve_path(path),
                param_key=getattr(self.options.path, f'param_key_{letter}'),
                strict=getattr(self.options.path, f'strict_load_{letter}'),
                prefer=WRAPPERS if letter == 'g' else DISCRIMINATOR_WRAPPERS,
            )
            if left_out:
                LOGGER.warning('%s: weights of %s that did not fit: %s', option, path, left_out)
        return network.to(self.device)

    def set_learning_rates(self, rates: dict[str, float]) -> None:
        """Set the learning rates ``{'g': ..., 'd': ...}`` for the coming steps."""
        set_learning_rate(self.optimizer_g, rates['g'])
        if self.optimizer_d is not None:
            set_learning_rate(self.optimizer_d, rates['d'])

    def train_step(self, batch: dict[str, Any], iteration: int) -> None:
        """Train on one batch.

        Args:
            batch: ``lq`` and ``gt``, N x 3 x H x W in [-1, 1], and ``gt_path``, N file names.
            iteration: counted from 1; every random number of the step depends on it and on the seed alone.
        """
        train = self.options.train
        torch.manual_seed(derive_seed(self.options.seed, 'step', iteration, *filter(None, [ranks.rank()])))
        lq, gt = (
            batch[key].to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
            for key in ('lq', 'gt')
        )
        generator_learns = self.net_d is None or (
            iteration % train.net_d_iters == 0 and iteration > train.net_d_init_iters
        )
        with torch.set_grad_enabled(generator_learns), autocast(train.amp, self.device):
            (restored,) = run_in_parts(lambda part: [self.run_g(part)], lq, self.parts)
        values: dict[str, Tensor] = {}
        if self.net_d is not None:
            values |= self._step_discriminator(restored.detach(), gt, iteration)
        if generator_learns:
            generator_values, stepped = self._step_generator(restored, gt)
            values |= generator_values
            decay = ema_decay_at(iteration, train.ema_decay, train.ema_scheduler.total_iter)
            update_ema(self.net_g_ema, self.net_g, decay, stepped)
        values = _average(values)
        self.means.add(values)
        self.guard.record(iteration, self._forgive(values), list(batch['gt_path']))

    def _forgive(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out gradient norms that only a loss scale made too large."""
        scales = {'grad_norm_g': self.scale_g, 'grad_norm_d': self.scale_d}
        return {name: scales[name].forgive(value) if name in scales else value for name, value in values.items()}

    def _step_discriminator(self, fake: Tensor, gt: Tensor, iteration: int) -> dict[str, Tensor]:
        train = self.options.train
        assert self.net_d is not None
        assert self.optimizer_d is not None
        self.net_d.requires_grad_(True)
        regularize = train.r1_reg_weight > 0 and iteration % train.net_d_reg_every == 0
        # R1 needs second derivatives, in float32, of what is not compiled: then it looks at the images by itself.
        shared = regularize and self.parts == 1 and train.amp is None and not train.compile
        real = gt.detach().requires_grad_(shared)
        fake_logits, real_logits = self._judge(fake), self._judge(real)
        loss_real, loss_fake = self.gan.discriminator(real_logits, fake_logits)
        acc_real, acc_fake = self.gan.accuracy(real_logits, fake_logits)
        values = {'D_loss_real': loss_real, 'D_loss_fake': loss_fake, 'D_acc_real': acc_real, 'D_acc_fake': acc_fake}
        total = loss_real + loss_fake
        if regularize:
            values['D_r1'] = r1_penalty(real_logits, real) if shared else self._penalize(gt)
            # Lazy regularization: scaled by its interval (StyleGAN2, appendix B).
            total = total + values['D_r1'] * (train.r1_reg_weight / 2 * train.net_d_reg_every)
        values['grad_norm_d'], _ = self._backward_and_step(total, self.net_d, self.optimizer_d, self.scale_d)
        return values

    def _step_generator(self, restored: Tensor, gt: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        losses = {name: loss(restored, gt) for name, loss in self.losses.items()}
        if self.net_d is not None:
            self.net_d.requires_grad_(False)
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

    @property
    def _judges_in_parts(self) -> bool:
        """Whether batches are shared out, and the discriminator can still judge them as a whole."""
        return self.parts > 1 and isinstance(self.net_d, GPENDiscriminator)

    def _judge(self, images: Tensor, **arguments: Any) -> Any:
        """Run the discriminator, in parts where it can."""
        assert self.run_d is not None
        if self._judges_in_parts:
            arguments['parts'] = self.parts
        with autocast(self.options.train.amp, self.device):
            return self.run_d(images, **arguments)

    def _penalize(self, gt: Tensor) -> Tensor:
        """Return the R1 penalty from a pass of its own."""
        assert self.net_d is not None
        if self._judges_in_parts:
            return r1_in_parts(self.net_d, gt, self.parts)
        real = gt.detach().requires_grad_(True)
        return r1_penalty(self.net_d(real), real)

    def _backward_and_step(
        self, loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, scale: LossScale
    ) -> tuple[Tensor, Tensor]:
        """Step the optimizer, unless the loss or a gradient is not finite.

        Where several processes train together, loss and gradients are the means over all, before anything is decided.

        Returns:
            The gradient norm before clipping, and whether it stepped (a bool scalar on the device).
        """
        train = self.options.train
        optimizer.zero_grad(set_to_none=True)
        scale.up(loss).backward()
        parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        scale.down(gradients)
        mean_loss = loss.detach().clone()
        ranks.average([*gradients, mean_loss])
        limit = train.grad_norm_clip if train.use_grad_norm and train.grad_norm_clip else float('inf')
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        is_finite = torch.isfinite(mean_loss) & torch.isfinite(norm)
        step_if(optimizer, is_finite)
        scale.update(is_finite)
        return norm, is_finite

    def copy_from_main(self) -> None:
        """Give all processes the networks of rank 0: other machines may draw other last bits."""
        for network in filter(None, [self.net_g, self.net_d, self.net_g_ema]):
            ranks.copy_from_main([*network.parameters(), *network.buffers()])

    @torch.inference_mode()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images with the EMA generator: N x 3 x H x W in [-1, 1] to N x 3 x size x size, clamped."""
        restored: Tensor = self.net_g_ema(lq.to(self.device))
        return restored.clamp(-1, 1)

    def network_states(self) -> dict[str, dict[str, Any]]:
        """Return the content of the model files, by file stem: ``net_g`` (``params``, ``params_ema``), ``net_d``."""
        states = {'net_g': {'params': _to_cpu(self.net_g), 'params_ema': _to_cpu(self.net_g_ema)}}
        if self.net_d is not None:
            states['net_d'] = {'params': _to_cpu(self.net_d)}
        return states

    def load_network_states(self, states: dict[str, dict[str, Any]]) -> None:
        """Load what :meth:`network_states` returned."""
        self.net_g.load_state_dict(states['net_g']['params'])
        self.net_g_ema.load_state_dict(states['net_g']['params_ema'])
        if self.net_d is not None:
            self.net_d.load_state_dict(states['net_d']['params'])

    def state_dict(self) -> dict[str, Any]:
        """Return the rest of the training state: optimizers, running means, count of steps that were not finite."""
        optimizer_d = self.optimizer_d.state_dict() if self.optimizer_d is not None else None
        return {
            'optimizer_g': self.optimizer_g.state_dict(),
            'optimizer_d': optimizer_d,
            'means': self.means.state_dict(),
            'loss_scale_g': self.scale_g.state_dict(),
            'loss_scale_d': self.scale_d.state_dict(),
            'not_finite_in_a_row': self.guard.in_a_row,
            'last_finite_iteration': self.guard.last_finite_iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        load_optimizer_state(self.optimizer_g, state['optimizer_g'])
        if self.optimizer_d is not None:
            load_optimizer_state(self.optimizer_d, state['optimizer_d'])
        self.means.load_state_dict(state['means'])
        for name, scale in (('loss_scale_g', self.scale_g), ('loss_scale_d', self.scale_d)):
            if name in state:  # not in those of earlier versions
                scale.load_state_dict(state[name])
        self.guard.in_a_row = state['not_finite_in_a_row']
        self.guard.last_finite_iteration = state['last_finite_iteration']


def _average(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the means over the processes that train together."""
    if ranks.world_size() == 1:
        return values
    stacked = torch.stack([value.detach().float() for value in values.values()])
    ranks.average([stacked])
    return dict(zip(values, stacked, strict=True))


def _to_cpu(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU, so that files made on a GPU load anywhere."""
    return {name: value.cpu() for name, value in network.state_dict().items()}


def _total(losses: dict[str, Tensor]) -> Tensor:
    first, *rest = losses.values()
    for loss in rest:
        first = first + loss
    return first
