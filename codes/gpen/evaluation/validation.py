"""Validation: metrics and pictures of a generator on held-out images, or of the faces that a prior generates."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, zip_longest
from typing import Any

import torch
from torch import Tensor

from gpen.data.image_io import to_uint8
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.metrics import Metric, SetMetric
from gpen.utils.seeds import derive_seed
from gpen.utils.text import list_names


@dataclass(frozen=True)
class ValidationResult:
    """The metrics and pictures of a validation.

    Attributes:
        means: the mean of each metric over the images that it is defined and finite for; the one number of a set
            metric.  NaN where any restored image is not finite.
        rows: one dict per image: its name and the metrics of images.
        sheet: the first pictures, one row each, LQ | restored | GT, or a grid of faces that were generated from noise:
            3 x H x W, uint8 RGB; None without pictures.
        notes: sentences on how far a number can be trusted.
        faults: sentences on images that are not finite, or have a metric that is infinite, with their names.
        is_spoilt: a restored image is not finite.
    """

    means: dict[str, float]
    rows: list[dict[str, Any]]
    sheet: Tensor | None
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    is_spoilt: bool = False


def validate(
    restore: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    metrics: Mapping[str, Metric],
    seed: int,
    num_pictures: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    is_sharded: bool = False,
    restores: bool = True,
) -> ValidationResult | None:
    """Restore every LQ image and measure it, most often against its GT image.

    Args:
        restore: N x 3 x H x W in [-1, 1] to N x 3 x size x size.
        batches: dicts with ``lq`` (none where nothing is restored), ``gt`` (none in a set without sharp images, for
            metrics that do without) and ``name``.
        metrics: by name.
        seed: of the noise that a generator with ``in_size`` below ``size`` draws.
        num_pictures: how many images to show in the sheet.
        should_stop: asked before each batch; validation ends where it is true.
        is_sharded: each rank validates every ``world_size``-th batch, and ``batches`` are those of this rank.  The
            result is that of all batches, and the same on all ranks.
        restores: false: ``restore`` generates as many images as it is given, from the same noise each time.

    Returns:
        The result, or None where any rank stopped.

    Raises:
        UserError: a metric does not fit these images, or restored and GT images differ in size.
    """
    set_metrics = [metric for metric in metrics.values() if isinstance(metric, SetMetric)]
    for metric in set_metrics:
        metric.start()

    # The batches of this rank; a batch draws the same noise on any number of ranks.
    rank, world_size = (ranks.rank(), ranks.world_size()) if is_sharded else (0, 1)
    own: list[_Batch] = []
    stopped = False
    pictures_left = num_pictures
    for number, batch in zip(count(rank, world_size), batches, strict=False):
        stopped = should_stop()
        if stopped or not (metrics or pictures_left > 0):
            break
        torch.manual_seed(derive_seed(seed, 'val', number))
        restored = restore(batch['lq'] if restores else batch['gt']).cpu()
        own.append(_look_at(batch, restored, metrics, pictures_left, restores))
        pictures_left -= len(own[-1].strips)

    # Gather the batches of all ranks, in the order of the data set.
    shards = [own]
    if is_sharded:
        stopped = any(ranks.all_gather(stopped))
        shards = ranks.all_gather(own)
    if stopped:
        return None
    if is_sharded:
        for metric in set_metrics:
            metric.gather()
    done = [batch for batches in zip_longest(*shards) for batch in batches if batch is not None]

    rows = [row for batch in done for row in batch.rows]
    strips = [strip for batch in done for strip in batch.strips][:num_pictures]
    means, notes, faults = _summarise(metrics, rows) if rows else ({}, [], [])
    arrange = partial(torch.cat, dim=1) if restores else arrange_in_grid

    # Images that are not finite make every mean worthless.
    spoilt = [name for batch in done for name in batch.spoilt]
    if spoilt:
        means, notes, faults = dict.fromkeys(means, math.nan), [], [_explain_spoilt(spoilt, len(rows))]
    return ValidationResult(means, rows, arrange(strips) if strips else None, notes, faults, bool(spoilt))


@dataclass(frozen=True)
class _Batch:
    """The rows of a batch, see :class:`ValidationResult`, and its pictures: rows of the sheet, or single faces.

    ``spoilt`` are the names of restored images that are not finite.
    """

    rows: list[dict[str, Any]]
    strips: list[Tensor]
    spoilt: list[str]


def _look_at(
    batch: dict[str, Any], restored: Tensor, metrics: Mapping[str, Metric], num_pictures: int, restores: bool
) -> _Batch:
    """Measure the images of a batch, and draw the first ``num_pictures`` of them."""
    gt = batch.get('gt')
    if gt is not None and restored.shape != gt.shape:
        made, wanted = (' x '.join(str(side) for side in images.shape[:1:-1]) for images in (restored, gt))
        raise UserError(
            f'The network makes images of {made}, but the sharp ones are {wanted}. '
            'Set size and in_size of the data set to what the network makes and takes.'
        )

    # The metrics of each image: of one that is not finite, they are not defined.
    columns = _measure(metrics, restored, gt)
    is_finite = restored.isfinite().flatten(1).all(dim=1).tolist()
    rows = [
        {'name': image_name, **{name: values[n] if is_finite[n] else math.nan for name, values in columns.items()}}
        for n, image_name in enumerate(batch['name'])
    ]
    spoilt = [row['name'] for row, finite in zip(rows, is_finite, strict=True) if not finite]

    shown = range(min(len(rows), num_pictures))
    if not restores:
        return _Batch(rows, [to_uint8(restored[n]) for n in shown], spoilt)
    strips = [make_strip(batch['lq'][n], restored[n], None if gt is None else gt[n]) for n in shown]
    return _Batch(rows, strips, spoilt)


def _measure(metrics: Mapping[str, Metric], restored: Tensor, gt: Tensor | None) -> dict[str, list[float]]:
    """Return the metrics of each image by name, and add the images to the set metrics."""
    columns = {}
    for name, metric in metrics.items():
        try:
            if gt is None and metric.needs_gt:
                raise UserError('it compares with sharp images, and the data set has none. Leave it out.')
            if isinstance(metric, SetMetric):
                metric.update(restored, gt)
            else:
                columns[name] = metric(restored, gt).tolist()
        except UserError as error:
            raise UserError(f'The metric {name}: {error}') from error
    return columns


def _summarise(
    metrics: Mapping[str, Metric], rows: list[dict[str, Any]]
) -> tuple[dict[str, float], list[str], list[str]]:
    """Return the mean or number of each metric, and notes and faults, see :class:`ValidationResult`."""
    means, notes, faults = {}, [], []
    for name, metric in metrics.items():
        if isinstance(metric, SetMetric):
            means[name] = metric.compute()
            explanation = metric.explain()
            notes += [f'{name} {explanation}.'] if explanation else []
            continue

        values = [row[name] for row in rows if not math.isnan(row[name])]
        if len(values) < len(rows):
            notes.append(
                f'{name} is not defined for {len(rows) - len(values)} of {len(rows)} images; the mean omits them.'
            )

        # One infinite value, such as the PSNR of equal images, would be the whole mean.
        infinite = [str(row['name']) for row in rows if math.isinf(row[name])]
        finite = [value for value in values if math.isfinite(value)] or values
        means[name] = sum(finite) / len(finite) if finite else math.nan
        if infinite:
            faults.append(
                f'{name} is infinite for {len(infinite)} of {len(rows)} images ({list_names(infinite)}), as the PSNR '
                'of equal images is; the mean omits them.'
            )
    return means, notes, faults


def _explain_spoilt(names: Sequence[str], total: int) -> str:
    return (
        f'The network gave values that are not finite for {len(names)} of {total} images ({list_names(names)}), so no '
        'metric counts. Its weights are spoilt, or half precision is too narrow for them (train.amp).'
    )


def make_strip(lq: Tensor, restored: Tensor, gt: Tensor | None) -> Tensor:
    """Return LQ | restored | GT (if any) side by side, 3 x H x 3W, uint8; a smaller LQ image is enlarged (nearest)."""
    if lq.shape != restored.shape:
        lq = torch.nn.functional.interpolate(lq[None], size=restored.shape[-2:], mode='nearest')[0]
    return to_uint8(torch.cat([lq, restored] if gt is None else [lq, restored, gt], dim=2))


def arrange_in_grid(images: Sequence[Tensor]) -> Tensor:
    """Return images of one size, 3 x H x W each, in about as many rows as columns; places left over stay black."""
    from torchvision.utils import make_grid

    return make_grid(torch.stack([*images]), nrow=math.ceil(math.sqrt(len(images))), padding=0)
