"""The GAN prior alone: GPEN's decoder, which makes faces out of noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpen.archs.channels import channel_counts, check_size
from gpen.archs.generator import StyleGenerator
from gpen.errors import UserError
from gpen.options.types import ImageSize, PositiveFloat, PositiveInt
from gpen.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register(role='prior')
class GPENPrior(nn.Module):
    """The decoder of GPEN as a generator of its own, trained before the encoder is put on it.

    Where GPEN has the encoder's features it has normal noise of their shapes (Yang et al. 2021, section 3.2).  Its
    weights are those of GPEN whose names start with ``generator.``.

    Args:
        size: width and height of the faces.
        style_dim: length of the latents.
        n_mlp: layers of the mapping network.
        channel_multiplier: factor on the channel counts above 32 x 32.
        narrow: factor on all channel counts.
        isconcat: concatenate the noise to the features; false adds it, as StyleGAN2 does.
        grad_checkpoint: train with less memory and more time: most activations are computed again in the backward pass.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        size: ImageSize,
        style_dim: PositiveInt = 512,
        n_mlp: PositiveInt = 8,
        channel_multiplier: PositiveInt = 2,
        narrow: PositiveFloat = 1.0,
        isconcat: bool = True,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_size('size', size)
        self.size = size
        self.style_dim = style_dim
        channels = channel_counts(size, channel_multiplier, narrow)
        self.generator = StyleGenerator(channels, style_dim, n_mlp, isconcat, grad_checkpoint)
        self.n_latent = self.generator.n_latent
        self._levels = len(channels)

    def forward(
        self, z: Tensor, other: Tensor | None = None, crossover: Tensor | None = None, return_latents: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Make faces; the noise comes from torch's global generator.

        Args:
            z: N x style_dim, normal.
            other: N x style_dim, for style mixing (Karras et al. 2019, section 3.1): upper layers take their latent
                from it.
            crossover: N whole numbers, the first layer that does so, n_latent for none; with ``other``.
            return_latents: also return the latents, for path length regularisation.

        Returns:
            Images N x 3 x size x size, RGB, nominally [-1, 1] (not clamped); with ``return_latents`` also the latents,
            N x n_latent x style_dim.

        Raises:
            UserError: ``z`` has another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.style_dim:
            got = ' x '.join(str(length) for length in z.shape)
            raise UserError(f'The prior takes noise of N x {self.style_dim}, but got {got}.')
        latents = self.generator.map(z)
        if other is not None and crossover is not None:
            layers = torch.arange(self.n_latent, device=z.device)
            is_low = layers < crossover[:, None]  # N x n_latent
            latents = torch.where(is_low[..., None], latents, self.generator.map(other))
        if return_latents and torch.is_grad_enabled() and not latents.requires_grad:  # a frozen mapping network
            latents.requires_grad_(True)
        image = self.generator.synthesize(latents, [None] * self._levels)
        return (image, latents) if return_latents else image
