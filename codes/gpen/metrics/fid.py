"""FID: the distance between the set of restored images and the set of GT images."""

import io
import math
from typing import Any

import torch
from torch import Tensor, nn

from gpen.data.image_io import to_uint8
from gpen.distributed.ranks import all_reduce_sum
from gpen.losses.frozen import load_frozen
from gpen.metrics import SetMetric, builds_metric
from gpen.metrics.shared import find_metric_weights, require
from gpen.registry import METRIC_REGISTRY
from gpen.weights.files import load_weights

FILENAME = 'weights-inception-2015-12-05-6726825d.pth'
URL = f'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILENAME}'
FEATURES = 2048
REQUIREMENTS = {'torchmetrics': 'torchmetrics>=1.4', 'torch_fidelity': 'torch-fidelity>=0.3'}


@METRIC_REGISTRY.register
@builds_metric
def calculate_fid(device: torch.device | str, option: str, weights: str | None = None) -> SetMetric:
    """Fréchet inception distance (Heusel et al. 2017, eq. 6) of the restored set to the GT set; 0 for equal sets.

    The features are the 2048 of the last pooling of the TensorFlow InceptionV3 behind published values, in
    torch-fidelity's version; images are rounded to 8 bits and resized to 299 x 299 as TensorFlow did.  The GT images
    are those of the restored ones, so the distance is smaller than to an independent set such as all of FFHQ.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        weights: a local copy of ``weights-inception-2015-12-05-6726825d.pth``; default: the one in ``weights/`` under
            the project's root, in torch hub's cache, or downloaded.

    Returns:
        The metric; lower is better.

    Raises:
        MetricNotAvailableError: torchmetrics, torch-fidelity or the weight file is missing.
        UserError: the weight file does not fit.
    """
    # Packages and weights that may be missing.
    require('torchmetrics', REQUIREMENTS['torchmetrics'], 'FID')
    library = require('torch_fidelity.feature_extractor_inceptionv3', REQUIREMENTS['torch_fidelity'], 'FID')
    path = find_metric_weights(URL, weights, "FID's InceptionV3 weights", f'{option}.weights')

    network = build_inception(library)
    load_frozen(network, load_weights(path), path, "torch-fidelity's weights of InceptionV3")
    return FrechetDistance(network, device)


class FrechetDistance(SetMetric):
    """Fréchet distance of two sets of images in the feature space of a network.

    Args:
        network: N x 3 x H x W, uint8, to N x F; its attribute ``num_features`` is F.
        device: the device of the network.
    """

    higher_is_better = False

    def __init__(self, network: nn.Module, device: torch.device | str) -> None:
        fid = require('torchmetrics.image.fid', REQUIREMENTS['torchmetrics'], 'FID')
        self.device = device
        # gather adds the images of the other ranks, so torchmetrics must not do so in each compute.
        self.distance: Any = fid.FrechetInceptionDistance(feature=network, sync_on_compute=False).to(device)

    def start(self) -> None:
        """Discard all images."""
        self.distance.reset()

    @torch.no_grad()
    def update(self, restored: Tensor, gt: Tensor) -> None:
        """Add two batches, N x 3 x H x W in [-1, 1]."""
        for images, real in ((restored, False), (gt, True)):
            self.distance.update(to_uint8(images.to(self.device)), real=real)

    def gather(self) -> None:
        """All-reduce the state of all ranks, which consists of sums."""
        states = [f'{kind}_features_{name}' for kind in ('real', 'fake') for name in ('sum', 'cov_sum', 'num_samples')]
        all_reduce_sum([getattr(self.distance, state) for state in states])

    def compute(self) -> float:
        """Return the distance; NaN for fewer than two images."""
        return max(0.0, float(self.distance.compute())) if self._count() >= 2 else math.nan

    def explain(self) -> str | None:
        """Return a sentence if there are too few images."""
        count, features = self._count(), int(self.distance.real_features_sum.numel())
        if count < 2:
            return f'has no value: it compares sets of two images or more, and there is {count}'
        if count < features:
            return (
                f'comes from {count} images, fewer than its {features} features: it depends strongly on their number, '
                'so compare it only with values on these same images'
            )
        return None

    def _count(self) -> int:
        return int(self.distance.fake_features_num_samples)


def build_inception(library: Any) -> nn.Module:
    """Return torch-fidelity's InceptionV3 on the ``meta`` device, without weights: N x 3 x H x W, uint8 -> N x 2048."""

    class Inception(library.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        num_features = FEATURES

        # The base's constructor would unpickle weights without weights_only; it gets a file without any instead.
        def load_state_dict(self, state_dict: Any, *arguments: Any, **settings: Any) -> Any:
            return super().load_state_dict(state_dict, *arguments, **settings) if state_dict else None

        def forward(self, images: Tensor) -> Any:
            return super().forward(images)[0]

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device('meta'):
        return Inception('inception-v3-compat', [str(FEATURES)], feature_extractor_weights_path=nothing)
