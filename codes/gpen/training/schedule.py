"""Learning rates as a pure function of the iteration: nothing to save, nothing to restore."""

import math
from bisect import bisect_right
from typing import Any

from gpen.errors import UserError
from gpen.options.remarks import schedule_unit
from gpen.options.schema import Options
from gpen.options.types import LARGEST_FLOAT, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from gpen.registry import SCHEDULER_REGISTRY


@SCHEDULER_REGISTRY.register
class MultiStepLR:
    """The learning rate times ``gamma`` at each milestone.

    Args:
        milestones: epochs or iterations (``unit``) after which the rate drops.
        gamma: the factor.
    """

    def __init__(self, milestones: list[NonNegativeInt], gamma: PositiveFloat = 0.1) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma

    def rate(self, lr: float, position: int) -> float:
        """Return the rate after ``position`` whole epochs or iterations."""
        return float(lr * self.gamma ** bisect_right(self.milestones, position))


@SCHEDULER_REGISTRY.register
class CosineAnnealingLR:
    """Half a cosine from the learning rate to ``eta_min`` (Loshchilov and Hutter 2017, equation 5, no restart).

    Args:
        T_max: epochs or iterations until ``eta_min`` is reached; it stays there.
        eta_min: the last learning rate.
    """

    def __init__(self, T_max: PositiveInt, eta_min: NonNegativeFloat = 0.0) -> None:  # noqa: N803
        self.period = T_max
        self.eta_min = eta_min

    def rate(self, lr: float, position: int) -> float:
        """Return the rate after ``position`` whole epochs or iterations."""
        done = min(position / self.period, 1.0)
        return self.eta_min + (lr - self.eta_min) * (1 + math.cos(math.pi * done)) / 2


@SCHEDULER_REGISTRY.register
class CosineAnnealingRestartLR:
    """Cosine annealing with restarts, with BasicSR's arguments.

    Args:
        periods: length of each cycle, in epochs or iterations.
        restart_weights: factor of the learning rate at the start of each cycle; default 1 each.
        eta_min: the learning rate at the end of each cycle.
    """

    def __init__(
        self,
        periods: list[PositiveInt],
        restart_weights: list[PositiveFloat] | None = None,
        eta_min: NonNegativeFloat = 0.0,
    ) -> None:
        self.weights = restart_weights or [1.0] * len(periods)
        if len(self.weights) != len(periods) or not periods:
            raise UserError(
                f'train.scheduler: {len(periods)} periods and {len(self.weights)} restart_weights. '
                'Give one weight a period.'
            )
        self.cycles = [CosineAnnealingLR(period, eta_min) for period in periods]

    def rate(self, lr: float, position: int) -> float:
        """Return the rate after ``position`` whole epochs or iterations."""
        for cycle, weight in zip(self.cycles, self.weights, strict=True):
            if position < cycle.period:
                return cycle.eta_min + weight * (cycle.rate(lr, position) - cycle.eta_min)
            position -= cycle.period
        return self.cycles[-1].eta_min


class LearningRates:
    """Warm-up and schedule of both optimizers.

    In the warm-up the rate rises linearly from ``base_lr`` to each optimizer's ``lr``, from iteration to iteration;
    after it, the scheduler decides, by epochs or by iterations.  The rate of a parameter group keeps its ratio to that
    of its optimizer throughout.

    Args:
        options: checked options.
        iterations_per_epoch: training steps in an epoch.

    Attributes:
        warmup: iterations of the warm-up.
    """

    def __init__(self, options: Options, iterations_per_epoch: int) -> None:
        train = options.train
        self._iterations_per_epoch = iterations_per_epoch
        self._optimizers = {'g': train.optim_g, 'd': train.optim_d}
        self._base = train.base_lr
        self.warmup = train.warmup_epochs * iterations_per_epoch or max(train.warmup_iter, 0)
        self._by_epoch = schedule_unit(options) == 'epoch'
        self._scheduler: Any = None
        if train.scheduler is not None:
            self._scheduler = SCHEDULER_REGISTRY.get(train.scheduler.type)(**train.scheduler.arguments)

    def at(self, iteration: int) -> dict[str, float]:
        """Return the learning rates of ``iteration`` (counted from 1): ``g``, ``d``, and ``g_NAME`` of groups."""
        rates = {}
        for letter, optimizer in self._optimizers.items():
            rate = self._at(optimizer.lr, iteration - 1)
            if rate > LARGEST_FLOAT:
                raise UserError(f'train.scheduler: the rate of iteration {iteration} is {rate:.0e}. Make it smaller.')
            rates[letter] = rate
            rates |= {
                f'{letter}_{name}': group.lr * (rate / optimizer.lr) for name, group in optimizer.param_groups.items()
            }
        return rates

    def _at(self, rate: float, done: int) -> float:
        """Return an optimizer's learning rate after ``done`` iterations."""
        if done < self.warmup:
            return self._base + (rate - self._base) * (done / self.warmup)
        position = done // self._iterations_per_epoch if self._by_epoch else done
        return rate if self._scheduler is None else float(self._scheduler.rate(rate, position))
