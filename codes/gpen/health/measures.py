"""What a validation measures for the health rules beside the metrics of the options; the cost is negligible."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpen.distributed import ranks
from gpen.metrics import ImageMetric, Metric, SetMetric
from gpen.metrics.psnr_ssim import calculate_psnr
from gpen.metrics.sharpness import calculate_sharpness

SIDE = 32
SMALLEST_DEVIATION = 1e-3  # GT images that differ less than this, in [-1, 1], are one image repeated


def add_measures(model: Any, metrics: Mapping[str, Metric]) -> tuple[Callable[[Tensor], Tensor], dict[str, Metric]]:
    """Return the function that a validation restores with, and its metrics with the measures for the health rules.

    Args:
        model: a GPENModel, or another that has ``restore``, ``restores`` and, where that is true, ``restore_raw``.
        metrics: those of the options; a measure never replaces a metric of the same name.
    """
    measures: dict[str, Metric] = {'variety': Variety()}
    restore: Callable[[Tensor], Tensor] = model.restore
    if model.restores:
        gain = EmaGain(model)
        measures |= {'ema_gain': gain, 'sharpness': ImageMetric(calculate_sharpness, higher_is_better=True)}
        restore = gain.restore
    return restore, {**metrics, **measures, **metrics}


class Variety(SetMetric):
    """How much restored images differ from each other, as a share of how much the GT images do.

    Images are shrunk to 32 x 32, so that detail hardly counts.  The standard deviation of each pixel over all images is
    averaged over the pixels, for the restored and for the GT images; the variety is the ratio of the two: about 1 where
    each face is restored as itself, 0 where all outputs are the same.
    """

    higher_is_better = True

    def start(self) -> None:
        """Forget all images."""
        self._count = torch.zeros(1, dtype=torch.float64)
        # restored and GT; sum and sum of squares
        self._sums = torch.zeros(2, 2, 3, SIDE, SIDE, dtype=torch.float64)

    def update(self, restored: Tensor, gt: Tensor) -> None:
        """Add two batches, N x 3 x H x W in [-1, 1]."""
        self._count += len(restored)
        for sums, images in zip(self._sums, (restored, gt), strict=True):
            small = F.adaptive_avg_pool2d(images.cpu().float(), SIDE).double()  # N x 3 x 32 x 32
            sums += torch.stack([small.sum(dim=0), small.square().sum(dim=0)])

    def gather(self) -> None:
        """All-reduce the sums over all ranks."""
        ranks.all_reduce_sum([self._count, self._sums])

    def compute(self) -> float:
        """Return the variety; NaN for fewer than two GT images that differ."""
        mean, mean_square = (self._sums / self._count.clamp(min=1)).unbind(dim=1)
        deviations = (mean_square - mean.square()).clamp(min=0).sqrt()  # 2 x 3 x 32 x 32
        restored, gt = deviations.flatten(1).mean(dim=1).tolist()
        return restored / gt if gt > SMALLEST_DEVIATION else math.nan


class EmaGain(SetMetric):
    """How much better the EMA generator restores the first batch than the generator itself: difference in PSNR, in dB.

    Args:
        model: has ``restore`` and ``restore_raw``; a validation calls :meth:`restore` of this class instead of the
            model's.
    """

    higher_is_better = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def start(self) -> None:
        """Forget all images."""
        self._is_first = ranks.is_main()  # the first batch is that of rank 0
        self._raw: Tensor | None = None
        self._gain = math.nan

    def restore(self, lq: Tensor) -> Tensor:
        """Restore a batch with the EMA generator; of the first batch, keep the output of the generator itself, too."""
        restored: Tensor = self._model.restore(lq)
        if self._is_first:
            self._raw = self._model.restore_raw(lq).cpu()
            self._is_first = False
        return restored

    def update(self, restored: Tensor, gt: Tensor) -> None:
        """Compare the two outputs, if this is the first batch."""
        if self._raw is not None:
            gains = calculate_psnr(restored, gt) - calculate_psnr(self._raw, gt)
            self._gain = float(gains.mean())
            self._raw = None

    def gather(self) -> None:
        """Take the gain from rank 0."""
        self._gain = ranks.all_gather(self._gain)[0]

    def compute(self) -> float:
        """Return the gain in dB: below 0 where the EMA is behind; NaN without images."""
        return self._gain
