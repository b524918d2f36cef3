"""The model that trains the GAN prior: GPEN's decoder alone, which makes faces out of noise."""

import torch
from torch import Tensor

from gpen.archs.recompute import run_in_micro_batches
from gpen.data.image_io import clamp_images
from gpen.models.adversarial import AdversarialModel, Values
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
    default_path_weight = 2.0

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
        """Return the adversarial loss."""
        loss = self.gan.generator(self.judge(*self.augment(fake)))
        return loss, {'G_loss_adv': loss}

    def generate_with_latents(self, batch: Values) -> tuple[Tensor, Tensor]:
        """Make as many faces as ``gt`` has, with their latents."""
        faces, latents = self.net_g(*self._draw(len(batch['gt'])), return_latents=True)
        return faces, latents

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return two batches of noise and the layers at which the second takes over, as GPENPrior takes them."""
        z, other = torch.randn(2, count, self.net_g.style_dim, device=self.device)
        layers = self.net_g.n_latent
        crossover = torch.randint(1, layers, (count,), device=self.device)
        is_mixed = torch.rand(count, device=self.device) < self.options.train.mixing_prob
        return z, other, torch.where(is_mixed, crossover, layers)

    @torch.inference_mode()
    def restore(self, lq: Tensor) -> Tensor:
        """Make as many faces as images are given, of noise from torch's global generator, which validation seeds.

        Returns:
            N x 3 x size x size, clamped to [-1, 1].
        """
        z = torch.randn(len(lq), self.net_g.style_dim, device=self.device)
        return clamp_images(self.net_g_ema(z))
