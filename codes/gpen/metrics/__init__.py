"""Metrics by name: how good restored images are, one by one or as a set.

A registered metric is one of two things:

- a function ``calculate_NAME(restored, gt, ...options)`` of two batches, N x 3 x H x W in [-1, 1], that returns N
  values; it is marked with :func:`lower_is_better` if lower is better, and with :func:`needs_no_gt` if it judges the
  restored images alone, so that ``gt`` may be None;
- if a network has to be loaded first, a function ``calculate_NAME(device, option, ...options)`` that is marked with
  :func:`builds_metric` and returns an :class:`ImageMetric` or a :class:`SetMetric`.

This room imports losses, weights, data and rooms below; evaluation, health, training and everything above may import
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gpen.errors import UserError
from gpen.registry import METRIC_REGISTRY

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gpen.options.blocks import Metric as MetricOptions

Function = TypeVar('Function', bound=Callable[..., Any])


class MetricNotAvailableError(UserError):
    """The weights or the package of a metric are missing.

    Attributes:
        missing: what is missing in a few words, such as the name of the weight file.
    """

    def __init__(self, message: str, missing: str) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class ImageMetric:
    """A number per image: ``metric(restored, gt)``, N x 3 x H x W in [-1, 1] each, returns N values.

    A value is NaN where the metric is not defined for the image.

    Attributes:
        function: computes it.
        higher_is_better: its direction.
        needs_gt: false: it judges ``restored`` alone, and ``gt`` may be None.
    """

    function: Callable[[Tensor, Any], Tensor]
    higher_is_better: bool
    needs_gt: bool = True

    def __call__(self, restored: Tensor, gt: Tensor | None) -> Tensor:
        """Return the metric of each image."""
        return self.function(restored, gt)


class SetMetric(ABC):
    """One number for a whole set: ``start()``, ``update(...)`` with each batch, ``gather()``, ``compute()``.

    Attributes:
        higher_is_better: the direction of the metric.
        needs_gt: false: it does without GT images, and ``gt`` may be None.
    """

    higher_is_better: bool
    needs_gt: bool = True

    @abstractmethod
    def start(self) -> None:
        """Discard all images."""

    @abstractmethod
    def update(self, restored: Tensor, gt: Any) -> None:
        """Add two batches, N x 3 x H x W in [-1, 1]; ``gt`` may be None only where ``needs_gt`` is false."""

    def gather(self) -> None:
        """Add the images of the other ranks, before :meth:`compute`; a no-op with one process.

        Raises:
            UserError: there are several ranks, and this metric does not support that.
        """
        from gpen.distributed.ranks import world_size

        if world_size() > 1:
            raise UserError(
                f'{type(self).__name__} cannot be shared out to several processes. Leave it out of val.metrics.'
            )

    @abstractmethod
    def compute(self) -> float:
        """Return the metric of the images since :meth:`start`; NaN if there are too few."""

    def explain(self) -> str | None:
        """Return a sentence about the reliability of the number, or None if there is nothing to say."""
        return None


Metric = ImageMetric | SetMetric


def lower_is_better(function: Function) -> Function:
    """Mark a metric, such as a distance, as better when lower (a decorator, below the registry's)."""
    vars(function)['higher_is_better'] = False
    return function


def needs_no_gt(function: Function) -> Function:
    """Mark a metric that judges the restored images alone (a decorator, below the registry's)."""
    vars(function)['needs_gt'] = False
    return function


def builds_metric(function: Function) -> Function:
    """Mark a function that builds a metric; it is called with the device and the name of its option block.

    The name is for messages, such as ``val.metrics.fid``.
    """
    vars(function)['builds_metric'] = True
    return function


def build_metric(
    options: Mapping[str, Any], device: torch.device | str = 'cpu', option: str = 'the block of the metric'
) -> Metric:
    """Build a metric from a block such as ``{'type': 'calculate_psnr', 'crop_border': 4}``.

    Args:
        options: ``type``, and the arguments of the metric that it names; left unchanged.
        device: the device of the metric's network, if it has one.
        option: the name of the block in messages.

    Raises:
        UserError: there is no such metric, or a weight file is not what it should be.
        MetricNotAvailableError: its weights or a package are missing.
    """
    arguments = dict(options)
    name = arguments.pop('type', None)
    if not isinstance(name, str):
        raise UserError(f'A metric block needs "type: NAME" ({METRIC_REGISTRY.explain_missing(str(name))})')

    function = METRIC_REGISTRY.get(name)
    if getattr(function, 'builds_metric', False):
        return function(device, option, **arguments)
    higher, needs_gt = (bool(getattr(function, name, True)) for name in ('higher_is_better', 'needs_gt'))
    return ImageMetric(partial(function, **arguments), higher, needs_gt)


def build_metrics(
    blocks: Mapping[str, MetricOptions], device: torch.device | str = 'cpu'
) -> tuple[dict[str, Metric], dict[str, MetricNotAvailableError]]:
    """Build the metrics of an option file, its blocks ``val.metrics``.

    Args:
        blocks: by name.
        device: see :func:`build_metric`.

    Returns:
        The metrics by name, and an error for each ``optional`` metric that is missing.

    Raises:
        UserError: as :func:`build_metric`, for a metric that is not ``optional``.
    """
    metrics: dict[str, Metric] = {}
    missing: dict[str, MetricNotAvailableError] = {}

    for name, block in blocks.items():
        place = f'val.metrics.{name}'
        try:
            metrics[name] = build_metric(block.to_dict(), device, place)
        except MetricNotAvailableError as error:
            if not block.optional:
                raise UserError(f'{place}: {error} To go on without it, set {place}.optional to true.') from error
            missing[name] = error
    return metrics, missing
