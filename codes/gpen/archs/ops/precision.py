"""Mixed precision inside the networks: which operations stay in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off on the device of ``x``; a no-op where it is off already."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def convolution_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which convolutions of ``x`` are computed, under autocast or without it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def is_half(x: Tensor) -> bool:
    """Return whether convolutions of ``x`` are computed in float16, whose largest number is 65504."""
    return convolution_dtype(x) == torch.float16


def widen(x: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, and other types unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cast_as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast as autocast does to what a convolution takes, so that a backward pass of our own sees the same types."""
    (kind,) = {tensor.device.type for tensor in tensors if tensor is not None}
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]
