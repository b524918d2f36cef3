"""Metrics by name: each compares a batch of restored images with the sharp ones and gives a number per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from gpen.errors import UserError
from gpen.registry import METRIC_REGISTRY

if TYPE_CHECKING:
    from torch import Tensor

Function = TypeVar('Function', bound=Callable[..., Any])

_LOWER_IN_BASICSR = ('calculate_niqe',)


def higher_is_better(function: Function) -> Function:
    """Mark a metric of which more is better, as for a metric without a mark (a decorator)."""
    vars(function)['higher_is_better'] = True
    return function


def lower_is_better(function: Function) -> Function:
    """Mark a metric, such as a distance, of which less is better (a decorator, below the registry's)."""
    vars(function)['higher_is_better'] = False
    return function


@dataclass(frozen=True)
class Metric:
    """A metric with its options: ``metric(restored, target)``, N x 3 x H x W in [-1, 1] each, gives N values."""

    name: str
    function: Callable[..., Tensor]
    higher_is_better: bool
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, restored: Tensor, target: Tensor) -> Tensor:
        """Return the metric of each image."""
        return self.function(restored, target, **self.options)


def build_metric(options: Mapping[str, Any]) -> Metric:
    """Build a metric from a block such as ``{'type': 'calculate_psnr', 'crop_border': 4}``.

    Args:
        options: ``type``, and the arguments of the metric that it names; left unchanged.

    Raises:
        UserError: there is no such metric.
    """
    arguments = dict(options)
    name = arguments.pop('type', None)
    if not isinstance(name, str):
        raise UserError(f'A metric block needs "type: NAME" ({METRIC_REGISTRY.explain_missing(str(name))})')
    function = METRIC_REGISTRY.get(name)
    better = bool(getattr(function, 'higher_is_better', name not in _LOWER_IN_BASICSR))
    return Metric(name, function, better, arguments)
