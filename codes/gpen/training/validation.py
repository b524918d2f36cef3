"""Validation: the EMA generator on held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpen.data.image_io import to_uint8, write_image
from gpen.metrics import Metric
from gpen.utils.seeds import derive_seed


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found.

    Attributes:
        means: the mean of each metric.
        rows: one dict per image: its name and metrics.
        sheet: the first pictures, one row each, input | restored | sharp: 3 x H x W, uint8 RGB; None without pictures.
    """

    means: dict[str, float]
    rows: list[dict[str, Any]]
    sheet: Tensor | None


def validate(
    restore: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    metrics: dict[str, Metric],
    seed: int,
    num_pictures: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> ValidationResult | None:
    """Restore every image and compare it with the sharp one.

    Args:
        restore: N x 3 x H x W in [-1, 1] to N x 3 x size x size.
        batches: dicts with ``lq``, ``gt`` and ``name``.
        metrics: by name; each gives one number per image.
        seed: of the noise that a generator with ``in_size`` below ``size`` draws.
        num_pictures: how many images to show in the sheet.
        should_stop: asked between batches; when true, validation is given up.

    Returns:
        The result, or None when it was given up.
    """
    rows: list[dict[str, Any]] = []
    strips: list[Tensor] = []
    for number, batch in enumerate(batches):
        if should_stop():
            return None
        torch.manual_seed(derive_seed(seed, 'val', number))
        restored = restore(batch['lq']).cpu()
        columns = {name: metric(restored, batch['gt']).tolist() for name, metric in metrics.items()}
        for n, image_name in enumerate(batch['name']):
            rows.append({'name': image_name, **{name: values[n] for name, values in columns.items()}})
            if len(strips) < num_pictures:
                strips.append(make_strip(batch['lq'][n], restored[n], batch['gt'][n]))
    means = {name: sum(row[name] for row in rows) / len(rows) for name in metrics} if rows else {}
    return ValidationResult(means, rows, torch.cat(strips, dim=1) if strips else None)


def write_sheet(path: Path, sheet: Tensor) -> None:
    """Write a sheet, 3 x H x W, uint8 RGB, to an image file."""
    write_image(path, sheet.permute(1, 2, 0).numpy().astype('float32') / 127.5 - 1)


def make_strip(lq: Tensor, restored: Tensor, gt: Tensor) -> Tensor:
    """Return input | restored | sharp side by side, 3 x H x 3W, uint8; a smaller input is enlarged (nearest)."""
    if lq.shape != gt.shape:
        lq = torch.nn.functional.interpolate(lq[None], size=gt.shape[-2:], mode='nearest')[0]
    strip = torch.cat([lq, restored, gt], dim=2)
    return torch.as_tensor(to_uint8(strip))
