"""Verdicts on learning rates from the curves of trials: pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, linear_regression
from typing import Literal

from gpen.tuning.curves import Curves, Line
from gpen.tuning.rates import Trial, format_rate

Verdict = Literal['too high', 'could be higher', 'good']

SMOOTHING = 0.7  # share of the average that stays from record to record
RISE = 2.0  # of G: times its lowest
RISE_ADVERSARIAL = 5.0  # of G where it has no other losses, and of D: times its start
SUSTAINED = 3  # records in a row
SLOW = 0.85  # a loss that is still above this share of its start falls slowly
ROSE = 1.2  # a loss that ends above this share of its start did not fall at all
GUESSING = 0.55  # share of right judgements of a discriminator that hardly learns
BEHIND = 1.1  # times the loss that a lower rate reached
FAR_BEHIND = 1.3  # times the loss that a higher rate reached
PSNR_STEP = 0.05  # dB; less is chance in a short trial


@dataclass(frozen=True)
class Judgement:
    """The verdict on a trial.

    Attributes:
        verdict: whether the rate is good.
        reason: why, in a sentence.
        ratio: smoothed G loss at the end divided by that at the start; not a number without records.
        slope: change of the logarithm of the smoothed G loss per 100 iterations in the second half; below 0: it falls.
        psnr: the last validation's, dB; None without one.
        note: a further sentence for the user, or nothing.
    """

    verdict: Verdict
    reason: str
    ratio: float
    slope: float
    psnr: float | None
    note: str = ''

    @property
    def is_too_high(self) -> bool:
        """Whether it takes no part in the ranking."""
        return self.verdict == 'too high'

    @property
    def sentence(self) -> str:
        """Verdict, reason, numbers and note."""
        numbers = '' if self.is_too_high else _describe(self.ratio, self.slope, self.psnr)
        return ' '.join(filter(None, [f'{self.verdict}. {self.reason}', numbers, self.note]))


def find_too_high(curves: Curves) -> str | None:
    """Return why a trial need not go on, in words, or None while there is no reason.

    G or D loss is not finite, or rises fast: three records in a row lie at twice the lowest so far (G), or at five
    times the first (D, whose loss rises and falls with what G can do).
    """
    if curves.skipped:
        steps = 'a step was' if curves.skipped == 1 else f'{curves.skipped} steps were'
        return f'a loss or gradient was not finite: {steps} skipped'

    for name, line in (('G', curves.generator), ('D', curves.discriminator)):
        for iteration, value in zip(line.x, line.y, strict=True):
            if not math.isfinite(value):
                return f'{name} loss was not finite up to iteration {iteration}'

    factor = RISE_ADVERSARIAL if curves.is_adversarial else RISE
    return _find_rise('G', curves.generator, factor, from_start=curves.is_adversarial) or _find_rise(
        'D', curves.discriminator, RISE_ADVERSARIAL, from_start=True
    )


def _find_rise(name: str, line: Line, factor: float, from_start: bool) -> str | None:
    """Return a sentence about the first time that a loss stays at ``factor`` times its start, or its lowest so far."""
    smoothed = smooth(line.y)
    for end in range(SUSTAINED + 1, len(smoothed) + 1):
        before = smoothed[: end - SUSTAINED]
        reference = before[0] if from_start else min(before)
        if min(line.y[end - SUSTAINED : end]) > factor * reference:
            what = 'start' if from_start else 'lowest'
            return (
                f'{name} loss rises fast: {line.y[end - 1]:.3g} at iteration {line.x[end - 1]}, '
                f'{line.y[end - 1] / reference:.1f} times its {what} of {reference:.3g}'
            )
    return None


def judge(curves: Curves) -> Judgement:
    """Judge a trial that came to its end, or was stopped, by its own curves."""
    ratio, slope = fall_of(curves.generator), slope_of(curves.generator)
    psnr = curves.psnr.y[-1] if curves.psnr.y else None

    def conclude(verdict: Verdict, reason: str) -> Judgement:
        note = '' if verdict == 'too high' else note_guessing(curves.accuracy)
        return Judgement(verdict, reason, ratio, slope, psnr, note)

    reason = find_too_high(curves)
    if reason is not None:
        return conclude('too high', f'{reason}.')
    if not curves.generator.y:
        return conclude('could be higher', 'The trial ended before the generator learned.')
    if curves.is_adversarial:
        return conclude('good', 'No loss rises fast, and G has no other loss to go by.')
    if ratio > ROSE:
        return conclude('too high', 'G loss ends above its start.')
    if ratio > SLOW:
        return conclude('could be higher', 'G loss falls slowly.')
    return conclude('good', 'G loss falls, and no loss rises fast.')


def note_guessing(accuracy: Line) -> str:
    """Return a sentence where the discriminator hardly learns: in the second half it does little more than guess."""
    half = [value for value in accuracy.y[len(accuracy.y) // 2 :] if math.isfinite(value)]
    if not half or fmean(half) > GUESSING:
        return ''
    return (
        f'The discriminator hardly learns: it judges {fmean(half):.0%} of the images rightly, where guessing gives '
        '50%. A lower --ratio may be better.'
    )


def compare(judgements: Mapping[Trial, Judgement]) -> dict[Trial, Judgement]:
    """Return the judgements, corrected by each other.

    A loss that falls slowly, and further at a lower rate, is too high; one that falls much further at a higher rate
    could be higher.
    """
    corrected = dict(judgements)
    for trial, judgement in judgements.items():
        others = {
            other.rate: its.ratio
            for other, its in judgements.items()
            if other.ratio == trial.ratio and not its.is_too_high
        }

        lower = [rate for rate, ratio in others.items() if rate < trial.rate and ratio * BEHIND < judgement.ratio]
        higher = [rate for rate, ratio in others.items() if rate > trial.rate and ratio * FAR_BEHIND < judgement.ratio]
        if judgement.verdict == 'could be higher' and lower:
            words = f'It falls further at a lower rate, such as {format_rate(min(lower))}.'
            corrected[trial] = replace(judgement, verdict='too high', reason=f'{judgement.reason} {words}')
        elif judgement.verdict == 'good' and higher:
            best = format_rate(min(higher, key=others.__getitem__))
            words = f'G loss falls much further at a higher rate, such as {best}.'
            corrected[trial] = replace(judgement, verdict='could be higher', reason=words)
    return corrected


def rank(judgements: Mapping[Trial, Judgement]) -> list[Trial]:
    """Return the trials from the best on, those that are too high left out.

    Good ones come before those that could be higher. Then the validation PSNR counts, in steps of 0.05 dB, and then
    the slope.
    """

    corrected = compare(judgements)

    def key(trial: Trial) -> tuple[bool, float, float]:
        judgement = corrected[trial]
        psnr = -math.inf if judgement.psnr is None else round(judgement.psnr / PSNR_STEP)
        return judgement.verdict != 'good', -psnr, judgement.slope

    return sorted((trial for trial, its in corrected.items() if not its.is_too_high), key=key)


def smooth(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the logarithms, as plain numbers again."""
    smoothed: list[float] = []
    total = weight = 0.0
    for value in values:
        total = SMOOTHING * total + (1 - SMOOTHING) * math.log(max(value, 1e-12))
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        smoothed.append(math.exp(total / weight))
    return smoothed


def fall_of(line: Line) -> float:
    """Return the smoothed loss at the end divided by that at the start."""
    smoothed = smooth([value for value in line.y if math.isfinite(value)])
    return smoothed[-1] / smoothed[0] if smoothed else math.nan


def slope_of(line: Line) -> float:
    """Return the least-squares slope of the logarithm of the smoothed loss in its second half, per 100 iterations."""
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    logs = [math.log(value) for value in smooth([y for _, y in points])]
    half = len(points) // 2
    xs, ys = [x / 100 for x, _ in points[half:]], logs[half:]
    return linear_regression(xs, ys).slope if len(xs) > 1 else 0.0


def _describe(ratio: float, slope: float, psnr: float | None) -> str:
    """Return the numbers in words."""
    change = math.expm1(slope)
    way = 'falling' if change < 0 else 'rising'
    words = f'G loss is at {ratio:.0%} of its start and {way} by {abs(change):.1%} per 100 iterations'
    return f'{words}; no validation PSNR.' if psnr is None else f'{words}; validation PSNR {psnr:.2f} dB.'
