"""The model that trains the GAN prior: GPEN's decoder alone, which makes faces out of noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gpen.archs.recompute import run_in_micro_batches
from gpen.distributed import ranks
from gpen.losses.path_length import measure_path_lengths, penalize_path_lengths
from gpen.models.adversarial import AdversarialModel, Values
from gpen.options.schema import Options
from gpen.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register
class GPENPriorModel(AdversarialModel):
    """Training of a GPENPrior as a StyleGAN2 (Karras et al. 2020), the first stage of GPEN (Yang et al. 2021).

    The generator makes a batch of faces out of normal noise, with style mixing, and learns from the non-saturating
    loss and a lazy path-length penalty.  Validation shows faces that the EMA makes of the same noise each time.

    Args:
        options: checked options.
        device: where the networks live.
        frozen: build only the networks, for use without training.

    Raises:
        UserError: weights that do not fit, or a pattern that matches no parameter.
    """

    inputs = ('gt',)
    restores = False

    def __init__(self, options: Options, device: torch.device, frozen: bool = False) -> None:
        super().__init__(options, device, frozen)
        self.mean_path_length = torch.zeros((), device=device)

    def generate(self, batch: Values) -> Tensor:
        """Make as many faces as ``gt`` has."""
        count = len(batch['gt'])
        z, other, crossover = self._draw(count)
        rows = torch.arange(count, device=self.device)
        (faces,) = run_in_micro_batches(
            lambda part: [self.run_g(z[part], other[part], crossover[part])], rows, self.micro_batches
        )
        return faces

    def generator_loss(self, fake: Tensor, batch: Values, iteration: int) -> tuple[Tensor, Values]:  # noqa: ARG002
        """Return the adversarial loss, with the lazy path-length penalty where it is due, and what is recorded."""
        train = self.options.train
        loss = self.gan.generator(self.judge(fake))
        values = {'G_loss_adv': loss}

        # Lazy path length: its weight times its interval (StyleGAN2, appendix B)
        if train.path_reg_weight > 0 and iteration % train.net_g_reg_every == 0:
            penalty, values['G_path_length'] = self._penalize_paths(len(fake))
            values['G_path_penalty'] = penalty
            loss = loss + penalty * (train.path_reg_weight * train.net_g_reg_every)
        return loss, values

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return two batches of noise and the layers at which the second takes over, as GPENPrior takes them."""
        z, other = torch.randn(2, count, self.net_g.style_dim, device=self.device)
        layers = self.net_g.n_latent
        crossover = torch.randint(1, layers, (count,), device=self.device)
        is_mixed = torch.rand(count, device=self.device) < self.options.train.mixing_prob
        return z, other, torch.where(is_mixed, crossover, layers)

    def _penalize_paths(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the path-length penalty of a smaller batch, and its mean path length; the running mean follows."""
        count = math.ceil(batch_size / self.options.train.path_batch_shrink)
        # Second derivatives, in float32, of what is not compiled.
        faces, latents = self.net_g(*self._draw(count), return_latents=True)
        lengths = measure_path_lengths(faces, latents)
        mean = lengths.detach().mean()
        ranks.all_reduce_mean([mean])
        self.mean_path_length, penalty = penalize_path_lengths(lengths, mean, self.mean_path_length)
        return penalty, mean

    @torch.inference_mode()
    def restore(self, lq: Tensor) -> Tensor:
        """Make as many faces as images are given, of noise from torch's global generator, which validation seeds.

        Returns:
            N x 3 x size x size, clamped to [-1, 1].
        """
        z = torch.randn(len(lq), self.net_g.style_dim, device=self.device)
        return self.net_g_ema(z).clamp(-1, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the training state beside the networks, the running mean of the path lengths among it."""
        return {**super().state_dict(), 'mean_path_length': self.mean_path_length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.mean_path_length = state['mean_path_length'].to(self.device)
