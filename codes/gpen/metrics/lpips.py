"""LPIPS: distance of two images in the features of a network that was trained on photographs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gpen.losses.frozen import load_frozen
from gpen.metrics import ImageMetric, builds_metric
from gpen.metrics.shared import as_saved, check_sizes, find_metric_weights, require
from gpen.registry import METRIC_REGISTRY
from gpen.weights.downloads import find_url
from gpen.weights.files import load_weights

BACKBONES = {'alex': 'alexnet', 'vgg': 'vgg16', 'squeeze': 'squeezenet1_1'}  # by their names in torchvision
SMALLEST = {'alex': 31, 'vgg': 16, 'squeeze': 17}  # width and height in pixels that the poolings need


@METRIC_REGISTRY.register
@builds_metric
def calculate_lpips(
    device: torch.device | str,
    option: str,
    net: Literal['alex', 'vgg', 'squeeze'] = 'alex',
    weights: str | None = None,
) -> ImageMetric:
    """Learned perceptual image patch similarity (Zhang et al. 2018, eq. 1), version 0.1; 0 for equal images.

    It uses 8-bit values.  The network is torchmetrics', with the linear weights in that package.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        net: the backbone; the authors of LPIPS compare images with ``alex`` and train with ``vgg``.
        weights: a local weight file of the backbone in torchvision's layout (``features.N.weight``); default: the one
            in ``weights/`` under the project's root, in torch hub's cache, or downloaded.

    Returns:
        The metric; lower is better.

    Raises:
        MetricNotAvailableError: torchmetrics or the weight file is missing.
        UserError: the weight file does not fit.
    """
    # Packages and weights that may be missing.
    library = require('torchmetrics.functional.image.lpips', 'torchmetrics>=1.4', 'LPIPS')
    what = f"ImageNet weights of LPIPS's backbone {net}"
    path = find_metric_weights(find_url(BACKBONES[net]), weights, what, f'{option}.weights')

    with torch.device('meta'):
        network: nn.Module = library._NoTrainLpips(pretrained=False, net=net, pnet_rand=True)
    heads = Path(inspect.getfile(library)).with_name('lpips_models') / f'{net}.pth'
    load_frozen(network, _collect_state(network, heads, path), path, f"torchvision's weights of the LPIPS net {net}")
    network.to(device)

    @torch.no_grad()
    def measure(restored: Tensor, gt: Tensor) -> Tensor:
        check_sizes(restored, gt, SMALLEST[net], f'LPIPS with the net {net}')
        return network(as_saved(restored, device), as_saved(gt, device)).flatten().double()

    return ImageMetric(measure, higher_is_better=False)


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
