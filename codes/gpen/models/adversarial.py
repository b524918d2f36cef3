"""Adversarial training of a generator: the step that all models share, read from top to bottom."""

import copy
import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs import build_network
from gpen.archs.discriminator import GPENDiscriminator
from gpen.archs.generator import set_memory_format
from gpen.archs.gpen import GPEN
from gpen.archs.ops.layout import fastest_format
from gpen.distributed import ranks
from gpen.distributed.gradients import Gradients
from gpen.losses import build_loss
from gpen.losses.path_length import measure_path_lengths, penalize_path_lengths
from gpen.losses.r1 import r1_in_micro_batches, r1_penalty
from gpen.models.augmentation import Augmentation
from gpen.models.ema import build_ema_schedule, update_ema
from gpen.models.initial_weights import complete_discriminator, load_pretrained, load_prior
from gpen.models.optimizers import Stepped, build_optimizer, load_optimizer_state, optimize, set_learning_rates
from gpen.models.precision import LossScale
from gpen.models.step_log import FiniteGuard, RunningMeans
from gpen.options.schema import Options
from gpen.utils.arithmetic import ieee_float32
from gpen.utils.device import DTYPES
from gpen.utils.seeds import derive_seed

LOSS = 'G_loss_'
Values = dict[str, Tensor]
"""Scalars on the device by name, as they are recorded."""


class AdversarialModel(ABC):
    """A generator with its EMA, a discriminator with lazy R1, their optimizers, and the step that trains them.

    A model of its own defines what the generator makes of a batch (:meth:`generate`), what it is trained with
    (:meth:`generator_loss`) and what validation sees (:meth:`restore`).

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Attributes:
        net_g: the generator.
        net_d: the discriminator; None where nothing is trained against it.
        net_d_components: further discriminators that learn in the same step, one for each facial component; or None.
        net_g_ema: the EMA of the generator, which validation and restoring use.
        inputs: keys of a batch that go to the device: N x 3 x H x W in [-1, 1] each, or N x 3 x 4 for ``boxes``.
        restores: whether the generator restores faces, so that its images can be compared with the GT.
        default_path_weight: weight of the path-length penalty where the options give none.
        mean_path_length: running mean of the path lengths, a scalar.
        augmentation: of what the discriminator sees; None without.
        ema_schedule: the decay of the EMA by iteration.
        micro_batches: a batch is computed in so many micro-batches, for less memory; the result is the same.
        first_iteration: the first one in which the generator learns; it measures gradients.
        gradient_norms: of each loss of the generator, the norm of its gradient at the images of the first step.
        means: the means of what the steps since the last record reported.
        guard: watches for values that are not finite.

    Raises:
        UserError: weights that cannot be had or do not fit, or a pattern that matches no parameter.
    """

    inputs: tuple[str, ...] = ('lq', 'gt')
    restores = True
    default_path_weight = 0.0

    def __init__(self, options: Options, device: torch.device, frozen: bool = False) -> None:
        self.options = options
        self.device = device
        self.micro_batches = options.micro_batches
        given = options.train.path_reg_weight
        self.path_weight = self.default_path_weight if given is None else given
        self.mean_path_length = torch.zeros((), device=device)
        self.gradient_norms: Values = {}
        every = options.train.net_d_iters
        self.first_iteration = (options.train.net_d_init_iters // every + 1) * every
        self.clip_norm = options.train.grad_norm_clip if options.train.use_grad_norm else None

        images = options.batch_size * ranks.world_size()
        self.ema_schedule = build_ema_schedule(options.train, images)
        augment = options.train.augment_opt
        self.augmentation = Augmentation(augment, images, device) if augment is not None else None

        # Networks, with the weights that they start from.
        self.memory_format = fastest_format(device, options.train.channels_last)
        self.net_g: Any = self._build_network('network_g', 'g')
        set_memory_format(self.net_g, self.memory_format)
        self.net_d: nn.Module | None = None
        self.net_d_components: nn.Module | None = None
        self.gan: Any = None
        if not frozen:
            self._build_training()
        if options.path.pretrain_prior is not None:
            load_prior(self.net_g, self.net_d, options.path)

        # The EMA is copied last, so that it starts from these weights too.
        self.net_g_ema: Any = copy.deepcopy(self.net_g).eval().requires_grad_(False)
        if isinstance(self.net_g_ema, GPEN):
            self.net_g_ema.fix_noise()  # validation sees what restoring gives

    @abstractmethod
    def generate(self, batch: Values) -> Tensor:
        """Return the generator's images of a batch, N x 3 x size x size, with gradients where they are enabled."""

    @abstractmethod
    def generator_loss(self, fake: Tensor, batch: Values, iteration: int) -> tuple[Tensor, Values]:
        """Return the generator's loss, a scalar, and what is recorded of it.

        Args:
            fake: what :meth:`generate` gave for ``batch``.
            batch: the tensors that :attr:`inputs` names, on the device.
            iteration: counted from 1.
        """

    @abstractmethod
    def restore(self, lq: Tensor) -> Tensor:
        """Make as many images as are given with the EMA generator: N x 3 x size x size, clamped to [-1, 1]."""

    def train_step(self, batch: dict[str, Any], iteration: int) -> None:
        """Train both networks on one batch.

        Args:
            batch: the images that :attr:`inputs` names, N x 3 x H x W in [-1, 1] each, and ``gt_path``, N file names.
            iteration: counted from 1; every random number of the step depends on it, on the seed and on the rank alone.
        """
        torch.manual_seed(derive_seed(self.options.seed, 'step', iteration, *filter(None, [ranks.rank()])))
        images = {key: self._to_device(batch[key]) for key in self.inputs}
        generator_learns = self._generator_learns(iteration)
        is_recorded = iteration % self.options.logger.print_freq == 0
        values: Values = {}

        # Restore: one forward pass, which serves both networks.
        with torch.set_grad_enabled(generator_learns), self.autocast():
            fake = self.generate(images)

        # Discriminator: learns from the images without their gradients.
        if self.net_d is not None:
            assert self.optimizer_d is not None
            with ieee_float32(self._is_r1_due(iteration)):  # backward pass and all: R1 needs second derivatives
                loss, penalty, values = self.discriminator_loss(fake.detach(), images['gt'], iteration)
                step = optimize(
                    loss, self.gradients_d, self.optimizer_d, self.scale_d, self.clip_norm, penalty, is_recorded
                )
            values |= _describe(step, 'd') | self.train_components(fake.detach(), images)

        # Generator: learns through the discriminator that was just updated.
        if generator_learns:
            self._set_discriminator_learns(False)
            loss, losses = self.generator_loss(fake, images, iteration)
            if iteration == self.first_iteration:
                self.gradient_norms = self._measure_gradients(losses, fake)
            penalty, lengths = self.generator_penalty(images, iteration)
            step = optimize(
                loss, self.gradients_g, self.optimizer_g, self.scale_g, self.clip_norm, penalty, is_recorded
            )
            values |= losses | lengths | _describe(step, 'g')

            # EMA: follows, unless the step was skipped.
            update_ema(self.net_g_ema, self.net_g, self.ema_schedule.at(iteration), step.is_finite)

        # Records: kept on the device until the loop reads them.
        values = ranks.mean_values_over_ranks(values)
        self.means.add(values)
        self.guard.record(iteration, self._ignore_fp16_overflow(values), list(batch['gt_path']))

    def discriminator_loss(self, fake: Tensor, gt: Tensor, iteration: int) -> tuple[Tensor, Tensor | None, Values]:
        """Return the discriminator's loss, the lazy R1 penalty where it is due, and what is recorded of both.

        Args:
            fake: the generator's images without gradients, N x 3 x size x size.
            gt: the real ones.
            iteration: counted from 1.
        """
        train = self.options.train
        self._set_discriminator_learns(True)
        regularize = self._is_r1_due(iteration)
        # R1 needs second derivatives, in float32, of a network that is not compiled: only then it can use this pass.
        shares_pass = regularize and self.micro_batches == 1 and train.amp is None and not train.compile

        # Adversarial loss, on augmented images where the options ask for it
        fake, gt = *self.augment(fake), *self.augment(gt)
        real = gt.detach().requires_grad_(shares_pass)
        fake_logits, real_logits = self.judge(fake), self.judge(real)
        loss_real, loss_fake = self.gan.discriminator(real_logits, fake_logits)
        acc_real, acc_fake = self.gan.accuracy(real_logits, fake_logits)
        values = {'D_loss_real': loss_real, 'D_loss_fake': loss_fake, 'D_acc_real': acc_real, 'D_acc_fake': acc_fake}
        loss = loss_real + loss_fake
        if self.augmentation is not None:
            values['D_augment_p'] = self.augmentation.probability
            self.augmentation.adapt(acc_real, loss_real, iteration)

        # Lazy R1: every net_d_reg_every-th step, its weight times that interval (StyleGAN2, appendix B)
        penalty = None
        if regularize:
            values['D_r1'] = r1_penalty(real_logits, real) if shares_pass else self._r1_of_own_pass(gt)
            penalty = values['D_r1'] * (train.r1_reg_weight / 2 * train.net_d_reg_every)
        return loss, penalty, values

    def train_components(self, fake: Tensor, batch: Values) -> Values:  # noqa: ARG002  (for models that have some)
        """Train the discriminators of facial components, where there are some; return what is recorded of them.

        Args:
            fake: the generator's images without gradients, N x 3 x size x size.
            batch: as for :meth:`generator_loss`.
        """
        return {}

    def generator_penalty(self, batch: Values, iteration: int) -> tuple[Tensor | None, Values]:
        """Return the generator's lazy path-length penalty where it is due, and what is recorded of it.

        Args:
            batch: as for :meth:`generate`; the first images of it are used.
            iteration: counted from 1.
        """
        train = self.options.train
        if not self.path_weight or iteration % train.net_g_reg_every:
            return None, {}

        # Second derivatives, in float32, of what is not compiled.
        count = math.ceil(len(batch['gt']) / train.path_batch_shrink)
        images, latents = self.generate_with_latents({key: value[:count] for key, value in batch.items()})
        lengths = measure_path_lengths(images, latents)
        mean = lengths.detach().mean()
        ranks.all_reduce_mean([mean])
        self.mean_path_length, penalty = penalize_path_lengths(lengths, mean, self.mean_path_length)

        # Its weight times its interval (StyleGAN2, appendix B)
        return penalty * (self.path_weight * train.net_g_reg_every), {
            'G_path_length': mean,
            'G_path_penalty': penalty,
        }

    def generate_with_latents(self, batch: Values) -> tuple[Tensor, Tensor]:
        """Return the generator's images of a batch and their latents, N x L x D, which have gradients.

        Only a model that ``train.path_reg_weight`` is used with needs it.
        """
        images, latents = self.net_g(batch['lq'], return_latents=True)
        return images, latents

    def augment(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Return batches with the same random changes; as they are where the options ask for none."""
        if self.augmentation is None:
            return batches
        change = self.augmentation.draw(len(batches[0]), batches[0].device)
        return tuple(change(batch) for batch in batches)

    def judge(self, images: Tensor, **arguments: Any) -> Any:
        """Return what the discriminator says of N images, in micro-batches where it can judge so."""
        assert self.run_d is not None
        if self._judges_in_micro_batches:
            arguments['micro_batches'] = self.micro_batches
        with self.autocast():
            return self.run_d(images, **arguments)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of ``train.amp`` that a forward pass runs in."""
        amp = self.options.train.amp
        return nullcontext() if amp is None else torch.autocast(self.device.type, DTYPES[amp])

    def set_learning_rates(self, rates: dict[str, float]) -> None:
        """Set the learning rates for the coming steps: ``g``, ``d``, and ``g_NAME`` or ``d_NAME`` of groups."""
        set_learning_rates(self.optimizer_g, rates, 'g')
        if self.optimizer_d is not None:
            set_learning_rates(self.optimizer_d, rates, 'd')

    def broadcast(self) -> None:
        """Give all ranks the networks of rank 0: other machines may draw other last bits."""
        for network in filter(None, [self.net_g, self.net_d, self.net_d_components, self.net_g_ema]):
            ranks.broadcast([*network.parameters(), *network.buffers()])

    def state_dict(self) -> dict[str, Any]:
        """Return the training state beside the networks: optimizers, running means, counts of skipped steps."""
        return {
            'optimizer_g': self.optimizer_g.state_dict(),
            'optimizer_d': self.optimizer_d.state_dict() if self.optimizer_d is not None else None,
            'means': self.means.state_dict(),
            'loss_scale_g': self.scale_g.state_dict(),
            'loss_scale_d': self.scale_d.state_dict(),
            'not_finite_in_a_row': self.guard.in_a_row,
            'last_finite_iteration': self.guard.last_finite_iteration,
            'mean_path_length': self.mean_path_length,
            'augmentation': self.augmentation.state_dict() if self.augmentation is not None else None,
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
        if 'mean_path_length' in state:  # as above
            self.mean_path_length = state['mean_path_length'].to(self.device)
        if self.augmentation is not None and state.get('augmentation') is not None:
            self.augmentation.load_state_dict(state['augmentation'])
        self.guard.in_a_row = state['not_finite_in_a_row']
        self.guard.last_finite_iteration = state['last_finite_iteration']

    # ---- building

    def _build_training(self) -> None:
        """Build the discriminator, the losses, the optimizers, and what watches them."""
        train = self.options.train
        self.optimizer_g = build_optimizer(self.net_g, train.optim_g, train.freeze_g, 'g')
        self.gradients_g = Gradients(self.net_g, train.grad_compression)
        self.optimizer_d: torch.optim.Optimizer | None = None
        if train.gan_opt is not None and train.gan_opt.is_on:
            self.gan = build_loss(train.gan_opt.to_dict())
            self.net_d = self._build_network('network_d', 'd')
            self.optimizer_d = build_optimizer(self.net_d, train.optim_d, train.freeze_d, 'd')
            self.gradients_d = Gradients(self.net_d, train.grad_compression)

        if train.compile:
            ranks.keep_out_of_compile()
        self.run_g = torch.compile(self.net_g) if train.compile else self.net_g
        self.run_d = torch.compile(self.net_d) if train.compile and self.net_d is not None else self.net_d
        self.scale_g, self.scale_d = (LossScale(train.amp, self.device) for _ in range(2))

        self.means = RunningMeans(self.device)
        self.guard = FiniteGuard()

    def _build_network(self, option: str, letter: str) -> nn.Module:
        """Build a network from its option, with random weights that depend on the seed alone, or pretrained ones."""
        torch.manual_seed(derive_seed(self.options.seed, f'init_{letter}'))
        arguments = getattr(self.options, option).to_dict()
        if letter == 'd':
            arguments = complete_discriminator(arguments, self.options.path)
        network: nn.Module = build_network(arguments)
        load_pretrained(network, self.options.path, letter)
        return network.to(self.device)

    # ---- inside a step

    def _to_device(self, images: Tensor) -> Tensor:
        memory_format = self.memory_format if images.dim() == 4 else torch.contiguous_format
        return images.to(self.device, non_blocking=True).contiguous(memory_format=memory_format)

    def _generator_learns(self, iteration: int) -> bool:
        train = self.options.train
        return self.net_d is None or (iteration % train.net_d_iters == 0 and iteration > train.net_d_init_iters)

    def _is_r1_due(self, iteration: int) -> bool:
        train = self.options.train
        return train.r1_reg_weight > 0 and iteration % train.net_d_reg_every == 0

    def _set_discriminator_learns(self, learns: bool) -> None:
        """Let gradients reach the discriminator's parameters, apart from frozen ones, or not."""
        for group in self.optimizer_d.param_groups if self.optimizer_d is not None else []:
            for parameter in group['params']:
                parameter.requires_grad_(learns)

    @property
    def _judges_in_micro_batches(self) -> bool:
        """Whether there are micro-batches, and the discriminator can judge them as one batch."""
        return self.micro_batches > 1 and isinstance(self.net_d, GPENDiscriminator)

    def _r1_of_own_pass(self, gt: Tensor) -> Tensor:
        """Return the R1 penalty from a forward pass of its own."""
        assert self.net_d is not None
        if self._judges_in_micro_batches:
            return r1_in_micro_batches(self.net_d, gt, self.micro_batches)
        real = gt.detach().requires_grad_(True)
        return r1_penalty(self.net_d(real), real)

    def _measure_gradients(self, losses: Values, fake: Tensor) -> Values:
        """Return the norm of the gradient of each ``G_loss_NAME`` with respect to the images, by NAME."""
        norms = {}
        for name, loss in losses.items():
            if name.startswith(LOSS) and loss.requires_grad:  # a model of its own may record detached ones
                scaled = self.scale_g.up(loss)
                (gradient,) = torch.autograd.grad(scaled, fake, retain_graph=True, materialize_grads=True)
                norms[name.removeprefix(LOSS)] = gradient.float().norm()
        return norms

    def _ignore_fp16_overflow(self, values: Values) -> Values:
        """Leave out gradient norms that only a loss scale made too large."""
        scales = {'grad_norm_g': self.scale_g, 'grad_norm_d': self.scale_d}
        return {
            name: scales[name].ignore_overflow(value) if name in scales else value for name, value in values.items()
        }


def _describe(step: Stepped, letter: str) -> Values:
    """Return what is recorded of an optimizer's step."""
    small = {} if step.below_eps is None else {f'grad_below_eps_{letter}': step.below_eps}
    return {f'grad_norm_{letter}': step.norm, **small}
