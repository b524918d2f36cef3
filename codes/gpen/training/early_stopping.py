"""The best validation so far, and when to stop."""

import math
from typing import Any


class EarlyStopping:
    """Follows one validation metric.

    Args:
        metric: its name, for messages.
        higher_is_better: the direction.
        patience: validations without improvement before training stops; None: never.
        min_delta: an improvement has to be larger than this to count for the patience.
        min_iter: validations before this iteration do not count for the patience.
    """

    def __init__(
        self, metric: str, higher_is_better: bool, patience: int | None, min_delta: float = 0.0, min_iter: int = 0
    ) -> None:
        self.metric = metric
        self._sign = 1.0 if higher_is_better else -1.0
        self._patience = patience
        self._min_delta = min_delta
        self._min_iter = min_iter
        self.best: float | None = None
        self.best_iteration: int | None = None
        self.waited = 0
        self._reference: float | None = None

    def update(self, value: float, iteration: int) -> bool:
        """Take in a validation; return whether it is the best so far (a value that is not finite never is)."""
        counts = iteration >= self._min_iter
        if not math.isfinite(value):
            self.waited += counts
            return False
        if self._reference is None or self._sign * (value - self._reference) > self._min_delta:
            self._reference = value
            self.waited = 0
        else:
            self.waited += counts
        if self.best is not None and self._sign * value <= self._sign * self.best:
            return False
        self.best, self.best_iteration = value, iteration
        return True

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return self._patience is not None and self.waited >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Return what the next validations depend on."""
        return {
            'metric': self.metric,
            'best': self.best,
            'best_iteration': self.best_iteration,
            'waited': self.waited,
            'reference': self._reference,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Continue from :meth:`state_dict`; return False, and start anew, where that followed another metric."""
        if state['metric'] != self.metric:
            return False
        self.best, self.best_iteration = state['best'], state['best_iteration']
        self.waited, self._reference = state['waited'], state['reference']
        return True
