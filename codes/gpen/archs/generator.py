"""The StyleGAN2 generator inside GPEN: its noise inputs are replaced by features of the encoder."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gpen.archs.channels import channel_counts
from gpen.archs.layers import Bias, Blur, EqualLinear
from gpen.archs.ops import (
    GAIN,
    concat_leaky_relu,
    fir_upsample,
    join,
    leaky_relu_,
    make_fir_kernel,
    modulated_conv2d,
    sum_of_squares,
)
from gpen.archs.ops.layout import memory_format
from gpen.archs.ops.precision import full_precision
from gpen.archs.recompute import recompute
from gpen.errors import UserError

MAPPING_LR_MUL = 0.01


class PixelNorm(nn.Module):
    """Scale each vector to a mean square of 1.  N x C -> N x C."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class ConstantInput(nn.Module):
    """The learned constant, C x 4 x 4, that the generator starts from; its memory format is that of all features."""

    memory_format = torch.contiguous_format

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        return self.input.expand(batch, -1, -1, -1).contiguous(memory_format=self.memory_format)


def set_memory_format(generator: nn.Module, memory_format: torch.memory_format) -> None:
    """Let features have ``memory_format``; the images that are given to the generator must have it too.

    All layers but the constant input keep the format of what they are given.
    """
    for module in generator.modules():
        if isinstance(module, ConstantInput):
            module.memory_format = memory_format


class FeatureInjection(nn.Module):
    """The learned weight of encoder features, or of the noise that takes their place.

    The noise is ``noise`` (1 x C x H x W), or where that is None drawn from torch's global generator.
    """

    noise: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer('noise', None, persistent=False)

    def draw(self, x: Tensor) -> Tensor:
        """Return normal noise of the shape of ``x``, N x C x H x W."""
        return torch.randn_like(x) if self.noise is None else self.noise.expand_as(x)


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by an affine map of the latent.

    N x I x H x W and N x style_dim -> N x O x H x W, or N x O x 2H x 2W with ``upsample``.

    Args:
        in_channels: channels of the input, I.
        out_channels: channels of the output, O.
        kernel_size: 1 or 3.
        style_dim: length of the latent.
        demodulate: scale each output channel back to unit variance, times the gain of the leaky ReLU that follows.
        upsample: double the resolution.
    """

    squared_weight: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, kernel_size, kernel_size))
        self.blur = Blur(padding=1, gain=4.0) if upsample else None
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate

        # Known only after fold_scale; while training, the weight changes in each step.
        self.register_buffer('squared_weight', None, persistent=False)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply the weight by its scale, and sum up its squares, once for all calls; not for training."""
        self.weight.mul_(self.scale)
        self.scale = 1
        self.squared_weight = sum_of_squares(self.weight[0])

    def forward(self, x: Tensor, latent: Tensor) -> list[Tensor]:
        """Return the result in parts of the batch, see :func:`modulated_conv2d`."""
        weight = self.weight[0] if self.scale == 1 else self.weight[0] * self.scale  # O x I x K x K
        style = self.modulation(latent)  # N x I
        parts = modulated_conv2d(x, weight, style, self.demodulate, self.blur is not None, self.squared_weight, GAIN)
        if self.blur is None:
            return parts
        return [self.blur(part) for part in parts]  # N x O x (2H + 1) x (2W + 1) -> N x O x 2H x 2W


class StyledConv(nn.Module):
    """Modulated convolution, encoder feature or noise, bias and leaky ReLU.

    The feature is concatenated (GPEN), which gives twice as many channels, or added (as StyleGAN2 adds noise).
    """

    def __init__(self, in_channels: int, channels: int, style_dim: int, concatenate: bool, upsample: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, channels, 3, style_dim, upsample=upsample)
        self.noise = FeatureInjection()
        self.activate = Bias(channels * 2 if concatenate else channels)
        self.concatenate = concatenate

    def forward(self, x: Tensor, latent: Tensor, feature: Tensor | None) -> Tensor:
        parts = self.conv(x, latent)
        if feature is None:
            parts = [join(parts)]
            feature = self.noise.draw(parts[0])
        weight, bias = self.noise.weight * GAIN, self.activate.bias * GAIN

        if self.concatenate:
            return concat_leaky_relu(parts, feature, weight, bias)  # N x 2C x H x W
        x = join(parts)
        weight, bias = weight.to(x.dtype), bias.to(x.dtype).view(1, -1, 1, 1)
        return leaky_relu_(x + torch.addcmul(bias, feature, weight))  # N x C x H x W


class Upsample(nn.Module):
    """Double the resolution with the filter [1, 3, 3, 1]: N x C x H x W -> N x C x 2H x 2W."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('kernel', make_fir_kernel(gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):  # the RGB image is a sum over all resolutions, so rounding would add up
            return fir_upsample(x, self.kernel)


class ToRGB(nn.Module):
    """Features, N x C x H x W, to RGB, N x 3 x H x W, added to the upsampled image of the resolution below."""

    def __init__(self, in_channels: int, style_dim: int, upsample: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Upsample() if upsample else None
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)

    def forward(self, x: Tensor, latent: Tensor, image: Tensor | None = None) -> Tensor:
        rgb: Tensor = join(self.conv(x, latent)) + self.bias  # N x 3 x H x W
        if self.upsample is not None:
            rgb = rgb + self.upsample(image)
        return rgb


class StyleGenerator(nn.Module):
    """StyleGAN2's generator with skip connections (Karras et al. 2020, figure 7b), with encoder features for noise.

    It checks the arguments for all networks that contain it.

    Args:
        size: width and height of the output.
        style_dim: length of the latents.
        n_mlp: layers of the mapping network.
        channel_multiplier: factor on the channel counts above 32 x 32.
        narrow: factor on all channel counts.
        isconcat: concatenate encoder features; otherwise add them.
        grad_checkpoint: keep one feature per resolution for the backward pass and compute the rest again.

    Attributes:
        channels: channel count at each resolution 4, 8, ..., ``size``.
        n_latent: number of latents per image.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        size: int,
        style_dim: int,
        n_mlp: int,
        channel_multiplier: int,
        narrow: float,
        isconcat: bool,
        grad_checkpoint: bool,
    ) -> None:
        super().__init__()
        channels = channel_counts(size, channel_multiplier, narrow)
        if style_dim < 1 or n_mlp < 1:
            raise UserError(f'style_dim and n_mlp should be at least 1, not {style_dim} and {n_mlp}.')
        self.channels = channels
        self.n_latent = 2 * len(channels)
        self.grad_checkpoint = grad_checkpoint

        # Mapping network.
        mapping = [EqualLinear(style_dim, style_dim, lr_mul=MAPPING_LR_MUL, activate=True) for _ in range(n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *mapping)

        # Synthesis network: one layer at 4 x 4, two at each resolution above.
        widening = 2 if isconcat else 1
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], style_dim, isconcat, upsample=False)
        self.to_rgb1 = ToRGB(channels[4] * widening, style_dim, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for below, here in pairwise(channels.values()):
            self.convs.append(StyledConv(below * widening, here, style_dim, isconcat, upsample=True))
            self.convs.append(StyledConv(here * widening, here, style_dim, isconcat, upsample=False))
            self.to_rgbs.append(ToRGB(here * widening, style_dim, upsample=True))

    def forward(self, code: Tensor, features: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Generate images.

        Args:
            code: N x style_dim, the input of the mapping network.
            features: for each resolution from 4 upwards the encoder's feature, N x C x R x R, or None for noise.

        Returns:
            Images N x 3 x size x size, and the latents that they were made from, N x n_latent x style_dim.
        """
        latents = self.map(code)
        return self.synthesize(latents, features), latents

    def map(self, code: Tensor) -> Tensor:
        """Return the latents of codes: N x style_dim -> N x n_latent x style_dim, the same for all layers."""
        latents = self.style(code).unsqueeze(1).repeat(1, self.n_latent, 1)

        # The path length needs the gradient with respect to the latents, even if all that they come from is frozen.
        if torch.is_grad_enabled() and not latents.requires_grad:
            latents.requires_grad_(True)
        return latents

    def synthesize(self, latents: Tensor, features: Sequence[Tensor | None]) -> Tensor:
        """Return the images of latents, N x n_latent x style_dim; the rest as for :meth:`forward`."""
        latent = latents.unbind(dim=1)  # n_latent x (N x style_dim)
        x = self.conv1(self.input(len(latents)), latent[0], features[0])  # N x C x 4 x 4
        image = self.to_rgb1(x, latent[1])  # N x 3 x 4 x 4

        for level, feature in enumerate(features[1:]):
            # The latent of each toRGB is also that of the next resolution's first convolution, as in StyleGAN2.
            inputs = (level, x, image, latent[2 * level + 1 : 2 * level + 4], feature)
            x, image = recompute(self._double, *inputs) if self.grad_checkpoint else self._double(*inputs)
        return image.contiguous(memory_format=memory_format(x))

    def _double(
        self, level: int, x: Tensor, image: Tensor, latent: Sequence[Tensor], feature: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the features and the image at twice the resolution of ``x`` and ``image``."""
        x = self.convs[2 * level](x, latent[0], feature)  # N x C x R x R -> N x C' x 2R x 2R
        x = self.convs[2 * level + 1](x, latent[1], feature)
        return x, self.to_rgbs[level](x, latent[2], image)
