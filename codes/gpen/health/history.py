"""The course of a run as the health rules see it: a curve for each number in ``metrics.jsonl``."""

import math
from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpen.options.schema import Options

SMALLEST_WINDOW = 10
"""Training records that a mean is taken over; fewer are too noisy."""
ABOUT = {'iter', 'epoch', 'phase', 'seconds_per_iter'}
"""Keys of a record that are not judged."""


class Curve:
    """One number over a run; values that are not finite are left out."""

    def __init__(self) -> None:
        self.iterations = array('q')
        self._values = array('d')

    def __len__(self) -> int:
        return len(self._values)

    def add(self, iteration: int, value: float) -> None:
        """Append a value."""
        self.iterations.append(iteration)
        self._values.append(value)

    @property
    def values(self) -> NDArray[np.float64]:
        """All values, oldest first (a copy)."""
        return np.array(self._values)

    def last(self, count: int) -> NDArray[np.float64]:
        """Return the last ``count`` values (a copy), or all where there are fewer."""
        return np.array(self._values[-count:])

    def mean(self, count: int) -> float:
        """Return the mean of the last ``count`` values."""
        return float(self.last(count).mean())

    def means(self, count: int) -> NDArray[np.float64]:
        """Return the moving means over ``count`` values: len - count + 1 of them, or none."""
        if len(self) < count:
            return np.empty(0)
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        return (sums[count:] - sums[:-count]) / count


NOTHING = Curve()


class History:
    """The records of a run so far, by name.

    Args:
        options: of the run.
        total_iterations: its last iteration.
        rate_at: returns the learning rates ``{'g': ..., 'd': ...}`` of an iteration.
    """

    def __init__(self, options: Options, total_iterations: int, rate_at: Callable[[int], Mapping[str, float]]) -> None:
        self.options = options
        self.total_iterations = total_iterations
        self.rate_at = rate_at
        self.iteration = 0
        self.train_records = 0
        self._curves: dict[str, Curve] = {}

    @property
    def expected_records(self) -> int:
        """The number of training records that the whole run makes."""
        return max(1, self.total_iterations // self.options.logger.print_freq)

    @property
    def window(self) -> int:
        """Training records that a mean is taken over: a twentieth of the run, but at least 10."""
        return max(SMALLEST_WINDOW, self.expected_records // 20)

    @property
    def done(self) -> float:
        """The share of the run that is done, 0 to 1."""
        return self.iteration / self.total_iterations

    def curve(self, name: str) -> Curve:
        """Return a curve, such as ``G_loss_pixel`` or ``val/psnr``; an empty one where there is none of that name."""
        return self._curves.get(name, NOTHING)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record of ``metrics.jsonl``; records of other phases than ``train`` and ``val`` are ignored."""
        if record['phase'] not in ('train', 'val'):
            return
        self.iteration = record['iter']
        self.train_records += record['phase'] == 'train'
        for name, value in record.items():
            if name not in ABOUT and isinstance(value, int | float) and math.isfinite(value):
                self._curves.setdefault(name, Curve()).add(self.iteration, value)
