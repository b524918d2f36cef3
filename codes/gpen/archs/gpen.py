"""GPEN: a U-shaped network whose decoder is a StyleGAN2 generator."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gpen.archs.channels import check_image_shape, check_size, log2_size
from gpen.archs.generator import ModulatedConv2d, StyleGenerator
from gpen.archs.layers import ConvLayer, EqualConv2d, EqualLinear
from gpen.archs.recompute import recompute
from gpen.errors import UserError
from gpen.options.types import Factor, ImageSize, SmallInt, Width
from gpen.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register(role='generator')
class GPEN(nn.Module):
    """The GAN Prior Embedded Network.

    An encoder halves the image down to 4 x 4.  Its last feature becomes the code of a StyleGAN2 generator, and its
    feature at each resolution takes the place of the generator's noise (Yang et al. 2021, GAN Prior Embedded Network
    for Blind Face Restoration in the Wild, section 3).

    Args:
        size: width and height of the output.
        style_dim: length of the latents.
        n_mlp: layers of the mapping network.
        channel_multiplier: factor on the channel counts above 32 x 32.
        narrow: factor on all channel counts.
        isconcat: concatenate the encoder's features to the generator's; false adds them, which makes the decoder a
            plain StyleGAN2 generator.
        in_size: width and height of the input, at most ``size``, which is the default.  Resolutions above it have no
            encoder feature and get normal noise from torch's global generator.
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
        in_size: ImageSize | None = None,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.generator = StyleGenerator(size, style_dim, n_mlp, channel_multiplier, narrow, isconcat, grad_checkpoint)
        in_size = size if in_size is None else in_size
        check_size('in_size', in_size)
        if in_size > size:
            raise UserError(f'in_size {in_size} is larger than size {size}. It should be the same or smaller.')
        self.size = size
        self.in_size = in_size
        self.grad_checkpoint = grad_checkpoint
        self.n_latent = self.generator.n_latent

        # Encoder: the generator's channel counts from in_size down to 4, in modules of the published names.
        channels = [count for resolution, count in self.generator.channels.items() if resolution <= in_size][::-1]
        self.ecd0 = nn.Sequential(ConvLayer(3, channels[0], 1))
        for index, (above, here) in enumerate(pairwise(channels), start=1):
            setattr(self, f'ecd{index}', nn.Sequential(ConvLayer(above, here, 3, downsample=True)))
        self.n_encoder_levels = len(channels)
        self.final_linear = nn.Sequential(EqualLinear(channels[-1] * 4 * 4, style_dim, activate=True))

    def fix_noise(self, seed: int = 0) -> None:
        """Draw the noise of the resolutions above ``in_size`` now, so that all calls use the same.

        The result of an image then depends on that image alone, not on its place in a batch.  The noise is not in the
        state dict.
        """
        random = torch.Generator().manual_seed(seed)
        levels = log2_size(self.size) - log2_size(self.in_size)
        layers: list[Any] = list(self.generator.convs)[-2 * levels :] if levels else []
        for index, layer in enumerate(layers):
            side = 2 * self.in_size * 2 ** (index // 2)  # two layers at each resolution
            weight: Tensor = layer.conv.weight  # 1 x C x I x K x K
            layer.noise.noise = torch.randn(1, weight.shape[1], side, side, generator=random).to(weight)

    def fold_scales(self) -> None:
        """Compute what depends on the weights alone now instead of in each call; not for training.

        The results are bit-identical.  The state dict fits no other network any more.
        """
        for module in self.modules():
            if isinstance(module, EqualConv2d | ModulatedConv2d):
                module.fold_scale()

    def forward(self, lq: Tensor, return_latents: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Restore faces.

        Args:
            lq: N x 3 x in_size x in_size, RGB, [-1, 1].
            return_latents: also return the latents, for path length regularisation.

        Returns:
            Images N x 3 x size x size, RGB, nominally [-1, 1] (not clamped); with ``return_latents`` also the latents,
            N x n_latent x style_dim.

        Raises:
            UserError: ``lq`` has another shape.
        """
        check_image_shape('generator', lq.shape, self.in_size)

        # Encoder: features from 4 x 4 up to in_size, and none for the resolutions above.
        features: list[Tensor | None] = []
        x = lq
        for index in range(self.n_encoder_levels):
            encoder = getattr(self, f'ecd{index}')
            x = recompute(encoder, x) if self.grad_checkpoint else encoder(x)  # N x C x R x R, R = in_size / 2 ** index
            features.insert(0, x)
        features += [None] * (log2_size(self.size) - log2_size(self.in_size))

        # Decoder.
        code = self.final_linear(x.flatten(1))  # N x 16C -> N x style_dim
        image, latents = self.generator(code, features)
        return (image, latents) if return_latents else image
