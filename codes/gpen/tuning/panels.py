"""The drawings of a report: what each shows, for the page and for the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpen.reporting.curves import Series, draw_curves
from gpen.tuning.curves import Curves, Line
from gpen.tuning.judge import Judgement
from gpen.tuning.plan import Trial
from gpen.tuning.range_test import Finding
from gpen.tuning.rates import format_rate, round_rate


@dataclass(frozen=True)
class Panel:
    """A drawing; see :func:`gpen.reporting.curves.draw_curves`."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    marks: tuple[tuple[float, str], ...] = ()

    def to_svg(self) -> str:
        """Return it for a page."""
        return draw_curves(
            self.series, self.title, self.x_label, self.y_label, log_y=self.log_y, log_x=self.log_x, marks=self.marks
        )


def draw_search(
    trials: Sequence[Trial], curves: Mapping[Trial, Curves], judgements: Mapping[Trial, Judgement], best: Trial | None
) -> list[Panel]:
    """Return the drawings of a search: the losses, the validation PSNR, and that by rate."""
    content = (
        'without those against the discriminator'
        if not any(one.is_adversarial for one in curves.values())
        else 'adversarial'
    )

    def lines(attribute: str) -> tuple[Series, ...]:
        found: list[Series] = []
        for number, trial in enumerate(trials):
            line: Line = getattr(curves[trial], attribute)
            if line.y:
                found.append(Series(trial.label, line.x, line.y, number))
        return tuple(found)

    panels = [
        Panel('Generator loss', 'iteration', f'{content}, logarithmic', lines('generator'), log_y=True),
        Panel('Discriminator loss', 'iteration', 'sharp + restored, logarithmic', lines('discriminator'), log_y=True),
        Panel('Validation PSNR', 'iteration', 'dB', lines('psnr')),
    ]
    ratios = list(dict.fromkeys(trial.ratio for trial in trials))
    by_rate = []
    for ratio in ratios:
        points = sorted(
            (t.rate, its.psnr) for t, its in judgements.items() if t.ratio == ratio and its.psnr is not None
        )
        if points:
            name = 'all trials' if ratio is None else f'D = {ratio:g} x G'
            by_rate.append(Series(name, [x for x, _ in points], [y for _, y in points]))
    marks = ((best.rate, f'best: {format_rate(best.rate)}'),) if best else ()
    panels.append(
        Panel('PSNR by rate', "generator's learning rate", 'dB, last validation', tuple(by_rate), True, marks=marks)
    )
    return [panel for panel in panels if panel.series]


def draw_range_test(finding: Finding, curves: Curves) -> list[Panel]:
    """Return the drawings of a range test: the losses by rate."""
    is_steepest = finding.steepest is not None and finding.recommended == round_rate(finding.steepest)
    places = (
        (finding.recommended, 'use'),
        (None if is_steepest else finding.steepest, 'steepest'),
        (finding.lowest, 'lowest'),
        (finding.diverges, 'diverges'),
    )
    marks = tuple((rate, words) for rate, words in places if rate is not None)
    label = "generator's learning rate"
    series = (Series('smoothed', finding.rates, finding.losses),)
    panels = [Panel('Generator loss by rate', label, 'logarithmic', series, True, True, marks)]
    rates = dict(zip(curves.rates.x, curves.rates.y, strict=True))
    line = curves.discriminator
    if line.y:
        series = (Series('D loss', [rates[x] for x in line.x], line.y),)
        panels.append(Panel('Discriminator loss by rate', label, 'sharp + restored, logarithmic', series, True, True))
    return panels
