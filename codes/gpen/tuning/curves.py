"""The curves of a trial, from the records that training writes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AGAINST_DISCRIMINATOR = {'G_loss_adv', 'G_loss_feature_matching'}
SKIPPED = re.compile(r'Iteration \d+: .* not finite; this step of ')  # as gpen.models.step_log words it


@dataclass(frozen=True)
class Line:
    """Numbers by iteration; not a number where a loss was not finite."""

    x: list[int] = field(default_factory=list)
    y: list[float] = field(default_factory=list)

    def add(self, iteration: int, value: float) -> None:
        """Append a number."""
        self.x.append(iteration)
        self.y.append(value)


@dataclass(frozen=True)
class Curves:
    """What a trial recorded.

    Attributes:
        generator: sum of the generator's losses, those against the discriminator left out: they rise when the
            discriminator learns, whatever the rate.
        discriminator: sum of the discriminator's losses on sharp and restored images; empty without one.
        accuracy: share of the images that the discriminator judges rightly.
        psnr: validation PSNR, dB; empty where it is not measured.
        rates: the generator's learning rate.
        is_adversarial: the generator has no other losses, so ``generator`` is the sum of those against the
            discriminator.
        skipped: steps that were left out because something was not finite.
    """

    generator: Line = field(default_factory=Line)
    discriminator: Line = field(default_factory=Line)
    accuracy: Line = field(default_factory=Line)
    psnr: Line = field(default_factory=Line)
    rates: Line = field(default_factory=Line)
    is_adversarial: bool = False
    skipped: int = 0


def read_curves(folder: Path, psnr: str | None) -> Curves:
    """Return the curves of a run, as far as it is; empty ones where it has not begun.

    Args:
        folder: the experiment folder.
        psnr: the name of the metric under ``val.metrics``.
    """
    from gpen.runs.recorder import METRICS_FILE, read_metrics

    path, log = folder / METRICS_FILE, folder / 'train.log'
    records = read_metrics(path) if path.is_file() else []
    text = log.read_text(encoding='utf-8', errors='replace') if log.is_file() else ''
    return to_curves(records, psnr, len(SKIPPED.findall(text)))


def to_curves(records: Iterable[Mapping[str, Any]], psnr: str | None = None, skipped: int = 0) -> Curves:
    """Return the curves of the records of ``metrics.jsonl``.

    A loss that was in an earlier record and is missing, or null, in a later one was not finite all the while.
    """
    records = list(records)
    names = {name for record in records for name in record}
    content = {name for name in names if name.startswith('G_loss_')}
    is_adversarial = content <= AGAINST_DISCRIMINATOR
    if not is_adversarial:
        content -= AGAINST_DISCRIMINATOR
    curves = Curves(is_adversarial=is_adversarial, skipped=skipped)
    known: set[str] = set()
    for record in records:
        iteration = record['iter']
        if record.get('phase') == 'val':
            value = record.get(f'val/{psnr}')
            if value is not None:
                curves.psnr.add(iteration, value)
        if record.get('phase') != 'train':
            continue
        known |= {name for name in record if name.startswith(('G_loss_', 'D_loss_'))}
        for line, chosen in ((curves.generator, content), (curves.discriminator, {'D_loss_real', 'D_loss_fake'})):
            if chosen & known:
                line.add(iteration, sum(_number(record.get(name)) for name in sorted(chosen & known)))
        if 'D_acc_real' in record and 'D_acc_fake' in record:
            curves.accuracy.add(iteration, (_number(record['D_acc_real']) + _number(record['D_acc_fake'])) / 2)
        curves.rates.add(iteration, _number(record.get('lr_g')))
    return curves


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
