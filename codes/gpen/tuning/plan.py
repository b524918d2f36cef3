"""Which rates to try next, coarse to fine: pure functions of what was found so far.

1. Every rate with every ratio between the discriminator's rate and the generator's.
2. Where the best is the highest or the lowest of them, one further rate beyond it, at the distance of its neighbour
   (ten times at most).
3. From the best up and down in steps of 20 %, as far as its neighbours in the first two. A direction ends after two
   trials in a row that are not the best, and upwards after one whose rate is too high.
"""

from collections.abc import Mapping, Sequence
from itertools import count, takewhile

from gpen.tuning.judge import Judgement, rank
from gpen.tuning.rates import Trial, round_rate

STEP = 1.2
PATIENCE = 2
LONE_STEP = 2.0  # distance to the next rate where only one was given
MAX_STEP = 10.0
GAP = 1.1  # a fine rate nearer to a coarse one would tell the same


def next_trials(
    rates: Sequence[float], ratios: Sequence[float | None], found: Mapping[Trial, Judgement], width: int = 1
) -> list[Trial]:
    """Return the trials to do next; none when the search is done.

    Args:
        rates: of the generator, to begin with.
        ratios: of the discriminator's rate to it.
        found: the judgements so far.
        width: how many steps in each direction to ask for at a time in the fine search.
    """
    coarse = [Trial(round_rate(rate), ratio) for rate in rates for ratio in ratios]
    missing = [trial for trial in dict.fromkeys(coarse) if trial not in found]
    if missing:
        return missing

    grid = sorted({trial.rate for trial in coarse})
    best = _best(coarse, found)
    beyond = _step_beyond(grid, best)
    if beyond is not None:
        further = [Trial(beyond, best.ratio)] if best else [Trial(beyond, ratio) for ratio in dict.fromkeys(ratios)]
        missing = [trial for trial in further if trial not in found]
        if missing:
            return missing
        coarse += further
        grid = sorted({*grid, beyond})
        best = _best(coarse, found)

    return [] if best is None else _walk(grid, best, found, width)


def is_at_edge(found: Mapping[Trial, Judgement]) -> str | None:
    """Return ``higher`` or ``lower`` where the best of all has no neighbour on that side that is worse, else None."""
    best = _best(list(found), found)
    if best is None:
        return 'lower'
    others = [trial.rate for trial in found if trial != best and trial.ratio == best.ratio]
    if not any(rate > best.rate for rate in others):
        return 'higher'
    return None if any(rate < best.rate for rate in others) else 'lower'


def _best(trials: Sequence[Trial], found: Mapping[Trial, Judgement]) -> Trial | None:
    ranking = rank({trial: found[trial] for trial in trials if trial in found})
    return ranking[0] if ranking else None


def _step_beyond(grid: Sequence[float], best: Trial | None) -> float | None:
    """Return a rate outside of ``grid``, where the best lies at its edge; downwards where all are too high."""
    if best is not None and best.rate == grid[-1]:
        return round_rate(grid[-1] * _factor(grid[-2:]))
    if best is None or best.rate == grid[0]:
        return round_rate(grid[0] / _factor(grid[:2]))
    return None


def _factor(neighbours: Sequence[float]) -> float:
    return min(neighbours[1] / neighbours[0], MAX_STEP) if len(neighbours) > 1 else LONE_STEP


def _walk(grid: Sequence[float], middle: Trial, found: Mapping[Trial, Judgement], width: int) -> list[Trial]:
    """Return the next steps of 20 % up and down from the best coarse trial."""
    place = grid.index(middle.rate)
    upper = middle.rate * _factor(grid[place : place + 2] if place + 1 < len(grid) else grid[-2:])
    lower = middle.rate / _factor(grid[place - 1 : place + 1] if place else grid[:2])
    up = takewhile(lambda rate: rate * GAP < upper, (middle.rate * STEP**n for n in count(1)))
    down = takewhile(lambda rate: rate > lower * GAP, (middle.rate / STEP**n for n in count(1)))
    return [
        trial
        for rates, rising in ((up, True), (down, False))
        for trial in _continue([Trial(round_rate(rate), middle.ratio) for rate in rates], found, rising, width)
    ]


def _continue(steps: Sequence[Trial], found: Mapping[Trial, Judgement], rising: bool, width: int) -> list[Trial]:
    """Return the first steps of a direction that were not tried, unless it has ended."""
    best = _best(list(found), found)
    misses = 0
    pending: list[Trial] = []

    for trial in steps:
        if trial not in found:
            pending.append(trial)
        elif trial == best:
            misses = 0
        elif (rising and found[trial].is_too_high) or misses + 1 == PATIENCE:
            return []
        else:
            misses += 1
    return pending[:width]
