"""Exponential moving average (EMA) of the generator's weights."""

from __future__ import annotations

import torch
from torch import nn


def ema_decay_at(iteration: int, decay: float, rampup_iter: int) -> float:
    """Return the decay at ``iteration`` (counted from 1).

    The half-life, ln(0.5) / ln(decay) iterations, grows linearly from 0 to its full value over ``rampup_iter``
    iterations, so that the first, poor weights are soon forgotten (Karras et al. 2020, StyleGAN2-ADA, appendix D).
    """
    if decay == 0 or iteration >= rampup_iter:
        return decay
    return float(decay ** (rampup_iter / max(iteration, 1)))


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the weights of ``ema`` towards those of ``network``: ema = decay * ema + (1 - decay) * network."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for average, buffer in zip(ema.buffers(), network.buffers(), strict=True):
        average.copy_(buffer)
