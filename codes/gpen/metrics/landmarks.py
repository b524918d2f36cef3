"""LMD: how far the facial landmarks of the restored face lie from those of the GT face."""

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from gpen.losses.frozen import load_frozen
from gpen.metrics import ImageMetric, builds_metric
from gpen.metrics.shared import as_pixels, check_shapes, find_metric_weights, require
from gpen.registry import METRIC_REGISTRY
from gpen.weights.files import load_weights

FILENAME = 'alignment_WFLW_4HG.pth'
URL = f'https://github.com/xinntao/facexlib/releases/download/v0.1.0/{FILENAME}'
SIDE = 256  # pixels of the network's input; its heatmaps have a quarter of it
STACKS, POINTS = 4, 98  # hourglasses; landmarks of the data set WFLW


@METRIC_REGISTRY.register
@builds_metric
def calculate_lmd(device: torch.device | str, option: str, weights: str | None = None) -> ImageMetric:
    """Mean distance between 98 landmarks of the restored and of the GT face, in pixels of these images; from 0.

    As VQFR's evaluation has it (Gu et al. 2022): facexlib's FAN with adaptive wing loss (Wang et al. 2019), trained on
    WFLW, on the whole aligned face in 8-bit values; the mean is that of the Euclidean distances.  It grows with the
    size of the images: the papers' are 512 x 512.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        weights: a local copy of ``alignment_WFLW_4HG.pth``; default: the one in ``weights/`` under the project's root,
            in torch hub's cache, or downloaded.

    Returns:
        The metric; lower is better.

    Raises:
        MetricNotAvailableError: facexlib or the weight file is missing.
        UserError: the weight file does not fit.
    """
    library = require('facexlib.alignment.awing_arch', 'facexlib>=0.3', 'Landmark distance')
    path = find_metric_weights(URL, weights, 'Landmark weights of facexlib', f'{option}.weights')
    network = build_landmark_network(library)
    load_frozen(network, load_weights(path), path, "the weights of facexlib's landmark network (awing_fan)")
    network.to(device)

    @torch.no_grad()
    def measure(restored: Tensor, gt: Tensor) -> Tensor:
        check_shapes(restored, gt)
        return landmark_distance(*(find_landmarks(network, images, device) for images in (restored, gt)))

    return ImageMetric(measure, higher_is_better=False)


def landmark_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean Euclidean distance between points, N x P x 2 each: N values, float64."""
    return (a.double() - b.double()).norm(dim=2).mean(dim=1)


def build_landmark_network(library: Any) -> nn.Module:
    """Return facexlib's FAN on the ``meta`` device: N x 3 x 256 x 256 in [0, 1] -> heatmaps of each stack."""
    with torch.device('meta'):
        network: nn.Module = library.FAN(num_modules=STACKS, num_landmarks=POINTS)
    return network


def find_landmarks(network: nn.Module, images: Tensor, device: torch.device | str) -> Tensor:
    """Return the landmarks of faces, N x 98 x 2, x before y, in pixels of the images (N x 3 x H x W in [-1, 1])."""
    height, width = images.shape[-2:]
    small = np.stack([cv2.resize(pixels, (SIDE, SIDE)) for pixels in as_pixels(images)])  # N x 256 x 256 x 3
    faces = torch.from_numpy(small).permute(0, 3, 1, 2).to(device).float() / 255

    # The heatmaps of the last stack, of which the very last is that of the face's outline.
    heatmaps = network(faces)[0][-1][:, :-1].cpu()
    points = locate_peaks(heatmaps)
    rows, columns = heatmaps.shape[-2:]
    return points * points.new_tensor([width / columns, height / rows])


def locate_peaks(heatmaps: Tensor) -> Tensor:
    """Return where heatmaps are highest, in their pixels: N x P x H x W -> N x P x 2, x before y.

    It is the centre of the highest pixel, moved along each axis by a quarter of a pixel towards the higher of its
    neighbours, unless it lies at the edge, where one is missing.
    """
    rows, columns = heatmaps.shape[-2:]
    flat = heatmaps.flatten(2)  # N x P x H W
    peak = flat.argmax(dim=2)
    y, x = peak // columns, peak % columns

    def look(down: int, right: int) -> Tensor:
        """Return the values beside the peaks."""
        place = (y + down).clamp(0, rows - 1) * columns + (x + right).clamp(0, columns - 1)
        return flat.gather(2, place.unsqueeze(2)).squeeze(2)

    across = (look(0, 1) - look(0, -1)).sign() * ((x > 0) & (x < columns - 1))
    down = (look(1, 0) - look(-1, 0)).sign() * ((y > 0) & (y < rows - 1))
    return torch.stack([x, y], dim=2) + 0.5 + 0.25 * torch.stack([across, down], dim=2)
