"""The learning-rate range test: one run with a rising rate (Smith 2017, "Cyclical Learning Rates", section 3.3)."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass

from gpen.errors import UserError
from gpen.tuning.curves import Curves
from gpen.tuning.display import Display
from gpen.tuning.judge import find_too_high, smooth
from gpen.tuning.rates import format_rate, round_rate
from gpen.tuning.search import RATIO, Machines
from gpen.tuning.setting import Setting, claim_folder
from gpen.tuning.trial import Job, remove_weights

RANGE = 1e-6, 1e-1
ENDING = 'lr_range_test'
NAME = 'rise'
RECORDS = 100
WINDOW = 9  # records that a slope is taken over
BELOW = 10.0  # times lower than a rate that is too high


@dataclass(frozen=True)
class Finding:
    """What a range test found; rates are the generator's, None where the curve has no such place.

    Attributes:
        rates: at each record.
        losses: smoothed G loss there.
        steepest: where it falls most by order of magnitude.
        lowest: where it is lowest.
        diverges: where it, or the discriminator's loss, rises fast or is not finite.
        recommended: where it falls most, but at most a tenth of where it diverges.
        reason: all that in words.
    """

    rates: list[float]
    losses: list[float]
    steepest: float | None
    lowest: float | None
    diverges: float | None
    recommended: float | None
    reason: str


def analyse(curves: Curves) -> Finding:
    """Find the places of a range test's curve."""
    by_iteration = dict(zip(curves.rates.x, curves.rates.y, strict=True))
    line = curves.generator
    points = [(by_iteration[x], y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    rates, losses = [rate for rate, _ in points], smooth([y for _, y in points])
    trouble = find_too_high(curves)
    diverges = max(rates, default=curves.rates.y[-1] if curves.rates.y else None) if trouble else None
    if len(points) < WINDOW:
        reason = f'The loss has only {len(points)} records: more --iterations, or a lower rate to begin with.'
        return Finding(rates, losses, None, None, diverges, None, reason)
    bottom = losses.index(min(losses))
    steepest = _find_steepest(rates, losses, bottom)
    lowest = rates[bottom]
    words = [f'It is lowest at {format_rate(lowest)}.']
    words.append(
        f'It diverges at {format_rate(diverges)}: {trouble}.'
        if diverges
        else f'It does not diverge up to {format_rate(rates[-1])}.'
    )
    if steepest is None:
        words.insert(0, 'The G loss never falls: the rates are all too low or all too high for this network.')
        return Finding(rates, losses, None, lowest, diverges, None, ' '.join(words))
    words.insert(0, f'The G loss falls most at {format_rate(steepest)}.')
    recommended = round_rate(min(steepest, diverges / BELOW) if diverges else steepest)
    return Finding(rates, losses, steepest, lowest, diverges, recommended, ' '.join(words))


def _find_steepest(rates: list[float], losses: list[float], bottom: int) -> float | None:
    """Return the rate in the middle of the window, before the lowest loss, where log loss falls most by log rate."""
    x, y = [math.log(rate) for rate in rates], [math.log(loss) for loss in losses]
    best, place = 0.0, None
    for start in range(bottom - WINDOW + 2):
        xs, ys = x[start : start + WINDOW], y[start : start + WINDOW]
        mean_x, mean_y = sum(xs) / WINDOW, sum(ys) / WINDOW
        slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(xs, ys, strict=True))
        slope /= sum((a - mean_x) ** 2 for a in xs)
        if slope < best:
            best, place = slope, rates[start + WINDOW // 2]
    return place


def run_range_test(
    setting: Setting,
    machines: Machines,
    display: Display,
    limits: tuple[float, float] = RANGE,
    ratio: float | None = None,
) -> tuple[Job, Finding | None, int]:
    """Do the run, or go on with one that was stopped.

    Args:
        setting: of the run.
        machines: where it runs.
        display: shows it.
        limits: the generator's lowest and highest rate.
        ratio: of the discriminator's rate to it; None: 4.

    Returns:
        The run, what it found (None where it was stopped), and the exit status.
    """
    from gpen.runs.experiment import lock_experiment
    from gpen.training.signals import StopRequest

    if ratio is not None and not setting.has_discriminator:
        raise UserError('--ratio: the recipe trains no discriminator (train.gan_opt is off). Leave it out.')
    low, high = limits
    rate_d = round_rate(low * (ratio or RATIO)) if setting.has_discriminator else None
    schedule = f'{{type: ExponentialRise, unit: iter, steps: {setting.iterations}, factor: {high / low!r}}}'
    changes = [
        f'train:scheduler={schedule}',
        'train:warmup_iter=0',
        f'logger:print_freq={max(1, setting.iterations // RECORDS) * setting.options.train.net_d_iters}',
    ]
    if setting.options.datasets.val is not None:
        changes.append('datasets:val=~')
    job = setting.build_job(NAME, f'G {format_rate(low)} to {format_rate(high)}', low, rate_d, changes)
    with ExitStack() as stack:
        stack.enter_context(lock_experiment(setting.folder))
        claim_folder(setting, display.say, command=list(job.command[2:]))
        workers = stack.enter_context(machines.open(setting))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(display)
        display.show(job)
        curves = job.read_curves()
        is_done = curves.rates.x[-1:] == [setting.iterations] or find_too_high(curves) is not None
        if not is_done:
            is_done = all(done for _, done in workers.run([job], find_too_high, lambda: stop.is_noted))
        stop.all_reduce()
    if is_done:
        remove_weights(job.folder)
    finding = analyse(job.read_curves()) if is_done else None
    return job, finding, stop.exit_status if stop.is_set and not is_done else 0
