"""Which numbers of a run, or of several, are drawn together, and how."""

import re
from collections.abc import Sequence

import numpy as np

from gpen.reporting.curves import Series, arrange, draw_curves
from gpen.reporting.recorded_run import MEASURES, SPEED, RecordedRun
from gpen.utils.text import format_number

# Numbers whose names begin alike share a drawing of one run.
_FAMILIES = {
    'D_loss': 'Discriminator loss',
    'D_loss_component': 'Component discriminators',
    'G_loss_component': 'Component losses',
    'D_acc': 'Discriminator accuracy',
    'lr': 'Learning rate',
    'grad_norm': 'Gradient norm',
}
_LAST_WORD = re.compile(r'(?<=_component)_.*|_(d_components|[^_]*)$')
_ORDER = ('G_loss', 'G_', 'D_loss', 'D_acc', 'D_', 'lr', 'grad_norm', '')
_TITLES = dict(
    zip(
        MEASURES,
        ('Variety of the restored images', 'EMA, gain in dB', 'Sharpness, of that of the sharp images'),
        strict=True,
    )
)
_LINEAR = ('lr', 'D_acc')
_SPREAD = 30  # from this ratio of large to small values on, an axis is logarithmic
_MAX_RESUMES = 4

Marks = Sequence[tuple[float, str]]


def draw_validation(runs: Sequence[RecordedRun]) -> str:
    """Return a drawing for each metric of validation."""
    drawings = []
    for key in _list_keys(runs, 'val'):
        best = runs[0].best(key) if len(runs) == 1 else None
        marks = [(float(best.iteration), f'best {format_number(best.value)}')] if best else []
        name = key.removeprefix('val/')
        title = name.upper() if re.fullmatch(r'\w{1,6}', name) and key != name else name
        if any(key in run.scores for run in runs):
            drawings.append(_draw(runs, 'val', [key], title, marks, can_be_log=False))
    return arrange(drawings)


def draw_training(runs: Sequence[RecordedRun]) -> str:
    """Return drawings of losses, accuracies, learning rates, gradient norms, what else was recorded, and speed."""
    keys = sorted((key for key in _list_keys(runs, 'train') if key != SPEED), key=_rank)
    groups: dict[str, list[str]] = {}
    for key in keys:
        family = _FAMILIES.get(_LAST_WORD.sub('', key), key) if len(runs) == 1 else key
        groups.setdefault(family, []).append(key)
    if SPEED in _list_keys(runs, 'train'):
        groups['Seconds per iteration'] = [SPEED]

    resumes = runs[0].resumed_at[-_MAX_RESUMES:] if len(runs) == 1 else []
    marks = [(float(iteration), 'continued') for iteration in resumes if iteration]
    return arrange([_draw(runs, 'train', members, title, marks) for title, members in groups.items()])


def draw_measures(runs: Sequence[RecordedRun]) -> str:
    """Return a drawing for each number that is measured for the health rules."""
    return arrange([_draw(runs, 'val', [key], _TITLES[key]) for key in _list_measures(runs)])


def _draw(
    runs: Sequence[RecordedRun], phase: str, keys: Sequence[str], title: str, marks: Marks = (), can_be_log: bool = True
) -> str:
    """Draw numbers of one run, or a number of several runs, each in the colour of its run."""
    series = []
    for number, run in enumerate(runs):
        for place, key in enumerate(keys):
            if key in run.keys(phase):
                name = run.label if len(runs) > 1 else title if len(keys) == 1 else key
                series.append(Series(name, *run.curve(phase, key), number if len(runs) > 1 else place))
    log = can_be_log and not keys[0].startswith(_LINEAR) and _is_spread(series)
    return draw_curves(series, title, 'iteration', 'logarithmic' if log else '', log_y=log, marks=marks)


def _list_measures(runs: Sequence[RecordedRun]) -> list[str]:
    scores = {key for run in runs for key in run.scores}
    return [key for key in _list_keys(runs, 'val') if key in MEASURES and key not in scores]


def _list_keys(runs: Sequence[RecordedRun], phase: str) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.keys(phase)))


def _rank(key: str) -> int:
    return next(place for place, start in enumerate(_ORDER) if key.startswith(start))


def _is_spread(series: Sequence[Series]) -> bool:
    values = np.array([value for one in series for value in one.y], np.float64)
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return False
    low, high = np.percentile(values, (2, 98))
    return bool(high > _SPREAD * low)
