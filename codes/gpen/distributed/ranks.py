"""The processes that train together: who this one is, and what they exchange.

Everything here does nothing, at no cost, where a process trains alone.  Ranks count from 0; rank 0 writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from gpen.errors import UserError, explain_os_error

Result = TypeVar('Result')

BUCKET = 2**24
"""Numbers that are averaged at a time: 64 MiB in float32."""


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def local_rank() -> int:
    """Return the number of this process among those of its machine, which is that of its GPU."""
    return int(os.environ['LOCAL_RANK']) if dist.is_initialized() else 0


# ---- numbers


class _Sum(torch.autograd.Function):
    """The sum over all ranks.  What the ranks minimise is the sum of their losses, so its gradient is a sum again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return _Sum.apply(gradients[0])


@torch.compiler.disable
def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of what each rank has, differentiable as often as wanted.

    With equal batches, the mean of a batch becomes that of all ranks' batches.
    """
    return x if world_size() == 1 else _sum_over_ranks(x) / world_size()


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, in place, by their means over the ranks, some at a time."""
    if world_size() == 1:
        return
    for bucket in _fill_buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        flat /= world_size()
        pieces = flat.split([tensor.numel() for tensor in bucket])
        for tensor, piece in zip(bucket, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def average_values(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of scalars over all ranks, by name."""
    if world_size() == 1:
        return values
    stacked = torch.stack([value.detach().float() for value in values.values()])
    average([stacked])
    return dict(zip(values, stacked, strict=True))


def _fill_buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors of one type, in order."""
    bucket: list[Tensor] = []
    count = 0
    for tensor in tensors:
        count += tensor.numel()
        if bucket and (count > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, count = [], tensor.numel()
        bucket.append(tensor)
    if bucket:
        yield bucket


@torch.no_grad()
def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, in place, by their sums over the ranks."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


@torch.no_grad()
def copy_from_main(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, in place, by those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            contiguous = tensor.contiguous()
            dist.broadcast(contiguous, src=0)
            if contiguous is not tensor:
                tensor.copy_(contiguous)


def largest(number: int) -> int:
    """Return the largest of the ranks' numbers; a GPU does not wait for it."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


# ---- objects and errors


def gather(value: Result) -> list[Result]:
    """Return the values of all ranks, in their order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_all(body: Callable[[], Result]) -> Result:
    """Run ``body``, which exchanges nothing, on all ranks and return its result.

    Raises:
        UserError: on all of them, where one had one; rank 0 says it.
    """
    if world_size() == 1:
        return body()
    result, failure = _attempt(body)
    failures = gather(failure)
    if any(text is not None for text in failures):
        _raise_together(failures)
    return result  # type: ignore[return-value]


def on_main(body: Callable[[], Result]) -> Result:
    """Run ``body`` on rank 0; return its result, or raise its UserError, on all."""
    if world_size() == 1:
        return body()
    outcome: list[Any] = [_attempt(body) if is_main() else None]
    dist.broadcast_object_list(outcome, src=0)
    result, failure = outcome[0]
    if failure is not None:
        _raise_together([failure])
    return result  # type: ignore[no-any-return]


def one_first(body: Callable[[], Result]) -> Result:
    """Run ``body`` on all ranks, on the first of each machine before the others, which then find what it fetched.

    Raises:
        UserError: as :func:`on_all`.
    """
    if world_size() == 1:
        return body()
    is_first = local_rank() == 0
    early = on_all(lambda: body() if is_first else None)
    late = on_all(lambda: None if is_first else body())
    return early if is_first else late  # type: ignore[return-value]


def _attempt(body: Callable[[], Result]) -> tuple[Result | None, str | None]:
    try:
        return body(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, explain_os_error(error)


def _raise_together(failures: Sequence[str | None]) -> None:
    told = {failure for failure in failures if failure is not None}
    where = [f'process {number}: ' if len(failures) > 1 and len(told) > 1 else '' for number in range(len(failures))]
    lines = [f'{place}{text}' for place, text in zip(where, failures, strict=True) if text is not None]
    error = UserError('\n'.join(dict.fromkeys(lines)))
    error.is_logged = not is_main()
    raise error


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turn the failure of an exchange, which comes when another process has ended, into a sentence.

    Raises:
        UserError: the other processes cannot be reached any more.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ('gloo', 'connection'))
        if world_size() == 1 or not lost:
            raise
        lost_error = UserError(
            'Another process of this training has ended, or cannot be reached any more; its own message says why. '
            'Start all again with --auto_resume.'
        )
        lost_error.is_logged = not is_main()
        raise lost_error from error
