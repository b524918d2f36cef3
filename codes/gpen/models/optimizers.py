"""Optimizers by name.  Each takes the parameters and the learning rate first; further arguments are options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from gpen.options.types import Betas, NonNegativeFloat, PositiveFloat, Probability
from gpen.registry import OPTIMIZER_REGISTRY

Parameters = Iterable[torch.nn.Parameter]


@OPTIMIZER_REGISTRY.register
def Adam(  # noqa: N802
    params: Parameters,
    lr: PositiveFloat = 1e-4,
    betas: Betas | None = None,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015); ``betas`` default to (0.9, 0.99).  Fused, so that a step can be skipped on the GPU."""
    first, second = betas or (0.9, 0.99)
    return torch.optim.Adam(params, lr=lr, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=True)


@OPTIMIZER_REGISTRY.register
def AdamW(  # noqa: N802
    params: Parameters,
    lr: PositiveFloat = 1e-4,
    betas: Betas | None = None,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); ``betas`` default to (0.9, 0.99)."""
    first, second = betas or (0.9, 0.99)
    return torch.optim.AdamW(params, lr=lr, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=True)


@OPTIMIZER_REGISTRY.register
def SGD(  # noqa: N802
    params: Parameters,
    lr: PositiveFloat = 1e-2,
    momentum: Probability = 0.0,
    weight_decay: NonNegativeFloat = 0.0,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def build_optimizer(options: dict[str, object], params: Parameters) -> torch.optim.Optimizer:
    """Build the optimizer that ``options['type']`` names, with the further keys as its arguments."""
    arguments = dict(options)
    optimizer: torch.optim.Optimizer = OPTIMIZER_REGISTRY.get(str(arguments.pop('type')))(params, **arguments)
    return optimizer


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state, but keep the options that the optimizer was built with (betas, weight decay, ...).

    The learning rate is the schedule's, set before each step.
    """
    options = [
        {name: value for name, value in group.items() if name not in {'params', 'lr'}}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, options, strict=True):
        group.update(values)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group['lr'] = rate


def step_if(optimizer: torch.optim.Optimizer, is_finite: torch.Tensor) -> None:
    """Step the optimizer if ``is_finite`` (a bool scalar on the device) is true; else leave everything as it is.

    A fused optimizer on a GPU decides on the device, so that the host does not wait for it.
    """
    on_device = is_finite.device.type != 'cpu' and bool(optimizer.defaults.get('fused'))
    if on_device:
        step_unless_found_inf(optimizer, is_finite)
    elif bool(is_finite):
        optimizer.step()


def step_unless_found_inf(optimizer: torch.optim.Optimizer, is_finite: torch.Tensor) -> None:
    """Step a fused optimizer through the hook that gradient scalers use, ``found_inf``: no host synchronisation."""
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = torch.logical_not(is_finite).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
