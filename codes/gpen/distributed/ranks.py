"""The ranks of a training: which one this process is, and what the ranks exchange.

With one process these functions are no-ops.  With several, all ranks must call them in the same order.  Rank 0 writes
files and logs.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from gpen.errors import UserError, explain_os_error

Result = TypeVar('Result')


def rank() -> int:
    """Return the rank of this process, 0 with one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 with one process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is rank 0, which writes files and logs."""
    return rank() == 0


def local_rank() -> int:
    """Return the rank of this process among those of its machine, which is the number of its GPU."""
    return int(os.environ['LOCAL_RANK']) if dist.is_initialized() else 0


# ---- tensors


class _Sum(torch.autograd.Function):
    """All-reduce to the sum.  The ranks minimise the sum of their losses, so the gradient is all-reduced to its sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return _Sum.apply(gradients[0])


_sum_over_ranks: Callable[[Tensor], Tensor] = _Sum.apply


def keep_out_of_compile() -> None:
    """Let compiled networks call the exchange between ranks as it is; to be called before ``torch.compile``.

    Not when this file is imported: it imports torch's compiler, which takes nearly as long as torch itself.
    """
    global _sum_over_ranks
    _sum_over_ranks = torch.compiler.disable(_Sum.apply)


def mean_over_ranks(x: Tensor) -> Tensor:
    """All-reduce to the mean over the ranks, and return it; differentiable any number of times.

    Ranks have batches of equal size, so the mean over a batch becomes the mean over the batches of all ranks.
    """
    return x if world_size() == 1 else _sum_over_ranks(x) / world_size()


@torch.no_grad()
def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """All-reduce tensors to their means over the ranks, in place."""
    all_reduce_sum(tensors)
    for tensor in tensors:
        tensor /= world_size()


def mean_values_over_ranks(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """All-reduce scalars by name to their means over the ranks, and return them in float32, without gradients."""
    if world_size() == 1:
        return values
    stacked = torch.stack([value.detach().float() for value in values.values()])
    all_reduce_mean([stacked])
    return dict(zip(values, stacked, strict=True))


@torch.no_grad()
def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """All-reduce tensors to their sums over the ranks, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


@torch.no_grad()
def broadcast(tensors: Sequence[Tensor]) -> None:
    """Broadcast the tensors of rank 0 to all ranks, in place."""
    if world_size() > 1:
        for tensor in tensors:
            contiguous = tensor.contiguous()
            dist.broadcast(contiguous, src=0)
            if contiguous is not tensor:
                tensor.copy_(contiguous)


def all_reduce_max(number: int) -> int:
    """All-reduce an integer to its maximum over the ranks, and return it; no GPU is synchronised for it."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number)  # on the CPU
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


# ---- objects and errors


def all_gather(value: Result) -> list[Result]:
    """Return, on all ranks, the list of the values of ranks 0, 1, ...; values are pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_all(body: Callable[[], Result]) -> Result:
    """Run ``body`` on all ranks; each rank returns its own result.

    If ``body`` fails on any rank, all ranks raise, so that none waits for another.

    Args:
        body: must not communicate with other ranks.

    Raises:
        UserError: on all ranks, if ``body`` raised a UserError or an OSError on any; rank 0 prints it.
    """
    if world_size() == 1:
        return body()
    result, failure = _attempt(body)
    failures = all_gather(failure)
    if any(text is not None for text in failures):
        _raise_together(failures)
    return result  # type: ignore[return-value]


def on_main(body: Callable[[], Result]) -> Result:
    """Run ``body`` on rank 0 alone, and broadcast its result, which all ranks return.

    The result is pickled, apart from its tensors: those are sent one by one, and need no memory but their own.

    Raises:
        UserError: on all ranks, if ``body`` raised a UserError or an OSError on rank 0, which prints it.
    """
    if world_size() == 1:
        return body()
    result, failure = _broadcast_object(_attempt(body) if is_main() else None)
    if failure is not None:
        _raise_together([failure])
    return result  # type: ignore[no-any-return]


class _Packer(pickle.Pickler):
    """Pickles an object; its tensors are collected in ``tensors`` instead."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: Any) -> tuple[torch.Size, torch.dtype] | None:
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value.detach().cpu())
        return value.shape, value.dtype


class _Unpacker(pickle.Unpickler):
    """Reads what :class:`_Packer` wrote; ``tensors`` are still to be filled."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_load(self, form: tuple[torch.Size, torch.dtype]) -> Tensor:
        shape, dtype = form
        self.tensors.append(torch.empty(shape, dtype=dtype))
        return self.tensors[-1]


def _broadcast_object(value: Any) -> Any:
    """Broadcast an object of rank 0; its tensors arrive on the CPU."""
    packed: list[Any] = [None]
    if is_main():
        stream = BytesIO()
        packer = _Packer(stream)
        packer.dump(value)
        packed = [stream.getvalue()]
    dist.broadcast_object_list(packed, src=0)
    if is_main():
        broadcast(packer.tensors)
        return value

    unpacker = _Unpacker(BytesIO(packed[0]))
    value = unpacker.load()
    broadcast(unpacker.tensors)
    return value


def one_first(body: Callable[[], Result]) -> Result:
    """Run ``body`` on all ranks, first on local rank 0 of each machine, then on the others; see :func:`on_all`.

    What local rank 0 downloads or caches, the other ranks of its machine find on the disk.
    """
    if world_size() == 1:
        return body()
    is_first = local_rank() == 0
    early = on_all(lambda: body() if is_first else None)
    late = on_all(lambda: None if is_first else body())
    return early if is_first else late  # type: ignore[return-value]


def _attempt(body: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """Return the result of ``body``, or None and the message of its error."""
    try:
        return body(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, explain_os_error(error)


def _raise_together(failures: Sequence[str | None]) -> None:
    """Raise one UserError with the messages of the ranks; their ranks are named where the messages differ."""
    messages = [message for message in failures if message is not None]
    if len(set(messages)) > 1:
        messages = [f'process {number}: {message}' for number, message in enumerate(failures) if message is not None]
    raise UserError('\n'.join(dict.fromkeys(messages)), is_logged=not is_main())


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Explain the error of a collective operation that fails because another rank has ended.

    Raises:
        UserError: another rank has ended or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        # Gloo raises a plain RuntimeError, which can be told by its words alone.
        lost = isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ('gloo', 'connection'))
        if world_size() == 1 or not lost:
            raise
        raise UserError(
            'Another process of this training has ended, or cannot be reached any more; its own message says why. '
            'Start all again with --auto_resume.',
            is_logged=not is_main(),
        ) from error
