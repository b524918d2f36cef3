"""The interface of a generator ready for use, whichever library runs it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpen.errors import UserError


@dataclass(frozen=True)
class Restorer:
    """A generator ready for use.

    Attributes:
        run: N x 3 x in_size x in_size in [-1, 1] on the CPU to N x 3 x size x size, nominally [-1, 1].
        size: height and width of the output in pixels; 0 where it depends on the input.
        in_size: height and width of the input in pixels; 0 where any is taken.
        backend: what runs it, such as ``PyTorch on cpu, fp32``.
    """

    run: Callable[[Tensor], Tensor]
    size: int
    in_size: int
    backend: str

    def __call__(self, lq: Tensor) -> Tensor:
        """Restore N x 3 x in_size x in_size, float32, [-1, 1]; N x 3 x size x size, float32, clamped, on the CPU.

        Raises:
            UserError: the result has values that are not finite.
        """
        restored = self.run(lq).float().cpu()
        if not torch.isfinite(restored).all():
            raise UserError(
                f'The network gave values that are no numbers ({self.backend}). Use --precision fp32 or bf16; '
                'if it stays, the weights are damaged.'
            )
        return restored.clamp(-1, 1)
