"""The gradients of a network, averaged over the ranks while the backward pass still runs.

torch's DistributedDataParallel does not fit these training steps (torch 2.14).  It averages the gradients of the first
backward pass after each of its forward passes alone: that of a penalty which is clipped apart from the loss stays that
of one rank.  Without ``find_unused_parameters`` it changes its buckets after the first step, so that a resumed run of
four ranks sums in another order than one that was not interrupted.  With it, the host waits for the GPU in each
step that leaves a parameter out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist

from gpen.distributed import ranks
from gpen.errors import UserError
from gpen.utils.device import DTYPES

BUCKET = 25 * 2**20
"""Bytes of the gradients that one all-reduce takes; a single larger gradient has one of its own."""


class Gradients:
    """The gradients of a network's parameters, which :meth:`backward` computes; their means over all ranks.

    The gradients are put into buckets.  As soon as all of a bucket are computed, its all-reduce starts, and the
    backward pass goes on beside it.  Which gradient is in which bucket depends on the network alone, so a resumed run
    sums in the same order; all ranks reduce the buckets in one order, whatever parameters each has used.

    Args:
        network: those of its parameters that require gradients now are meant.
        compression: what gradients are rounded to on their way between ranks; None: they are sent as they are.
    """

    def __init__(self, network: nn.Module, compression: Literal['bf16', 'fp16'] | None = None) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._compression = None if compression is None else DTYPES[compression]
        if ranks.world_size() == 1:
            return

        # Backward passes come to the last layers first.
        self._buckets = _fill_buckets(self._parameters[::-1])
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._note, number))
        self._is_running = False
        self._noted: set[nn.Parameter] = set()
        self._complete: dict[int, None] = {}  # in the order in which they were completed
        self._order: list[int] = []  # in which buckets are reduced; empty until the first backward pass has shown it
        self._sent: dict[int, tuple[list[Tensor], Any]] = {}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Average the gradients over the ranks that the backward pass in this block adds to those that are there.

        Each rank has the loss of its share of the batch.

        Raises:
            UserError: a parameter got a gradient twice, in parts.
        """
        if ranks.world_size() == 1:
            yield
            return
        self._noted.clear()
        self._complete.clear()
        self._is_running = True
        yield
        self._is_running = False
        self._finish()

    def found(self) -> list[Tensor]:
        """Return the gradients of the parameters that any rank has used, in the order of the network."""
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _note(self, number: int, parameter: nn.Parameter) -> None:
        """Note that a gradient of a bucket is computed; send the buckets whose turn it is."""
        if not self._is_running:
            return
        if parameter in self._noted:
            raise UserError(
                'A parameter gets its gradient in several parts, which training with several processes does not '
                'support. Call torch.utils.checkpoint with use_reentrant=False.'
            )
        self._noted.add(parameter)
        if self._noted.issuperset(self._buckets[number]):
            self._complete[number] = None
        for other in self._order[len(self._sent) :]:
            if other not in self._complete:
                return
            self._send(other)

    @torch.no_grad()
    def _send(self, number: int) -> None:
        """Start the all-reduce of a bucket, with zeros for gradients that are not there."""
        bucket = self._buckets[number]
        sizes = [parameter.numel() for parameter in bucket]
        flat = bucket[0].new_zeros(sum(sizes), dtype=self._compression)
        pieces = [piece.view_as(parameter) for piece, parameter in zip(flat.split(sizes), bucket, strict=True)]

        found = [(parameter.grad, piece) for parameter, piece in zip(bucket, pieces, strict=True)]
        there = [(gradient, piece) for gradient, piece in found if gradient is not None]
        if there:
            torch._foreach_copy_([piece for _, piece in there], [gradient for gradient, _ in there])
        flat /= ranks.world_size()  # before the sum, which could leave the range of float16
        self._sent[number] = (pieces, dist.all_reduce(flat, async_op=True))

    @torch.no_grad()
    def _finish(self) -> None:
        """Send what is left, and put the means in the place of the gradients."""
        for number in self._order or range(len(self._buckets)):
            if number not in self._sent:
                self._send(number)

        # A gradient that no rank has stays None, so that the optimizer leaves its parameter alone.  The ranks tell each
        # other on the CPU, where no GPU waits for it.
        used = torch.tensor([parameter.grad is not None for parameter in self._parameters], dtype=torch.uint8)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for parameter, is_used in zip(self._parameters, used.tolist(), strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

        # The means
        for number, (pieces, work) in self._sent.items():
            work.wait()
            found = [(parameter.grad, piece) for parameter, piece in zip(self._buckets[number], pieces, strict=True)]
            there = [(gradient, piece) for gradient, piece in found if gradient is not None]
            if there:
                torch._foreach_copy_([gradient for gradient, _ in there], [piece for _, piece in there])
        self._sent.clear()

        # The order of the coming passes is that in which rank 0 completed the buckets.
        if not self._order:
            order = torch.tensor([*self._complete, *(n for n in range(len(self._buckets)) if n not in self._complete)])
            ranks.broadcast([order])
            self._order = order.tolist()


def _fill_buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters, in order, in groups of one dtype and of at most ``BUCKET`` bytes or a single parameter."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        size += parameter.nbytes
        if not buckets or size > BUCKET or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = parameter.nbytes
        buckets[-1].append(parameter)
    return buckets
