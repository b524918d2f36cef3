"""Lets fake tensors seem to live on a GPU, forward and backward, on a machine that has none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

CPU = torch.device('cpu')
CUDA = torch.device('cuda', 0)
CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


class FakeGPU(TorchDispatchMode):
    """Inside, fake tensors on CUDA pass through the autograd engine, and convolutions choose layouts as on a GPU.

    The engine would ask the CUDA driver for streams of gradients on CUDA, so it is told that they are on the CPU; all
    operations still see CUDA.  In bfloat16, torch asks the driver whether cuDNN can, and takes a slow path where there
    is none; cards since Ampere can, and choose as for float16.

    It registers a further device type with torch, which lasts as long as the process.

    Args:
        device: where the fake tensors seem to live; on the CPU, everything stays as it is.
    """

    def __init__(self, device: torch.device = CUDA) -> None:
        super().__init__()
        self._device = device
        self._asking: list[str] = []  # who asks for devices: the engine, or an autocast inside it, the last one now
        self._patches: list[Any] = []

    def __enter__(self) -> FakeGPU:
        if self._device == CUDA:
            self._patch()
        super().__enter__()
        return self

    def _patch(self) -> None:
        _register_other_device()
        run_engine: Callable[..., Any] = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
        enter, leave = torch.autocast.__enter__, torch.autocast.__exit__

        def run_and_know(*args: Any, **kwargs: Any) -> Any:
            self._asking.append('engine')
            try:
                # One thread: fake tensors keep their state for all threads at once.
                with torch.autograd.set_multithreading_enabled(False):
                    return run_engine(*args, **kwargs)
            finally:
                self._asking.pop()

        def enter_and_know(autocast: torch.autocast) -> Any:
            self._asking.append('autocast' if autocast._enabled else self._now)
            return enter(autocast)

        def leave_and_know(autocast: torch.autocast, *error: Any) -> Any:
            self._asking.pop()
            return leave(autocast, *error)

        self._patches = [
            patch.object(torch.autograd, '_engine_run_backward', run_and_know),
            patch.object(torch.autocast, '__enter__', enter_and_know),
            patch.object(torch.autocast, '__exit__', leave_and_know),
            patch.object(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False),
            patch.object(torch.cuda, 'is_bf16_supported', lambda *_, **__: True),
        ]
        for one in self._patches:
            one.start()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for one in self._patches:
            one.stop()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._device == CPU:
            return func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default and self._engine_asks(args[0]):
            return CPU
        if (
            self._now == 'engine' and (kwargs or {}).get('device') == CPU
        ):  # the engine makes tensors where it believes others are
            kwargs = {**(kwargs or {}), 'device': CUDA}
        if func in CONVOLUTIONS and args[0].dtype == torch.bfloat16:
            return _retype(func(*_retype(args, torch.float16), **(kwargs or {})), torch.bfloat16)
        return func(*args, **(kwargs or {}))

    @property
    def _now(self) -> str:
        return self._asking[-1] if self._asking else ''

    def _engine_asks(self, tensor: Any) -> bool:
        # Kernels ask too, and so does autocast in recomputation; both need the truth.
        return self._now == 'engine' and not tensor.fake_mode.in_kernel_invocation


def select_backend(x: Tensor, weight: Tensor, arguments: tuple[Any, ...]) -> tuple[str, bool]:
    """Return the name of the backend that torch chooses for a convolution on CUDA, and whether it works in NHWC.

    Args:
        x: N x C x H x W.
        weight: as of the convolution.
        arguments: stride, padding, dilation, transposed, output_padding, groups.
    """
    # Stand-ins, since the convolution may be rehearsed on the CPU; in float16 for bfloat16, see FakeGPU
    x, weight = _retype((x, weight), torch.float16, CUDA)
    backend = torch._C._select_conv_backend(x, weight, None, *arguments)
    layout = torch._C._conv_determine_backend_memory_format(x, weight, backend)
    return str(backend).rpartition('.')[2], layout == torch.channels_last


def _retype(values: Any, half: torch.dtype, device: torch.device | None = None) -> Any:
    """Return a tree of values with new tensors of the same shapes and strides.

    Args:
        values: the tree.
        half: what float16 and bfloat16 become.
        device: where the new tensors live; None: where the given ones do.
    """

    def change(tensor: Tensor) -> Tensor:
        dtype = half if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=dtype, device=device or tensor.device)

    return tree_map_only(Tensor, change, values)


@cache
def _register_other_device() -> None:
    """Register a device type of our own, which torch then takes for the accelerator, so that CUDA has no streams."""

    class Module(_DummyBackendModule):  # type: ignore[misc]
        def is_available(self) -> bool:
            return False

    _setup_privateuseone_for_python_backend('paper', Module())
