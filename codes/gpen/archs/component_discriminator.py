"""The small discriminators of facial components."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gpen.archs.layers import ConvLayer, EqualConv2d


class ComponentDiscriminator(nn.Module):
    """Judges the patches of a crop, such as an eye (Wang et al. 2021, "GFPGAN", section 3.4).

    It works for crops of any size; those of a batch do not influence each other.

    Args:
        channels: channel count at the crop's resolution; twice and four times as many at a half and a quarter of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            ConvLayer(3, channels, 3),
            ConvLayer(channels, 2 * channels, 3, downsample=True),
            ConvLayer(2 * channels, 2 * channels, 3),
        )
        self.coarse = nn.Sequential(
            ConvLayer(2 * channels, 4 * channels, 3, downsample=True), ConvLayer(4 * channels, 4 * channels, 3)
        )
        self.last = EqualConv2d(4 * channels, 1, 3, 1, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judge crops.

        Args:
            crops: N x 3 x S x S, RGB, [-1, 1].

        Returns:
            Logits of patches, N x 1 x S/4 x S/4, above 0 for real, and the features at a half and a quarter of the
            resolution, N x 2C x S/2 x S/2 and N x 4C x S/4 x S/4.
        """
        fine = self.fine(crops)
        coarse = self.coarse(fine)
        return self.last(coarse) + self.bias, fine, coarse


class ComponentDiscriminators(nn.ModuleDict):
    """A discriminator for each of several components.

    Args:
        names: of the components.
        channels: of each discriminator.
    """

    def __init__(self, names: Iterable[str], channels: int) -> None:
        super().__init__({name: ComponentDiscriminator(channels) for name in names})
