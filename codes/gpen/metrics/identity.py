"""Identity similarity: cosine similarity of face recognition embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gpen.losses.identity import URL, WHAT, crop_face, load_arcface
from gpen.metrics import ImageMetric, builds_metric
from gpen.metrics.shared import as_saved, find_metric_weights, require
from gpen.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register
@builds_metric
def calculate_identity(device: torch.device | str, option: str, weights: str | None = None) -> ImageMetric:
    """Cosine similarity of ArcFace embeddings (Deng et al. 2019): 1 for the same image, about 0 for other people.

    It uses 8-bit values, and network and crop of :class:`gpen.losses.identity.IdentityLoss`: images must be faces
    aligned as in FFHQ.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        weights: a local copy of ``recognition_arcface_ir_se50.pth``; default: the one in ``weights/`` under the
            project's root, in torch hub's cache, or downloaded.

    Returns:
        The metric; higher is better.

    Raises:
        MetricNotAvailableError: facexlib or the weight file is missing.
        UserError: the weight file does not fit.
    """
    require('facexlib.recognition.arcface_arch', 'facexlib>=0.3', 'Identity similarity')
    network = load_arcface(find_metric_weights(URL, weights, WHAT, f'{option}.weights')).to(device)

    @torch.no_grad()
    def measure(restored: Tensor, gt: Tensor) -> Tensor:
        a, b = (network(crop_face(as_saved(images, device))) for images in (restored, gt))  # N x 512 each
        return F.cosine_similarity(a.double(), b.double())

    return ImageMetric(measure, higher_is_better=True)
