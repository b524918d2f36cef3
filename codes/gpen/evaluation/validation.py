"""Validation: the EMA generator on held-out pairs, or the faces that a prior makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import Any

import torch
from torch import Tensor

from gpen.data.image_io import to_uint8
from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.metrics import Metric, SetMetric
from gpen.utils.seeds import derive_seed


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found.

    Attributes:
        means: the mean of each metric over the images that it is defined for; a set metric's one number.
        rows: one dict per image: its name and the metrics of images.
        sheet: the first pictures, one row each, input | restored | sharp, or a grid of faces that were made of noise:
            3 x H x W, uint8 RGB; None without pictures.
        notes: sentences on how far a number can be trusted.
    """

    means: dict[str, float]
    rows: list[dict[str, Any]]
    sheet: Tensor | None
    notes: list[str] = field(default_factory=list)


def validate(
    restore: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    metrics: Mapping[str, Metric],
    seed: int,
    num_pictures: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    is_shared: bool = False,
    restores: bool = True,
) -> ValidationResult | None:
    """Restore every image and compare it with the sharp one.

    Args:
        restore: N x 3 x H x W in [-1, 1] to N x 3 x size x size.
        batches: dicts with ``lq`` (none where nothing is restored), ``gt`` and ``name``.
        metrics: by name.
        seed: of the noise that a generator with ``in_size`` below ``size`` draws.
        num_pictures: how many images to show in the sheet.
        should_stop: asked between batches; when true, validation is given up.
        is_shared: ``batches`` are those of this process, of several that train together: every ``world_size``-th. The
            result is that of all batches, the same on all.
        restores: false: ``restore`` makes as many images as it is given out of noise, the same noise each time.

    Returns:
        The result, or None when it was given up (by any process).

    Raises:
        UserError: a metric cannot be taken of these images, or restored and sharp ones differ in size.
    """
    set_metrics = [metric for metric in metrics.values() if isinstance(metric, SetMetric)]
    for metric in set_metrics:
        metric.start()
    first, step = (ranks.rank(), ranks.world_size()) if is_shared else (0, 1)
    own: list[_Batch] = []
    stopped = False
    pictures_left = num_pictures
    for number, batch in zip(count(first, step), batches, strict=False):
        stopped = should_stop()
        if stopped:
            break
        if not metrics and pictures_left <= 0:
            break
        torch.manual_seed(derive_seed(seed, 'val', number))
        restored = restore(batch['lq'] if restores else batch['gt']).cpu()
        own.append(_look_at(batch, restored, metrics, pictures_left, restores))
        pictures_left -= len(own[-1].strips)
    shares = [own]
    if is_shared:
        stopped = any(ranks.all_gather(stopped))
        shares = ranks.all_gather(own)
    if stopped:
        return None
    if is_shared:
        for metric in set_metrics:
            metric.gather()
    looked_at = [batch for batches in zip_longest(*shares) for batch in batches if batch is not None]
    rows = [row for batch in looked_at for row in batch.rows]
    strips = [strip for batch in looked_at for strip in batch.strips][:num_pictures]
    means, notes = _summarise(metrics, rows) if rows else ({}, [])
    arrange = (lambda rows: torch.cat(rows, dim=1)) if restores else make_grid
    return ValidationResult(means, rows, arrange(strips) if strips else None, notes)


@dataclass(frozen=True)
class _Batch:
    """What was found in a batch: see :class:`ValidationResult`; a strip is one row, or one face, of its sheet."""

    rows: list[dict[str, Any]]
    strips: list[Tensor]


def _look_at(
    batch: dict[str, Any], restored: Tensor, metrics: Mapping[str, Metric], num_pictures: int, restores: bool
) -> _Batch:
    _check_shapes(restored, batch['gt'])
    columns = _measure(metrics, restored, batch['gt'])
    rows = [
        {'name': image_name, **{name: values[n] for name, values in columns.items()}}
        for n, image_name in enumerate(batch['name'])
    ]
    shown = range(min(len(rows), num_pictures))
    if not restores:
        return _Batch(rows, [torch.as_tensor(to_uint8(restored[n])) for n in shown])
    return _Batch(rows, [make_strip(batch['lq'][n], restored[n], batch['gt'][n]) for n in shown])


def _measure(metrics: Mapping[str, Metric], restored: Tensor, target: Tensor) -> dict[str, list[float]]:
    """Return the metrics of each image by name; set metrics take the images in."""
    columns = {}
    for name, metric in metrics.items():
        try:
            if isinstance(metric, SetMetric):
                metric.update(restored, target)
            else:
                columns[name] = metric(restored, target).tolist()
        except UserError as error:
            raise UserError(f'The metric {name}: {error}') from error
    return columns


def _summarise(metrics: Mapping[str, Metric], rows: list[dict[str, Any]]) -> tuple[dict[str, float], list[str]]:
    """Return the mean or number of each metric, and what has to be said about them."""
    means, notes = {}, []
    for name, metric in metrics.items():
        if isinstance(metric, SetMetric):
            means[name] = metric.compute()
            explanation = metric.explain()
            notes += [f'{name} {explanation}.'] if explanation else []
            continue
        values = [row[name] for row in rows if not math.isnan(row[name])]
        means[name] = sum(values) / len(values) if values else math.nan
        if len(values) < len(rows):
            notes.append(
                f'{name} is not defined for {len(rows) - len(values)} of {len(rows)} images; the mean omits them.'
            )
    return means, notes


def _check_shapes(restored: Tensor, target: Tensor) -> None:
    if restored.shape != target.shape:
        made, wanted = (' x '.join(str(side) for side in images.shape[:1:-1]) for images in (restored, target))
        raise UserError(
            f'The network makes images of {made}, but the sharp ones are {wanted}. '
            'Set size and in_size of the data set to what the network makes and takes.'
        )


def make_strip(lq: Tensor, restored: Tensor, gt: Tensor) -> Tensor:
    """Return input | restored | sharp side by side, 3 x H x 3W, uint8; a smaller input is enlarged (nearest)."""
    if lq.shape != gt.shape:
        lq = torch.nn.functional.interpolate(lq[None], size=gt.shape[-2:], mode='nearest')[0]
    strip = torch.cat([lq, restored, gt], dim=2)
    return torch.as_tensor(to_uint8(strip))


def make_grid(images: Sequence[Tensor]) -> Tensor:
    """Return images of one size, 3 x H x W each, in about as many rows as columns; places left over stay black."""
    columns = math.ceil(math.sqrt(len(images)))
    missing = -len(images) % columns
    images = [*images, *[torch.zeros_like(images[0])] * missing]
    rows = [torch.cat(images[start : start + columns], dim=2) for start in range(0, len(images), columns)]
    return torch.cat(rows, dim=1)
