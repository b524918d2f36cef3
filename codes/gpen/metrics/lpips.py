"""LPIPS: distance of two images in the features of a network that was trained on photographs."""

from typing import Literal

import torch
from torch import Tensor

from gpen.losses.lpips import BACKBONES, LIBRARY, SMALLEST, build_lpips_network
from gpen.metrics import ImageMetric, builds_metric
from gpen.metrics.shared import as_saved, check_sizes, find_metric_weights, require
from gpen.registry import METRIC_REGISTRY
from gpen.weights.downloads import find_url


@METRIC_REGISTRY.register
@builds_metric
def calculate_lpips(
    device: torch.device | str,
    option: str,
    net: Literal['alex', 'vgg', 'squeeze'] = 'alex',
    weights: str | None = None,
) -> ImageMetric:
    """Learned perceptual image patch similarity (Zhang et al. 2018, eq. 1), version 0.1: from 0 (equal), no unit.

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
    library = require(LIBRARY, 'torchmetrics>=1.4', 'LPIPS')
    what = f"ImageNet weights of LPIPS's backbone {net}"
    path = find_metric_weights(find_url(BACKBONES[net]), weights, what, f'{option}.weights')
    network = build_lpips_network(library, net, path).to(device)

    @torch.no_grad()
    def measure(restored: Tensor, gt: Tensor) -> Tensor:
        check_sizes(restored, gt, SMALLEST[net], f'LPIPS with the net {net}')
        return network(as_saved(restored, device), as_saved(gt, device)).flatten().double()

    return ImageMetric(measure, higher_is_better=False)
