"""GPEN's discriminator, which is that of StyleGAN2."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gpen.archs.channels import channel_counts, check_image_shape
from gpen.archs.layers import Blur, ConvLayer, EqualConv2d, EqualLinear
from gpen.archs.ops.layout import memory_format
from gpen.archs.ops.precision import full_precision, widen
from gpen.archs.recompute import recompute, run_in_micro_batches
from gpen.distributed.ranks import mean_over_ranks
from gpen.options.types import Factor, ImageSize, SmallInt
from gpen.registry import ARCH_REGISTRY


class ResBlock(nn.Module):
    """Two convolutions beside a skip connection; halves the resolution.  N x C x H x W -> N x C' x H/2 x W/2.

    Each branch is scaled by sqrt(1/2), which makes the second convolution's gain of sqrt(2) a 1.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = ConvLayer(in_channels, out_channels, 3, downsample=True, gain=1.0)
        # A 1 x 1 convolution with stride 2 sees every other pixel of its input, so the blur computes only those.
        self.skip = nn.Sequential(
            Blur(padding=1, down=2), EqualConv2d(in_channels, out_channels, 1, 1, 0, gain=math.sqrt(0.5))
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(self.conv1(x))
        return residual + self.skip(x)


@ARCH_REGISTRY.register(role='discriminator')
class GPENDiscriminator(nn.Module):
    """StyleGAN2's residual discriminator (Karras et al. 2020, figure 7c), as published with GPEN.

    Args:
        size: width and height of the images.
        channel_multiplier: factor on the channel counts above 32 x 32; default: that of ``path.pretrain_network_d``,
            or else 2.
        narrow: factor on all channel counts; default: that of ``path.pretrain_network_d``, or else 1.
        grad_checkpoint: use gradient checkpointing: less memory, more time, the same result.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self,
        size: ImageSize,
        channel_multiplier: SmallInt | None = None,
        narrow: Factor | None = None,
        grad_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        channel_multiplier = 2 if channel_multiplier is None else channel_multiplier
        channels = channel_counts(size, channel_multiplier, 1.0 if narrow is None else narrow)
        self.size = size
        self.grad_checkpoint = grad_checkpoint

        blocks = [ResBlock(above, below) for above, below in pairwise(reversed(channels.values()))]
        self.convs = nn.Sequential(ConvLayer(3, channels[size], 1), *blocks)
        self.final_conv = ConvLayer(channels[4] + 1, channels[4], 3)
        self.final_linear = nn.Sequential(
            EqualLinear(channels[4] * 4 * 4, channels[4], activate=True), EqualLinear(channels[4], 1)
        )

    def forward(
        self, images: Tensor, return_features: bool = False, micro_batches: int = 1
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Judge images.

        Args:
            images: N x 3 x size x size, RGB, [-1, 1].
            return_features: also return the features, for feature matching.
            micro_batches: number of micro-batches that the residual blocks take one after the other, to save memory.
                The last layers see the whole batch, whose standard deviation they need, so the result is the same.

        Returns:
            Logits N x 1, above 0 for real; with ``return_features`` also the output of each residual block,
            N x C x R x R with R from size / 2 down to 4.

        Raises:
            UserError: ``images`` has another shape.
        """
        check_image_shape('discriminator', images.shape, self.size)

        if return_features:
            features = run_in_micro_batches(self.look, images, micro_batches)
            return self.judge(features[-1]), features

        # The last block's output is enough, so the others need not be kept.
        (last,) = run_in_micro_batches(lambda micro_batch: self.look(micro_batch)[-1:], images, micro_batches)
        return self.judge(last)

    def look(self, images: Tensor) -> list[Tensor]:
        """Return the output of each residual block, N x C x R x R; images do not influence each other here."""
        stem, *blocks = self.convs
        x = stem(images)  # N x C x size x size
        features: list[Tensor] = []
        for block in blocks:
            x = recompute(block, x) if self.grad_checkpoint else block(x)  # half the resolution
            features.append(x)
        return features

    def judge(self, x: Tensor) -> Tensor:
        """Return logits, N x 1, for the last block's output, N x C x 4 x 4, of the whole batch."""
        with full_precision(x):
            x = _append_batch_deviation(widen(x))  # N x C x 4 x 4 -> N x (C + 1) x 4 x 4
            return self.final_linear(self.final_conv(x).flatten(1))  # N x C x 4 x 4 -> N x 16C -> N x 1


def _append_batch_deviation(x: Tensor) -> Tensor:
    """Append the mean standard deviation over the batch of all ranks as one more channel (Karras et al. 2018, sec. 3).

    N x C x H x W -> N x (C + 1) x H x W.
    """
    # The mean is subtracted explicitly, since R1's gradient through Tensor.var has five times the rounding error.
    centred = x - mean_over_ranks(x.mean(dim=0))
    deviation = torch.sqrt(mean_over_ranks(centred.square().mean(dim=0)) + 1e-8).mean()
    appended = deviation.expand(x.shape[0], 1, *x.shape[2:]).contiguous(memory_format=memory_format(x))
    return torch.cat([x, appended], dim=1)
