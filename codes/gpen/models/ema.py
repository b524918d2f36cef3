"""Exponential moving average (EMA) of the generator's weights."""

from __future__ import annotations

import torch
from torch import nn


def ema_decay_at(iteration: int, decay: float, rampup_iter: int) -> float:
    """Return the decay at ``iteration`` (counted from 1).

    The half-life, ln(0.5) / ln(decay) iterations, grows linearly from 0 to its full value over ``rampup_iter``
    iterations, so that the first, poor weights are soon forgotten (Karras et al. 2020, StyleGAN2-ADA, appendix D).
    """
    if iteration >= rampup_iter:
        return decay
    return float(decay ** (rampup_iter / max(iteration, 1)))


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, stepped: torch.Tensor | None = None) -> None:
    """Move the weights of ``ema`` towards those of ``network``: ema = decay * ema + (1 - decay) * network.

    Args:
        ema: the average, changed in place.
        network: the network that was just trained.
        decay: the share of the average that stays.
        stepped: a bool scalar on the device; where it is false, the average stays as it is.  A GPU decides by itself,
            so that the host does not wait.
    """
    averages: list[torch.Tensor] = list(ema.parameters())
    weights: list[torch.Tensor] = list(network.parameters())
    if stepped is None or (stepped.device.type == 'cpu' and bool(stepped)):
        torch._foreach_lerp_(averages, weights, 1 - decay)
    elif stepped.device.type != 'cpu':
        move_towards(averages, weights, stepped.float() * (1 - decay))
    for name, buffer in network.named_buffers():  # the average alone may hold more, such as fixed noise
        ema.get_buffer(name).copy_(buffer)


def move_towards(averages: list[torch.Tensor], weights: list[torch.Tensor], share: torch.Tensor) -> None:
    """Add ``share`` (a scalar on the device) of the way to ``weights`` to ``averages``, in place."""
    differences = list(torch._foreach_sub(weights, averages))
    torch._foreach_mul_(differences, share)
    torch._foreach_add_(averages, differences)
