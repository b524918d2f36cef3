"""Exponential moving average (EMA) of the generator's weights."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from gpen.options.train import DEFAULT_EMA_DECAY, Train


@dataclass(frozen=True)
class EmaSchedule:
    """The decay of the EMA by iteration.

    The half-life grows from 0 to its full value, so that the first, poor weights are soon forgotten (Karras et al.
    2020, StyleGAN2-ADA, appendix D): linearly over ``ramp`` iterations, or as ``share`` of the training so far.

    Attributes:
        decay: at the full half-life, which is ln(0.5) / ln(decay) iterations.
        ramp: iterations until the half-life is full; 0: from the start.
        share: the half-life as a share of the iterations done; None: ``ramp`` counts.
    """

    decay: float
    ramp: int = 0
    share: float | None = None

    @property
    def half_life(self) -> float:
        """The full half-life in iterations."""
        return math.log(0.5) / math.log(self.decay) if self.decay > 0 else 0.0

    @property
    def ramp_end(self) -> float:
        """Iterations until the half-life is full."""
        return self.ramp if self.share is None else self.half_life / self.share

    def at(self, iteration: int) -> float:
        """Return the decay at ``iteration`` (counted from 1)."""
        if iteration >= self.ramp_end:
            return self.decay
        if self.share is not None:
            return float(0.5 ** (1 / (self.share * max(iteration, 1))))
        return float(self.decay ** (self.ramp / max(iteration, 1)))


def build_ema_schedule(train: Train, images_per_iteration: int) -> EmaSchedule:
    """Return the schedule that the options ask for.

    Args:
        train: its ``ema_*`` options.
        images_per_iteration: the batch size of all ranks together.
    """
    if train.ema_halflife_images is not None:
        decay = 0.5 ** (images_per_iteration / train.ema_halflife_images)
    else:
        decay = DEFAULT_EMA_DECAY if train.ema_decay is None else train.ema_decay
    return EmaSchedule(decay, train.ema_scheduler.total_iter, train.ema_scheduler.share)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, stepped: torch.Tensor | None = None) -> None:
    """Move the weights of ``ema`` towards those of ``network``: ema = decay * ema + (1 - decay) * network.

    Args:
        ema: the average, changed in place.
        network: the network that was just trained.
        decay: the share of the average that stays.
        stepped: a bool scalar on the device; where it is false, the average stays as it is.  It is a factor, so that
            the host does not wait for a GPU.
    """
    share = 1 - decay if stepped is None else stepped.float() * (1 - decay)
    averages: list[torch.Tensor] = list(ema.parameters())
    weights: list[torch.Tensor] = list(network.parameters())
    differences: list[torch.Tensor] = list(torch._foreach_sub(weights, averages))
    torch._foreach_mul_(differences, share)
    torch._foreach_add_(averages, differences)
    for name, buffer in network.named_buffers():  # the average alone may hold more, such as fixed noise
        ema.get_buffer(name).copy_(buffer)
