"""Deg: the angle between face recognition embeddings, as the tables of GFP-GAN and VQFR state it."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpen.losses.frozen import load_frozen
from gpen.metrics import ImageMetric, builds_metric
from gpen.metrics.shared import as_pixels, check_shapes, find_metric_weights
from gpen.registry import METRIC_REGISTRY
from gpen.weights.files import load_weights

FILENAME = 'arcface_resnet18.pth'
URL = f'https://github.com/TencentARC/GFPGAN/releases/download/v0.1.0/{FILENAME}'
SIDE = 128  # pixels of the network's input
WIDTHS = (64, 128, 256, 512)  # channels of the four stages of a ResNet-18


@METRIC_REGISTRY.register
@builds_metric
def calculate_deg(device: torch.device | str, option: str, weights: str | None = None) -> ImageMetric:
    """Angle between ArcFace embeddings of restored and GT face in degrees; 0 (same image) to 180.

    ``arccos(cosine) * 180 / pi`` as VQFR's evaluation has it (Gu et al. 2022): ArcFace (Deng et al. 2019) with a
    ResNet-18 on the whole aligned face, in grey at 128 x 128, of 8-bit values.  It is another network than that of
    :func:`gpen.metrics.identity.calculate_identity`, so the cosines of both differ.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        weights: a local copy of ``arcface_resnet18.pth`` of GFPGAN, or ``resnet18_110.pth`` of arcface-pytorch, which
            VQFR uses; default: the former in ``weights/`` under the project's root, in torch hub's cache, or
            downloaded.

    Returns:
        The metric; lower is better.

    Raises:
        MetricNotAvailableError: the weight file is missing.
        UserError: the weight file does not fit.
    """
    path = find_metric_weights(URL, weights, 'ArcFace ResNet-18 weights', f'{option}.weights')
    with torch.device('meta'):
        network = FaceResNet18()
    load_frozen(network, load_weights(path), path, 'ArcFace ResNet-18 weights (IR blocks, one grey channel)')
    network.to(device)

    @torch.no_grad()
    def measure(restored: Tensor, gt: Tensor) -> Tensor:
        check_shapes(restored, gt)
        return angle(*(network(to_grey(images).to(device)) for images in (restored, gt)))

    return ImageMetric(measure, higher_is_better=False)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Return the angles between vectors, N x F each, in degrees: N values, float64, in [0, 180]."""
    a, b = (F.normalize(vectors.cpu().double(), dim=1) for vectors in (a, b))
    # Half the angle by its tangent: the arccosine of a cosine near 1 would lose half of the digits.
    return 2 * torch.rad2deg(torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)))


def to_grey(images: Tensor) -> Tensor:
    """Return faces as the network takes them, by OpenCV as in VQFR: N x 1 x 128 x 128, float32, [-1, 1]."""
    grey = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in as_pixels(images)]
    small = np.stack([cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for pixels in grey])
    return torch.from_numpy(small).float().unsqueeze(1) / 127.5 - 1


class FaceResNet18(nn.Module):
    """ArcFace's ResNet-18 of improved residual blocks: N x 1 x 128 x 128 -> N x 512; names as in GFPGAN's file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU()

        inputs = WIDTHS[0]
        for number, width in enumerate(WIDTHS, start=1):
            blocks = ImprovedBlock(inputs, width, stride=1 if number == 1 else 2), ImprovedBlock(width, width)
            setattr(self, f'layer{number}', nn.Sequential(*blocks))
            inputs = width

        self.bn4 = nn.BatchNorm2d(WIDTHS[-1])
        self.fc5 = nn.Linear(WIDTHS[-1] * (SIDE // 16) ** 2, 512)
        self.bn5 = nn.BatchNorm1d(512)

    def forward(self, faces: Tensor) -> Tensor:
        """Return the embeddings."""
        values = F.max_pool2d(self.prelu(self.bn1(self.conv1(faces))), 2)  # N x 64 x 64 x 64
        for number in range(1, len(WIDTHS) + 1):
            values = getattr(self, f'layer{number}')(values)
        return self.bn5(self.fc5(self.bn4(values).flatten(1)))  # from N x 512 x 8 x 8


class ImprovedBlock(nn.Module):
    """A residual block with a normalisation before its first convolution (Deng et al. 2019, section 3.2.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, values: Tensor) -> Tensor:
        """Return N x ``outputs`` x H / stride x W / stride of N x ``inputs`` x H x W."""
        inner = self.prelu(self.bn1(self.conv1(self.bn0(values))))
        residual = values if self.downsample is None else self.downsample(values)
        return self.prelu(self.bn2(self.conv2(inner)) + residual)
