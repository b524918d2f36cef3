"""FID: the distance between the set of restored images and another set, such as their GT images or all of FFHQ."""

import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpen.data.image_io import read_image, to_tensor, to_uint8
from gpen.data.scan import scan_images
from gpen.data.storage import open_storage
from gpen.distributed.ranks import all_reduce_sum
from gpen.errors import UserError
from gpen.losses.frozen import load_frozen
from gpen.metrics import MetricNotAvailableError, SetMetric, builds_metric
from gpen.metrics.frechet import Moments, Statistics, frechet_distance, load_statistics
from gpen.metrics.shared import find_metric_weights, require
from gpen.registry import METRIC_REGISTRY
from gpen.utils.cpu import count_cpus
from gpen.utils.files import is_file, is_folder, resolve_path
from gpen.weights.files import load_weights

FILENAME = 'weights-inception-2015-12-05-6726825d.pth'
URL = f'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILENAME}'
FEATURES = 2048
SIDE = 299  # pixels of the network's input
REQUIREMENT = 'torch-fidelity>=0.3'
BATCH = 16  # images of a folder that are read and measured together


@METRIC_REGISTRY.register
@builds_metric
def calculate_fid(
    device: torch.device | str,
    option: str,
    reference: str | None = None,
    resize: Literal['tensorflow', 'pytorch'] = 'tensorflow',
    weights: str | None = None,
) -> SetMetric:
    """Fréchet inception distance (Heusel et al. 2017, eq. 6) of the restored set to another; from 0 (equal), no unit.

    The features are the 2048 of the last pooling of the TensorFlow InceptionV3 behind published values, in
    torch-fidelity's version; images are rounded to 8 bits.  The distance to the GT images of the restored ones is
    smaller than to an independent set such as FFHQ, which blind face restoration is compared with.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        reference: what the restored images are compared with: a folder of images, or a file of statistics (.npz of
            test.py --save_fid_stats or pytorch-fid, .pth of BasicSR and VQFR); default: their GT images.
        resize: how images are brought to 299 x 299: as TensorFlow did it, or as BasicSR, GFPGAN, VQFR and pytorch-fid
            do it with PyTorch (their files of statistics need that).
        weights: a local copy of ``weights-inception-2015-12-05-6726825d.pth``; default: the one in ``weights/`` under
            the project's root, in torch hub's cache, or downloaded.

    Returns:
        The metric; lower is better.

    Raises:
        MetricNotAvailableError: torch-fidelity, the weight file or the reference is missing.
        UserError: the weight file or the reference does not fit.
    """
    # Packages and files that may be missing.
    library = require('torch_fidelity.feature_extractor_inceptionv3', REQUIREMENT, 'FID')
    place = None if reference is None else _find_reference(reference, option)
    path = find_metric_weights(URL, weights, "FID's InceptionV3 weights", f'{option}.weights')

    network = build_inception(library, resize)
    load_frozen(network, load_weights(path), path, "torch-fidelity's weights of InceptionV3")
    return FrechetDistance(network, device, place, resize)


class FrechetDistance(SetMetric):
    """Fréchet distance of two sets of images in the feature space of a network.

    Args:
        network: N x 3 x H x W, uint8, to N x F; its attribute ``num_features`` is F.
        device: the device of the network.
        reference: a folder of images or a file of statistics; None: the GT images.
        resize: how the network resizes images, which statistics must share.

    Raises:
        UserError: the reference does not hold what it should.
    """

    higher_is_better = False

    def __init__(
        self,
        network: nn.Module,
        device: torch.device | str,
        reference: Path | None = None,
        resize: str = 'tensorflow',
    ) -> None:
        self.network = network.to(device).eval()
        features: Any = network.num_features
        self._features: int = features
        self.device = device
        self.reference = reference
        self.needs_gt = reference is None
        self._resize = resize
        self._statistics: Statistics | None = None

        # A file is read, and a folder looked through, before anything else is done.
        if reference is not None and is_file(reference):
            self._statistics = _check_resize(load_statistics(reference, self._features), reference, resize)
        elif reference is not None:
            self._storage = open_storage(reference)
            self._keys = scan_images(self._storage).keys
            if len(self._keys) < 2:
                raise UserError(f'{reference} has one image, and FID compares sets of two or more. Give a larger set.')
        self.start()

    def start(self) -> None:
        """Discard all images."""
        device = 'cpu' if torch.device(self.device).type == 'mps' else self.device  # MPS has no float64
        self._restored, self._gt = (Moments(self._features, device) for _ in range(2))

    @torch.no_grad()
    def update(self, restored: Tensor, gt: Tensor | None) -> None:
        """Add two batches, N x 3 x H x W in [-1, 1]; ``gt`` is used where there is no other reference."""
        self._restored.add(self._extract(restored))
        if self.needs_gt and gt is not None:
            self._gt.add(self._extract(gt))

    def gather(self) -> None:
        """All-reduce the sums of all ranks."""
        sums = [self._restored, self._gt] if self.needs_gt else [self._restored]
        all_reduce_sum([value for one in sums for value in (one.total, one.products, one.count)])

    def compute(self) -> float:
        """Return the distance; NaN for fewer than two images."""
        if self._restored.count < 2:
            return math.nan
        other = self._gt.to_statistics() if self.needs_gt else self.measure_reference()
        return frechet_distance(self._restored.to_statistics(), other)

    def measure_reference(self) -> Statistics:
        """Return the statistics of the reference; those of a folder are computed once.

        Raises:
            UserError: there is no reference, or an image cannot be read.
        """
        if self._statistics is None:
            if self.reference is None:
                raise UserError(
                    'FID compares with the sharp images of each set, of which no statistics are kept. Give the folder '
                    'of a set as the option reference of the metric.'
                )
            self._statistics = self._measure_folder()
        return self._statistics

    def explain(self) -> str | None:
        """Return a sentence if there are too few images."""
        count, features = int(self._restored.count), self._features
        if count < 2:
            return f'has no value: it compares sets of two images or more, and there is {count}'
        if count < features:
            return (
                f'comes from {count} images, fewer than its {features} features: it depends strongly on their number, '
                'so compare it only with values on these same images'
            )
        return None

    def _extract(self, images: Tensor) -> Tensor:
        return self.network(to_uint8(images.to(self.device)))  # N x F

    @torch.no_grad()
    def _measure_folder(self) -> Statistics:
        """Return the statistics of a folder of images of any sizes."""
        from tqdm import tqdm

        def read(key: str) -> Tensor:
            return to_tensor(read_image(self._storage.read(key), self._storage.describe(key)))  # 3 x H x W

        moments = Moments(self._features, self._restored.total.device)
        with (
            ThreadPoolExecutor(count_cpus()) as pool,
            tqdm(total=len(self._keys), unit='image', desc=f'FID: {self.reference}', disable=None) as bar,
        ):
            for first in range(0, len(self._keys), BATCH):
                by_size: dict[torch.Size, list[Tensor]] = {}
                for image in pool.map(read, self._keys[first : first + BATCH]):
                    by_size.setdefault(image.shape, []).append(image)
                for images in by_size.values():
                    moments.add(self._extract(torch.stack(images)))
                    bar.update(len(images))
        return moments.to_statistics(self._resize)


def build_inception(library: Any, resize: str = 'tensorflow') -> nn.Module:
    """Return torch-fidelity's InceptionV3 on the ``meta`` device, without weights: N x 3 x H x W, uint8 -> N x 2048.

    Args:
        library: the module ``torch_fidelity.feature_extractor_inceptionv3``.
        resize: see :func:`calculate_fid`.
    """

    class Inception(library.FeatureExtractorInceptionV3):  # type: ignore[misc, name-defined]
        num_features = FEATURES

        # The base's constructor would unpickle weights without weights_only; it gets a file without any instead.
        def load_state_dict(self, state_dict: Any, *arguments: Any, **settings: Any) -> Any:
            return super().load_state_dict(state_dict, *arguments, **settings) if state_dict else None

        def forward(self, images: Tensor) -> Any:
            if resize == 'tensorflow':
                return super().forward(images)[0]

            # All layers in their order; the last one is the classifier.
            resized = F.interpolate(images.float(), (SIDE, SIDE), mode='bilinear', align_corners=False)
            values = resized / 127.5 - 1  # N x 3 x 299 x 299
            for layer in [*self.children()][:-1]:
                values = layer(values)
            return values.flatten(1)

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device('meta'):
        return Inception('inception-v3-compat', [str(FEATURES)], feature_extractor_weights_path=nothing)


def _find_reference(reference: str, option: str) -> Path:
    path = resolve_path(reference)
    if not is_file(path) and not is_folder(path):
        raise MetricNotAvailableError(
            f'{option}.reference names {path}, but there is no such file or folder (what FID compares restored images '
            'with). Put it there, or correct that line.',
            path.name,
        )
    return path


def _check_resize(statistics: Statistics, path: Path, resize: str) -> Statistics:
    """Return statistics, unless they are of images that were resized in another way."""
    made_by = statistics.resize or ('pytorch' if path.suffix.lower() != '.npz' else None)
    if made_by is not None and made_by != resize:
        raise UserError(
            f'{path} was made of images that were resized as {made_by} does it, and this metric has resize: {resize}. '
            f'Set resize: {made_by}, or use other statistics.'
        )
    return statistics
