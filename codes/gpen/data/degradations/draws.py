"""Random choices that several degradations share."""

from collections.abc import Sequence

import numpy as np

from gpen.errors import UserError


def draw_between(generator: np.random.Generator, limits: Sequence[float]) -> float:
    """Return a number from the uniform distribution between two limits."""
    return generator.uniform(limits[0], limits[1])


def draw_integer(generator: np.random.Generator, limits: Sequence[float]) -> int:
    """Return a whole number between two limits, which are rounded and included; all are equally likely."""
    return int(generator.integers(round(limits[0]), round(limits[1]) + 1))


def draw_chance(generator: np.random.Generator, probability: float | None) -> bool:
    """Return True with this probability; nothing is drawn from the generator for 0 or None."""
    return probability is not None and probability > 0 and generator.random() < probability


def draw_index(generator: np.random.Generator, shares: Sequence[float], count: int, option: str) -> int:
    """Return an index below ``count``, with probabilities in proportion to ``shares``.

    Raises:
        UserError: there are not ``count`` shares, or they add up to nothing; ``option`` is their name.
    """
    if len(shares) != count or not sum(shares) > 0:
        raise UserError(f'{option} is {list(shares)}; it needs {count} numbers, at least one of them above 0.')
    return int(generator.choice(count, p=np.asarray(shares, np.float64) / sum(shares)))


def check_above_zero(limits: Sequence[float], option: str) -> None:
    """Check that a number drawn between two limits can be divided by.

    Raises:
        UserError: the lower limit is 0; ``option`` is the name of the limits.
    """
    if limits[0] <= 0:
        raise UserError(f'{option} is {list(limits)}; its numbers must be above 0.')
