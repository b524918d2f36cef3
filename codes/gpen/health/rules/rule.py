"""What the rules share: what a rule is, thresholds, and how numbers and lengths are written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpen.health.history import History
from gpen.options.schema import Options

VALIDATIONS = 3
"""Validations that a mean is taken over."""


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: of its finding.
        severity: ``warning`` where the run is being spoilt, ``note`` where it could do better.
        check: returns what was seen and what to do about it, or None.
    """

    name: str
    severity: str
    check: Callable[[History], str | None]


def rate_will_fall(history: History) -> bool:
    """Whether the schedule will bring the generator's rate below half of what it is."""
    return future_rate(history, min) < 0.5 * history.rate_at(history.iteration)['g']


def future_rate(history: History, choose: Callable[[Iterator[float]], float]) -> float:
    """Return the lowest or highest of 20 learning rates from here to the end of the run."""
    left = history.total_iterations - history.iteration
    return choose(history.rate_at(history.iteration + max(1, round(left * step / 20)))['g'] for step in range(1, 21))


def length_of_run(options: Options) -> int:
    """Return the length of the run in the unit that the options use: epochs or iterations."""
    return options.train.total_epochs or options.train.total_iter or 1


def show(value: float) -> str:
    """Return a number with two digits."""
    return f'{value:.2g}'
