"""The points of a curve: cleaned, smoothed, thinned, and the ticks of its axes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

MIN_NOISY = 30  # shorter curves are never smoothed
MAX_PLAIN = 1e6  # from here on, a number is written with an exponent


def clean(x: Sequence[float | None], y: Sequence[float | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, sorted by ``x``; what is not finite is NaN in ``y``, and dropped in ``x``."""
    xs, ys = np.array(x, np.float64), np.array(y, np.float64)  # None becomes NaN
    ys[~np.isfinite(ys)] = math.nan
    known = np.isfinite(xs)
    xs, ys = xs[known], ys[known]
    order = np.argsort(xs, kind='stable')
    return xs[order], ys[order]


def is_noisy(y: np.ndarray) -> bool:
    """Whether a curve goes up and down so much that a smoothed line helps to read it."""
    finite = y[np.isfinite(y)]
    if len(finite) < MIN_NOISY:
        return False
    steps = np.diff(finite)
    turns = np.mean(steps[1:] * steps[:-1] < 0)
    return bool(turns > 1 / 3 and np.median(np.abs(steps)) > np.ptp(finite) / 200)


def smooth(y: np.ndarray) -> np.ndarray:
    """Return a moving mean with triangular weights over about a twelfth of the curve; NaNs stay where they are."""
    reach = max(2, len(y) // 25)
    weights = reach + 1 - np.abs(np.arange(-reach, reach + 1))
    known = np.isfinite(y)
    total = np.convolve(np.where(known, y, 0.0), weights)[reach:-reach]
    count = np.convolve(known.astype(np.float64), weights)[reach:-reach]
    return np.where(known, total / np.maximum(count, 1), math.nan)


def thin(y: np.ndarray, limit: int) -> np.ndarray:
    """Return the indices of about ``limit`` points that keep the extremes, the ends and the gaps of a curve."""
    if len(y) <= limit:
        return np.arange(len(y))

    # The lowest and the highest point of each bucket, and its first gap.
    kept = {0, len(y) - 1}
    edges = np.linspace(0, len(y), max(limit // (3 if np.isnan(y).any() else 2), 1) + 1).astype(int)
    for start, end in pairwise(edges.tolist()):
        part = y[start:end]
        missing = np.isnan(part)
        if missing.any():
            kept.add(start + int(np.argmax(missing)))
        if not missing.all():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
    return np.array(sorted(kept))


def choose_ticks(low: float, high: float, log: bool, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``; for a logarithmic axis, ``low`` is above 0."""
    if log:
        ticks = _log_ticks(low, high, count)
        if len(ticks) > 1:
            return ticks
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return powers of ten; only some of them if there are many, and numbers between them if there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / (count + 1)) or 1]


def format_number(value: float, digits: int = 4) -> str:
    """Return a number for people: ``1,600``, ``0.0743``, ``2.9e-5``."""
    if not math.isfinite(value):
        return 'not finite'
    if abs(value) < MAX_PLAIN and (value == int(value) or abs(value) >= 10**digits):
        return f'{value:,.0f}'
    return re.sub(r'e\+?(-?)0*', r'e\1', f'{value:,.{digits}g}')
