"""What all models that train a generator against a discriminator have in common."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs import build_network
from gpen.archs.discriminator import GPENDiscriminator
from gpen.archs.gpen import GPEN
from gpen.distributed import ranks
from gpen.losses import build_loss
from gpen.losses.r1 import r1_in_micro_batches, r1_penalty
from gpen.models.ema import ema_decay_at, update_ema
from gpen.models.optimizers import build_optimizer, load_optimizer_state, set_learning_rates, step_if
from gpen.models.parameter_groups import freeze, group_parameters
from gpen.models.precision import LossScale, autocast
from gpen.models.step_log import FiniteGuard, RunningMeans
from gpen.options.schema import Optimizer, Options
from gpen.utils.files import resolve_path
from gpen.utils.seeds import derive_seed
from gpen.weights.files import DISCRIMINATOR_WRAPPERS, WRAPPERS
from gpen.weights.networks import MisfitError, load_network
from gpen.weights.prior import load_decoder, load_discriminator

LOGGER = logging.getLogger('gpen')


class AdversarialModel(ABC):
    """A generator with its EMA, a discriminator with lazy R1, their optimizers, and how they are saved.

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Attributes:
        restores: whether the generator restores faces, so that its images can be compared with sharp ones.

    Raises:
        UserError: weights that cannot be had or do not fit, or a pattern that matches no parameter.
    """

    restores = True

    def __init__(self, options: Options, device: torch.device, frozen: bool = False) -> None:
        self.options = options
        self.device = device
        self.parts = options.datasets.train.accumulate if options.datasets.train is not None else 1
        self.net_g = self._build('network_g', 'g')
        self.net_d: nn.Module | None = None
        self.gan: Any = None
        if not frozen:
            self._build_training()
        if options.path.pretrain_prior is not None:
            self._load_prior(resolve_path(options.path.pretrain_prior))
        # Copied after the published weights are in.
        self.net_g_ema = copy.deepcopy(self.net_g).eval().requires_grad_(False)
        if isinstance(self.net_g_ema, GPEN):
            self.net_g_ema.fix_noise()  # validation sees what restoring gives

    @abstractmethod
    def train_step(self, batch: dict[str, Any], iteration: int) -> None:
        """Train on one batch.

        Args:
            batch: what the data set gives, N samples.
            iteration: counted from 1; every random number of the step depends on it and on the seed alone.
        """

    @abstractmethod
    def restore(self, lq: Tensor) -> Tensor:
        """Make as many images as are given with the EMA generator: N x 3 x size x size, clamped to [-1, 1]."""

    def _build_training(self) -> None:
        train = self.options.train
        self.optimizer_g = _build_optimizer(self.net_g, train.optim_g, train.freeze_g, 'g')
        self.optimizer_d: torch.optim.Optimizer | None = None
        if train.gan_opt is not None and train.gan_opt.is_on:
            self.gan = build_loss(train.gan_opt.to_dict())
            self.net_d = self._build('network_d', 'd')
            self.optimizer_d = _build_optimizer(self.net_d, train.optim_d, train.freeze_d, 'd')
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
            self._load_weights(network, resolve_path(path), option, letter)
        return network.to(self.device)

    def _load_weights(self, network: nn.Module, path: Path, option: str, letter: str) -> None:
        """Load weights; where they need not fit, say what starts anew."""
        strict = getattr(self.options.path, f'strict_load_{letter}')
        try:
            left_out = load_network(
                network,
                path,
                param_key=getattr(self.options.path, f'param_key_{letter}'),
                strict=strict,
                prefer=WRAPPERS if letter == 'g' else DISCRIMINATOR_WRAPPERS,
            )
        except MisfitError as error:
            if strict or letter == 'g':  # a generator from nothing is no fine-tuning
                raise
            LOGGER.warning('%s: the discriminator starts anew. %s', option, error)
            return
        if left_out:
            LOGGER.warning('%s: weights of %s that did not fit: %s', option, path, left_out)

    def _load_prior(self, path: Path) -> None:
        """Start the decoder, and the discriminator where its weights fit, from a GAN prior."""
        load_decoder(self.net_g, path)
        LOGGER.info('Prior: the decoder starts from %s.', path)
        if self.net_d is None or self.options.path.pretrain_network_d is not None:
            return
        loaded, words = load_discriminator(self.net_d, path)
        if loaded:
            LOGGER.info('Prior: the discriminator starts from %s.', words)
        else:
            LOGGER.warning('Prior: the discriminator starts anew: %s.', words)

    def set_learning_rates(self, rates: dict[str, float]) -> None:
        """Set the learning rates for the coming steps: ``g``, ``d``, and ``g_NAME`` or ``d_NAME`` of groups."""
        set_learning_rates(self.optimizer_g, rates, 'g')
        if self.optimizer_d is not None:
            set_learning_rates(self.optimizer_d, rates, 'd')

    def _seed_step(self, iteration: int) -> None:
        """Make every random number of a step depend on seed, iteration and rank alone."""
        torch.manual_seed(derive_seed(self.options.seed, 'step', iteration, *filter(None, [ranks.rank()])))

    def _take(self, images: Tensor) -> Tensor:
        """Bring images to the device."""
        return images.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)

    def _generator_learns(self, iteration: int) -> bool:
        train = self.options.train
        return self.net_d is None or (iteration % train.net_d_iters == 0 and iteration > train.net_d_init_iters)

    def _follow(self, iteration: int, stepped: Tensor) -> None:
        """Move the EMA after a step of the generator."""
        train = self.options.train
        decay = ema_decay_at(iteration, train.ema_decay, train.ema_scheduler.total_iter)
        update_ema(self.net_g_ema, self.net_g, decay, stepped)

    def _record(self, iteration: int, values: dict[str, Tensor], files: list[str]) -> None:
        """Take in what a step reports: scalars by name, and the files of the batch."""
        values = _average(values)
        self.means.add(values)
        self.guard.record(iteration, self._forgive(values), files)

    def _forgive(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out gradient norms that only a loss scale made too large."""
        scales = {'grad_norm_g': self.scale_g, 'grad_norm_d': self.scale_d}
        return {name: scales[name].forgive(value) if name in scales else value for name, value in values.items()}

    def _step_discriminator(self, fake: Tensor, gt: Tensor, iteration: int) -> dict[str, Tensor]:
        train = self.options.train
        assert self.net_d is not None
        assert self.optimizer_d is not None
        self._let_discriminator_learn(True)
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

    def _let_discriminator_learn(self, learns: bool) -> None:
        """Let gradients reach the discriminator's parameters, apart from frozen ones, or not."""
        assert self.optimizer_d is not None
        for group in self.optimizer_d.param_groups:
            for parameter in group['params']:
                parameter.requires_grad_(learns)

    @property
    def _judges_in_parts(self) -> bool:
        """Whether batches are shared out, and the discriminator can still judge them as a whole."""
        return self.parts > 1 and isinstance(self.net_d, GPENDiscriminator)

    def _judge(self, images: Tensor, **arguments: Any) -> Any:
        """Run the discriminator, in parts where it can."""
        assert self.run_d is not None
        if self._judges_in_parts:
            arguments['micro_batches'] = self.parts
        with autocast(self.options.train.amp, self.device):
            return self.run_d(images, **arguments)

    def _penalize(self, gt: Tensor) -> Tensor:
        """Return the R1 penalty from a pass of its own."""
        assert self.net_d is not None
        if self._judges_in_parts:
            return r1_in_micro_batches(self.net_d, gt, self.parts)
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
        ranks.all_reduce_mean([*gradients, mean_loss])
        limit = train.grad_norm_clip if train.use_grad_norm and train.grad_norm_clip else float('inf')
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        is_finite = torch.isfinite(mean_loss) & torch.isfinite(norm)
        step_if(optimizer, is_finite)
        scale.update(is_finite)
        return norm, is_finite

    def copy_from_main(self) -> None:
        """Give all processes the networks of rank 0: other machines may draw other last bits."""
        for network in filter(None, [self.net_g, self.net_d, self.net_g_ema]):
            ranks.broadcast([*network.parameters(), *network.buffers()])

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


def _build_optimizer(network: nn.Module, options: Optimizer, frozen: list[str], letter: str) -> torch.optim.Optimizer:
    """Freeze parameters, and give the others to an optimizer in their groups."""
    freeze(network, frozen, f'train.freeze_{letter}')
    groups = group_parameters(network, options.param_groups, f'train.optim_{letter}.param_groups')
    return build_optimizer(options.to_dict(), groups)


def _average(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the means over the processes that train together."""
    if ranks.world_size() == 1:
        return values
    stacked = torch.stack([value.detach().float() for value in values.values()])
    ranks.all_reduce_mean([stacked])
    return dict(zip(values, stacked, strict=True))


def _to_cpu(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU, so that files made on a GPU load anywhere."""
    return {name: value.cpu() for name, value in network.state_dict().items()}
