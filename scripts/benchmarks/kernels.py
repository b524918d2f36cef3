"""Counts the floating-point operations and the memory traffic of the kernels that a GPU would run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from benchmarks.fake_gpu import CUDA, FakeGPU, select_backend
from benchmarks.step_worker import count_backward

aten = torch.ops.aten

CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
CONVOLUTION, DEPTHWISE, PRODUCT, OTHER = 'convolution', 'depthwise convolution', 'matrix product', 'other'

# Operations that change an argument without reading what it was.
_OVERWRITES = {aten.copy_, aten.zero_, aten.fill_, aten.normal_, aten.uniform_, aten.random_, aten.bernoulli_}
# Operations whose arguments only tell shape and type.
_SHAPE_ONLY = {
    *(aten.empty_like, aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like),
    *(aten.new_empty, aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty_strided),
}
# Operations that allocate without writing.
_EMPTY = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
# Operations that fill their whole result with zeros, and then copy their argument into a part of it.
_FILL_FIRST = {aten.select_backward, aten.slice_backward, aten.constant_pad_nd}


@dataclass(frozen=True)
class Kernel:
    """What kernels are added up by.

    Attributes:
        name: the operation in ATen, or ``layout copy`` for one that a convolution makes of its arguments.
        kind: ``CONVOLUTION``, ``DEPTHWISE``, ``PRODUCT`` or ``OTHER``.
        precision: ``tf32``, ``fp32``, ``bf16`` or ``fp16``: what its arithmetic runs in.
        backend: of a convolution, as torch calls it; else empty.
        nhwc: whether a convolution works in channels_last.
    """

    name: str
    kind: str = OTHER
    precision: str = 'fp32'
    backend: str = ''
    nhwc: bool = False


@dataclass(frozen=True)
class Work:
    """The work of one call, or the sum of several: floating-point operations, bytes read and written, calls."""

    flops: float = 0
    bytes: float = 0
    calls: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.calls + other.calls)

    def __mul__(self, factor: float) -> Work:
        return Work(self.flops * factor, self.bytes * factor, self.calls * factor)


Call = tuple[Kernel, Work]


class KernelCounter(FakeGPU):
    """While it is entered, lists the kernels that the operations on fake tensors would run on a GPU.

    An operation reads each of its arguments once, as far as its strides reach, and writes its results once; views cost
    nothing.  Caches are not taken into account, nor the workspaces of cuDNN and its own changes of the layout.

    Attributes:
        calls: each call, with what it is added up by.
    """

    def __init__(self, device: torch.device = CUDA) -> None:
        super().__init__(device)
        self.calls: list[Call] = []
        self._paused = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count nothing in this block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def take(self) -> list[Call]:
        """Return the calls, and start anew."""
        calls, self.calls = self.calls, []
        return calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func.namespace == 'aten' and not self._paused:
            self._add(func, args, kwargs or {}, result)
        return result

    def _add(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        operation = func.overloadpacket
        if operation in CONVOLUTIONS:
            convolution = Convolution.of(operation, args, result)
            self.calls += [(convolution.kernel, convolution.work), *convolution.layout_copies(), *convolution.bias()]
            return
        traffic = _count_bytes(func, args, kwargs, result)
        if operation in flop_registry:
            self.calls.append(describe_product(operation, args, kwargs, result, traffic))
        elif traffic:
            self.calls.append((Kernel(operation.__name__), Work(0, traffic, 1)))


@dataclass(frozen=True)
class Convolution:
    """A convolution or its backward pass: kernel, work, and the arguments that it reads."""

    kernel: Kernel
    work: Work
    sources: list[Tensor]
    bias_traffic: int

    @classmethod
    def of(cls, operation: Any, args: Any, result: Any) -> Convolution:
        """Describe a call of ``aten.convolution`` or ``aten.convolution_backward``."""
        is_backward = operation is aten.convolution_backward
        if is_backward:
            gradient, x, weight, _, *arguments, mask = args
            sources, flops = [gradient], count_backward(*args)
            bias_traffic = _reach(gradient) if mask[2] else 0
        else:
            x, weight, bias, *arguments = args
            bias_traffic = 2 * _reach(result) if bias is not None else 0
            sources, flops = [], conv_flop_count(list(x.shape), list(weight.shape), list(result.shape), arguments[3])
            mask = (True, True, False)

        # Each gradient is a kernel of its own: it reads the gradient of the output, and weight or input.
        kernels = sum(mask[:2]) if is_backward else 1
        factors = [tensor for tensor, needed in ((weight, mask[0]), (x, mask[1])) if needed]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        traffic = kernels * sum(map(_reach, sources)) + sum(map(_reach, factors)) + sum(map(_reach, results))

        # A native depthwise kernel multiplies in float32, outside the tensor cores.
        backend, nhwc = select_backend(x, weight, tuple(arguments))
        groups = arguments[-1]
        kind = DEPTHWISE if groups > 1 and groups == x.shape[1] else CONVOLUTION
        precision = 'fp32' if backend.startswith('CudaDepthwise') else _find_precision(x, torch.backends.cudnn.conv)
        kernel = Kernel(operation.__name__, kind, precision, backend, nhwc)
        return cls(kernel, Work(flops, traffic, kernels), sources + factors, bias_traffic)

    def bias(self) -> list[tuple[Kernel, Work]]:
        """Return the pass over the result that adds a bias, or over its gradient that sums it up; cuDNN fuses none."""
        return [(Kernel('bias of convolution'), Work(0, self.bias_traffic, 1))] if self.bias_traffic else []

    def layout_copies(self) -> list[tuple[Kernel, Work]]:
        """Return the copies that ATen makes of arguments in another layout."""
        layout = torch.channels_last if self.kernel.nhwc else torch.contiguous_format
        return [
            (Kernel('layout copy'), Work(0, _reach(tensor) + tensor.numel() * tensor.element_size(), 1))
            for tensor in self.sources
            if not tensor.is_contiguous(memory_format=layout)
        ]


def describe_product(operation: Any, args: Any, kwargs: dict[str, Any], result: Tensor, traffic: int) -> Call:
    """Return kernel and work of a matrix product."""
    flops = flop_registry[operation](*args, **kwargs, out_val=result)
    kernel = Kernel(operation.__name__, PRODUCT, _find_precision(result, torch.backends.cuda.matmul))
    return kernel, Work(flops, traffic, 1)


def _count_bytes(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    """Return the bytes that an operation reads and writes."""
    operation = func.overloadpacket
    if operation in _EMPTY:
        return 0
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]

    # In place: the arguments that change are written too, and read unless they are overwritten, as out=... is.
    if func._schema.is_mutable:
        changed = _find_changed(func, args, kwargs)
        overwrites = operation in _OVERWRITES or any(argument.is_out for argument in func._schema.arguments)
        return sum(map(_reach, _distinct(given))) + (0 if overwrites else sum(map(_reach, changed)))

    # Views
    storages = {tensor.untyped_storage()._cdata for tensor in given}
    fresh = [tensor for tensor in made if tensor.untyped_storage()._cdata not in storages]
    if not fresh:
        return 0

    # Fresh results
    written = sum(map(_reach, fresh)) * (2 if operation is aten.max_pool2d_with_indices_backward else 1)
    if operation in _SHAPE_ONLY:
        return written
    if operation is aten.max_pool2d_with_indices_backward:  # fills with zeros; of its input it needs the shape only
        return _reach(args[0]) + _reach(args[-1]) + written
    if operation in _FILL_FIRST:
        return written + 2 * _reach(args[0])
    return sum(map(_reach, _distinct(given))) + written


def _find_changed(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operation in place changes."""
    changed: list[Tensor] = []
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        # A fused optimizer writes gradients only where it also takes the loss scale off them.
        if is_written and not (argument.name == 'grads' and kwargs.get('grad_scale') is None):
            changed += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return changed


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    """Leave out tensors that are given twice, such as in ``x * x``."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def _reach(tensor: Tensor) -> int:
    """Return the bytes that a tensor covers; expanded dimensions are in memory once."""
    lengths = [length for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or length == 0]
    return math.prod(lengths) * tensor.element_size()


def _find_precision(tensor: Tensor, backend: Any) -> str:
    """Return what convolutions or matrix products of a tensor's type run in, as torch's settings say now."""
    names = {torch.bfloat16: 'bf16', torch.float16: 'fp16'}
    return names.get(tensor.dtype, 'tf32' if backend.fp32_precision == 'tf32' else 'fp32')
