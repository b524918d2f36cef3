"""Which numbers of a run, or of several, are drawn together, and how."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gpen.reporting.curves import Series, draw_curves
from gpen.reporting.points import format_number
from gpen.reporting.run import MEASURES, SPEED, RunRecords

# Numbers whose names begin alike share a drawing of one run.
_FAMILIES = {
    'D_loss': 'Discriminator loss',
    'D_acc': 'Discriminator accuracy',
    'lr': 'Learning rate',
    'grad_norm': 'Gradient norm',
}
_ORDER = ('G_loss', 'G_', 'D_loss', 'D_acc', 'D_', 'lr', 'grad_norm', '')
_SPREAD = 30  # from this ratio of large to small values, an axis is logarithmic
_MAX_CONTINUED = 4


def draw_validation(runs: Sequence[RunRecords]) -> str:
    """Return a drawing for each metric of validation."""
    drawings = []
    for key in _list_keys(runs, 'val'):
        if key in MEASURES:
            continue
        marks = []
        best = runs[0].best(key)
        if len(runs) == 1 and best is not None:
            marks.append((float(best.iteration), f'best {format_number(best.value)}'))
        title = _title(key)
        drawings.append(draw_curves(_collect(runs, 'val', [key], title), title, 'iteration', '', marks=marks))
    return _hold(drawings)


def draw_training(runs: Sequence[RunRecords]) -> str:
    """Return drawings of losses, accuracies, learning rates, gradient norms, what else was recorded, and speed."""
    keys = sorted((key for key in _list_keys(runs, 'train') if key != SPEED), key=_rank)
    groups: dict[str, list[str]] = {}
    for key in keys:
        family = re.sub(r'_[^_]*$', '', key)
        together = len(runs) == 1 and family in _FAMILIES
        groups.setdefault(_FAMILIES[family] if together else key, []).append(key)
    marks: list[tuple[float, str]] = []
    if len(runs) == 1:
        marks = [(float(n), 'continued') for n in sorted(set(runs[0].log.continued))[-_MAX_CONTINUED:] if n]
    drawings = [_draw_group(runs, title, members, marks) for title, members in groups.items()]
    if any(SPEED in run.keys('train') for run in runs):
        drawings.append(_draw_group(runs, 'Seconds per iteration', [SPEED], marks))
    return _hold(drawings)


def draw_measures(runs: Sequence[RunRecords]) -> str:
    """Return a drawing for each number that is measured for the health checks."""
    titles = dict(zip(MEASURES, ('Variety of the restored images', 'EMA, gain in dB'), strict=True))
    recorded = [key for key in _list_keys(runs, 'val') if key in MEASURES]
    return _hold([_draw_group(runs, titles[key], [key], [], 'val') for key in recorded])


def _draw_group(
    runs: Sequence[RunRecords],
    title: str,
    keys: Sequence[str],
    marks: Sequence[tuple[float, str]],
    phase: str = 'train',
) -> str:
    series = _collect(runs, phase, keys, title)
    log = not keys[0].startswith(('lr', 'D_acc')) and _is_spread(series)
    return draw_curves(series, title, 'iteration', 'logarithmic' if log else '', log_y=log, marks=marks)


def _collect(runs: Sequence[RunRecords], phase: str, keys: Sequence[str], title: str) -> list[Series]:
    """Return the curves of one run named after its numbers, or of several runs named after these."""
    names = dict.fromkeys(keys, title) if len(keys) == 1 else {key: key for key in keys}
    return [
        Series(names[key] if len(runs) == 1 else run.label, *run.curve(phase, key), number if len(runs) > 1 else place)
        for number, run in enumerate(runs)
        for place, key in enumerate(keys)
        if key in run.keys(phase)
    ]


def _list_keys(runs: Sequence[RunRecords], phase: str) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.keys(phase)))


def _rank(key: str) -> int:
    return next(place for place, start in enumerate(_ORDER) if key.startswith(start))


def _title(key: str) -> str:
    return key.removeprefix('val/').upper() if re.fullmatch(r'val/\w{1,6}', key) else key.removeprefix('val/')


def _is_spread(series: Sequence[Series]) -> bool:
    values = np.array([value for one in series for value in one.y if value is not None], np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return False
    low, high = np.percentile(values, (2, 98))
    return bool(high > _SPREAD * low)


def _hold(drawings: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(f"<div>{drawing}</div>" for drawing in drawings)}</div>' if drawings else ''
