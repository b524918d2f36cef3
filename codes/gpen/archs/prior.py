"""The GAN prior alone: GPEN's decoder, which makes faces out of noise."""

import torch
from torch import Tensor, nn

from gpen.archs.generator import StyleGenerator
from gpen.errors import UserError
from gpen.options.types import Factor, ImageSize, SmallInt, Width
from gpen.registry import ARCH_REGISTRY
from gpen.utils.text import format_shape


@ARCH_REGISTRY.register(role='prior')
class GPENPrior(nn.Module):
    """The decoder of GPEN as a generator of its own, which is trained before the encoder is added.

    In place of the encoder's features it has normal noise of their shapes (Yang et al. 2021, section 3.2).  Its weights
    are those of GPEN whose names start with ``generator.``.

    Args:
        size: width and height of the faces.
        style_dim: length of the latents.
        n_mlp: layers of the mapping network.
        channel_multiplier: factor on the channel counts above 32 x 32.
        narrow: factor on all channel counts.
        isconcat: concatenate the noise to the features; false adds it, as StyleGAN2 does.
        grad_checkpoint: use gradient checkpointing: less memory, more time, the same result.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        size: ImageSize,
        style_dim: Width = 512,
        n_mlp: SmallInt = 8,
        channel_multiplier: SmallInt = 2,
        narrow: Factor = 1.0,
        isconcat: bool = True,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.generator = StyleGenerator(size, style_dim, n_mlp, channel_multiplier, narrow, isconcat, grad_checkpoint)
        self.size = size
        self.style_dim = style_dim
        self.n_latent = self.generator.n_latent

    def forward(
        self, z: Tensor, other: Tensor | None = None, crossover: Tensor | None = None, return_latents: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Generate faces; the noise comes from torch's global generator.

        Args:
            z: N x style_dim, normal.
            other: N x style_dim, normal, for style mixing (Karras et al. 2019, section 3.1): layers from ``crossover``
                on take their latent from it.
            crossover: N integers from 0 to n_latent (no mixing); needed with ``other``.
            return_latents: also return the latents, for path length regularisation.

        Returns:
            Images N x 3 x size x size, RGB, nominally [-1, 1] (not clamped); with ``return_latents`` also the latents,
            N x n_latent x style_dim.

        Raises:
            UserError: ``z`` has another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.style_dim:
            raise UserError(f'The prior takes noise of N x {self.style_dim}, but got {format_shape(z.shape)}.')

        latents = self.generator.map(z)
        if other is not None and crossover is not None:
            layers = torch.arange(self.n_latent, device=z.device)
            is_below = layers < crossover[:, None]  # N x n_latent
            latents = torch.where(is_below[..., None], latents, self.generator.map(other))

        image = self.generator.synthesize(latents, [None] * len(self.generator.channels))
        return (image, latents) if return_latents else image
