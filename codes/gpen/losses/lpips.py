"""LPIPS as a loss, and its network, which the metric shares."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gpen.archs.ops.precision import widen
from gpen.errors import UserError
from gpen.losses.frozen import load_frozen
from gpen.options.types import NonNegativeFloat
from gpen.registry import LOSS_REGISTRY
from gpen.utils.packages import import_package
from gpen.weights.downloads import find_url, find_weights
from gpen.weights.files import load_weights

LIBRARY = 'torchmetrics.functional.image.lpips'
BACKBONES = {'alex': 'alexnet', 'vgg': 'vgg16', 'squeeze': 'squeezenet1_1'}  # by their names in torchvision
SMALLEST = {'alex': 31, 'vgg': 16, 'squeeze': 17}  # width and height in pixels that the poolings need


@LOSS_REGISTRY.register
class LPIPSLoss(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al. 2018, eq. 1), version 0.1, as a loss.

    The network is torchmetrics', with the linear weights in that package.  It is fixed, and no part of this module's
    state dict or parameters.  Under autocast it runs in half precision, and the mean over the batch is in float32.

    Args:
        loss_weight: factor on the loss.
        net: the backbone; the authors of LPIPS train with ``vgg`` and compare images with ``alex``.
        weights: a local weight file of the backbone in torchvision's layout (``features.N.weight``); default: the one
            in ``weights/`` under the project's root, in torch hub's cache, or downloaded.

    Raises:
        UserError: torchmetrics is missing, or the weight file can neither be found nor downloaded, or does not fit.
    """

    def __init__(
        self,
        loss_weight: NonNegativeFloat = 1.0,
        net: Literal['alex', 'vgg', 'squeeze'] = 'vgg',
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.net = net
        library = import_package(LIBRARY, 'LPIPSLoss needs torchmetrics: pip install "torchmetrics>=1.4" ({error}).')
        what = f"ImageNet weights of LPIPS's backbone {net}"
        path = find_weights(find_url(BACKBONES[net]), weights, what, "the option 'weights' of LPIPSLoss")
        self.network = build_lpips_network(library, net, path)

    def train(self, mode: bool = True) -> LPIPSLoss:  # noqa: ARG002
        """Stay in evaluation mode: the network has dropout, which must not be active."""
        return super().train(False)

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        """Return the weighted mean distance of two batches, N x 3 x H x W in [-1, 1].

        Raises:
            UserError: the images are smaller than the poolings allow.
        """
        smallest, (height, width) = SMALLEST[self.net], restored.shape[-2:]
        if min(height, width) < smallest:
            raise UserError(
                f'LPIPSLoss with the net {self.net} needs images of at least {smallest} x {smallest}, but these are '
                f'{width} x {height}. Remove the loss or use larger images.'
            )
        return self.loss_weight * widen(self.network(restored, gt.detach())).mean()


def build_lpips_network(library: object, net: str, path: Path) -> nn.Module:
    """Return the fixed network that takes two batches, N x 3 x H x W in [-1, 1], and gives N x 1 x 1 x 1 distances.

    Args:
        library: the module of torchmetrics.
        net: the backbone.
        path: its weight file.

    Raises:
        UserError: the weight file does not fit.
    """
    with torch.device('meta'):
        network: nn.Module = library._NoTrainLpips(pretrained=False, net=net, pnet_rand=True)  # type: ignore[attr-defined]
    heads = Path(inspect.getfile(library)).with_name('lpips_models') / f'{net}.pth'  # type: ignore[arg-type]
    load_frozen(network, _collect_state(network, heads, path), path, f"torchvision's weights of the LPIPS net {net}")
    return network


def _collect_state(network: nn.Module, heads: Path, backbone: Path) -> dict[str, Tensor]:
    """Return the weights under torchmetrics' names, which group the backbone's layers in slices."""
    linear = load_weights(heads)
    layers = load_weights(backbone)
    state = {}
    for name in network.state_dict():
        layer = re.sub(r'^net\.slice(s\.\d+|\d+)\.', 'features.', name)  # net.slice2.3.weight -> features.3.weight
        head = re.sub(r'^lins\.(\d+)\.', r'lin\1.', name)  # torchmetrics registers each linear layer twice
        if layer in layers:
            state[name] = layers[layer]
        elif head in linear:
            state[name] = linear[head]
    return state
