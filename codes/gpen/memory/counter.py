"""Counts the memory of live tensors by category."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Category = Literal['weights', 'gradients', 'optimizer', 'activations']


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that are alive at one moment.

    Attributes:
        weights: of all networks: generator, discriminator, EMA, and the frozen ones of losses.
        gradients: of the weights.
        optimizer: state of the optimizers.
        activations: everything else: tensors kept for the backward pass, temporaries, the batch.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimizer + self.activations


class StorageCounter(TorchDispatchMode):
    """While it is entered, follows the storage of every tensor that an operation returns, until the storage is freed.

    New tensors count as activations until :meth:`assign` says otherwise.  Memory that an operation allocates and frees
    itself, such as the workspace of a convolution, is not counted.  On fake tensors, ``bool()`` and ``item()`` return
    true or 1, so that a step which checks whether its loss is finite goes on.

    Attributes:
        peak: the use at the moment with the largest total since :meth:`restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = MemoryUse()
        self._sizes: Counter[Category] = Counter()
        # By address of the storage: a weak reference that tells when it is freed, its bytes, its category.
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], int, Category]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default:
                raise
            return True if args[0].dtype == torch.bool else 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        return result

    def assign(self, tensors: Iterable[Tensor], category: Category) -> None:
        """Set the category of tensors."""
        for tensor in tensors:
            address = self._follow(tensor)
            reference, size, before = self._live[address]
            self._sizes[before] -= size
            self._sizes[category] += size
            self._live[address] = (reference, size, category)

    def restart(self) -> None:
        """Forget the peak so far, and start from what is alive now."""
        self.peak = MemoryUse(**dict(self._sizes))

    def _follow(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._live:
            size = storage.nbytes()
            self._live[address] = (weakref.ref(storage, lambda _: self._forget(address)), size, 'activations')
            self._sizes['activations'] += size
            if self._sizes.total() > self.peak.total:
                self.restart()
        return address

    def _forget(self, address: int) -> None:
        _, size, category = self._live.pop(address)
        self._sizes[category] -= size
