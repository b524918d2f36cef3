"""The loss scale of mixed precision in float16."""

from typing import Any, Literal

import torch
from torch import Tensor

Amp = Literal['bf16', 'fp16']

START = 2.0**16
PATIENCE = 2000
"""Finite steps after which the scale is doubled."""


class LossScale:
    """A factor on a loss that keeps small gradients within the range of float16; 1 without float16.

    It is halved after a step whose gradients are not finite, which is skipped, and doubled after :data:`PATIENCE`
    finite ones (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2).  All on the device, so that the
    host does not wait.

    Args:
        amp: the precision of the run.
        device: where it lives.
    """

    def __init__(self, amp: Amp | None, device: torch.device) -> None:
        self.is_used = amp == 'fp16'
        self.scale = torch.tensor(START if self.is_used else 1.0, device=device)
        self._finite_steps = torch.zeros((), dtype=torch.int64, device=device)

    def up(self, loss: Tensor) -> Tensor:
        """Return the loss to call ``backward`` on."""
        return loss * self.scale if self.is_used else loss

    def down(self, gradients: list[Tensor]) -> None:
        """Bring gradients back to their size, in place."""
        if self.is_used:
            torch._foreach_mul_(gradients, 1 / self.scale)

    def update(self, is_finite: Tensor) -> None:
        """Follow a step: ``is_finite`` is a bool scalar on the device."""
        if not self.is_used:
            return
        steps = torch.where(is_finite, self._finite_steps + 1, 0)
        grows = steps >= PATIENCE
        self.scale = torch.where(is_finite, torch.where(grows, self.scale * 2, self.scale), self.scale / 2)
        self._finite_steps = torch.where(grows, 0, steps)

    def ignore_overflow(self, norm: Tensor) -> Tensor:
        """Return a gradient norm, or 0 where it overflowed because the scale is too high, which is no fault."""
        return torch.where(torch.isfinite(norm) | (self.scale <= 1), norm, 0.0) if self.is_used else norm

    def state_dict(self) -> dict[str, Any]:
        """Return scale and count."""
        return {'scale': self.scale, 'finite_steps': self._finite_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a run that now uses another precision starts anew."""
        if self.is_used:
            self.scale = state['scale'].to(self.scale)
            self._finite_steps = state['finite_steps'].to(self._finite_steps)
