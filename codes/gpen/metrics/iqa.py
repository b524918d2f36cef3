"""Metrics of the package pyiqa by their names there, such as MUSIQ and TOPIQ."""

import contextlib
import logging
from typing import Any

import torch
from torch import Tensor

from gpen.errors import UserError
from gpen.metrics import ImageMetric, MetricNotAvailableError, builds_metric
from gpen.metrics.shared import as_saved, require
from gpen.registry import METRIC_REGISTRY
from gpen.utils.text import suggest

REQUIREMENT = 'pyiqa>=0.1.10'
OF_SETS = ('fid', 'inception_score')  # what their names begin with


@METRIC_REGISTRY.register
@builds_metric
def calculate_pyiqa(device: torch.device | str, option: str, name: str) -> ImageMetric:
    """A metric of images of the package pyiqa; direction and range are those that ``pyiqa -ls`` and its pages name.

    ``musiq`` (Ke et al. 2021, about 0 to 100) and ``topiq_nr`` (Chen et al. 2024, about 0 to 1) judge the restored
    image alone, by 8-bit values, and higher is better.  pyiqa downloads weights to torch hub's cache and loads them by
    itself.

    Args:
        device: the device of the network.
        option: the name of the metric's option block in messages.
        name: its name in pyiqa.

    Returns:
        The metric.

    Raises:
        MetricNotAvailableError: pyiqa, a package that the metric needs, or its weights are missing.
        UserError: pyiqa has no such metric, or it is one of whole sets.
    """
    library = require('pyiqa', REQUIREMENT, f'The metric {name} of pyiqa')
    logging.getLogger('pyiqa').setLevel(logging.WARNING)  # it announces each network
    known = list(library.list_models())
    if name.startswith(OF_SETS) or name not in known:
        hint = ' Use calculate_fid.' if name.startswith('fid') else suggest(name, known)
        raise UserError(f'{option}.name: pyiqa has no metric of images named {name!r}.{hint}')

    network = _create(library, name, device)
    needs_gt = network.metric_mode == 'FR'

    @torch.no_grad()
    def measure(restored: Tensor, gt: Tensor | None) -> Tensor:
        pair = [restored, gt] if needs_gt and gt is not None else [restored]
        values = network(*((as_saved(images, device) + 1) / 2 for images in pair))
        return values.flatten().cpu().double()

    return ImageMetric(measure, higher_is_better=not network.lower_better, needs_gt=needs_gt)


def _create(library: Any, name: str, device: torch.device | str) -> Any:
    """Build a metric of pyiqa, whatever may be missing for it."""
    try:
        with contextlib.redirect_stdout(None):
            return library.create_metric(name, device=torch.device(device))
    except (ImportError, KeyError, OSError) as error:  # no such package; pyiqa left it out for want of one; no network
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise MetricNotAvailableError(
            f'The metric {name} of pyiqa could not be built, for want of a package or of weights that pyiqa downloads '
            f"({reason}). Install pyiqa with all that it needs (pip install '{REQUIREMENT}'), and start once with a "
            'network.',
            f'what {name} of pyiqa needs',
        ) from error
