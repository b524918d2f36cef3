"""The curves of a trial, from its ``metrics.jsonl``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpen.runs.recorder import METRICS_FILE, read_metrics

AGAINST_DISCRIMINATOR = {'G_loss_adv', 'G_loss_feature_matching'}
SKIPPED = 'skipped_step'  # the event of a step whose losses or gradients were not finite


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
        generator: sum of the generator's losses without those against the discriminator, which rise when the
            discriminator learns, whatever the rate.
        discriminator: sum of the discriminator's losses on GT and restored images; empty without one.
        accuracy: share of the images that the discriminator judges rightly.
        psnr: validation PSNR, dB; empty where it is not measured.
        rates: the generator's learning rate.
        is_adversarial: the generator has no other losses, so ``generator`` is the sum of those against the
            discriminator.
        skipped: number of steps that were skipped because a loss or gradient was not finite.
    """

    generator: Line = field(default_factory=Line)
    discriminator: Line = field(default_factory=Line)
    accuracy: Line = field(default_factory=Line)
    psnr: Line = field(default_factory=Line)
    rates: Line = field(default_factory=Line)
    is_adversarial: bool = False
    skipped: int = 0


def read_curves(folder: Path, psnr: str | None) -> Curves:
    """Return the curves of a run so far; empty ones if it has not begun.

    Args:
        folder: the experiment folder.
        psnr: the name of the metric under ``val.metrics``.
    """
    path = folder / METRICS_FILE
    return to_curves(read_metrics(path) if path.is_file() else [], psnr)


def to_curves(records: Sequence[Mapping[str, Any]], psnr: str | None = None) -> Curves:
    """Return the curves of the records of ``metrics.jsonl``.

    A loss that was in an earlier record and is missing, or null, in a later one was not finite all the while.
    """
    names = {name for record in records for name in record}
    content = {name for name in names if name.startswith('G_loss_')}
    against = {name for name in content if name in AGAINST_DISCRIMINATOR or name.startswith('G_loss_component_')}
    is_adversarial = content <= against
    if not is_adversarial:
        content -= against
    skipped = sum(record.get('phase') == 'event' and record.get('name') == SKIPPED for record in records)
    curves = Curves(is_adversarial=is_adversarial, skipped=skipped)

    known: set[str] = set()
    for record in records:
        iteration, phase = record['iter'], record.get('phase')
        if phase == 'val' and record.get(f'val/{psnr}') is not None:
            curves.psnr.add(iteration, record[f'val/{psnr}'])
        if phase != 'train':
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
