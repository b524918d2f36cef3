"""Measures one variant of the training step, ours or the plain one, in a process of its own.

Allocators do not return all memory, so in one process the peak of one variant could hide that of another.
"""

from __future__ import annotations

import math
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from benchmarks.plain_step import PlainStep
from gpen.models.gpen_model import GPENModel
from gpen.options import Options
from gpen.utils.device import peak_memory, select_device
from gpen.utils.seeds import derive_generator

OURS, PLAIN, DEPTHWISE = 'ours', 'plain', 'plain, depthwise filters'
MATRIX_PRODUCTS = ('aten::mm', 'aten::addmm', 'aten::bmm', 'aten::baddbmm')
_CPU = torch.device('cpu')
_STATUS = Path('/proc/self/status')


@dataclass(frozen=True)
class StepSetting:
    """Size of the images (pixels), factor on the channel counts (narrow), images per step."""

    size: int
    narrow: float
    batch: int

    def __str__(self) -> str:
        return f'{self.size} x {self.size}, narrow {self.narrow:g}, batch {self.batch}'

    def options(self) -> Options:
        """Return the options of a training with an L1 and a logistic GAN loss, R1 every 16 steps."""
        networks = {'size': self.size, 'channel_multiplier': 2, 'narrow': self.narrow}
        images = {'type': 'PairedImageDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}
        return Options.model_validate(
            {
                'name': 'benchmark',
                'num_gpu': 0,
                'datasets': {'train': {**images, 'batch_size_per_gpu': self.batch}, 'val': images},
                'network_g': {'type': 'GPEN', 'style_dim': 512, 'n_mlp': 8, **networks},
                'network_d': {'type': 'GPENDiscriminator', **networks},
                'train': {
                    'total_epochs': 1,
                    'optim_g': {'type': 'Adam', 'lr': 2e-3},
                    'optim_d': {'type': 'Adam', 'lr': 2e-3},
                    'pixel_opt': {'type': 'L1Loss'},
                    'gan_opt': {'type': 'GANLoss', 'loss_weight': 0.1},
                },
            }
        )


@dataclass(frozen=True)
class Shares:
    """Where the time of a step goes, as shares of the profiler's self CPU time."""

    convolutions: float
    matrix_products: float


class Stepper:
    """Trains one variant on random images, and measures it.

    Args:
        variant: ``OURS``, ``PLAIN`` or ``DEPTHWISE``.
        setting: sizes of images and networks.
        threads: number of PyTorch's threads.
    """

    def __init__(self, variant: str, setting: StepSetting, threads: int) -> None:
        if variant == OURS:
            select_device(0)  # sets glibc's memory as training does
        torch.set_num_threads(threads)

        model = GPENModel(setting.options(), _CPU)
        self._step: Any = model.train_step if variant == OURS else PlainStep(model, variant == DEPTHWISE)
        self._r1_every = model.options.train.net_d_reg_every
        self._iteration = 0

        images = derive_generator(0, 'benchmark').uniform(-1, 1, (2, setting.batch, 3, setting.size, setting.size))
        lq, gt = torch.from_numpy(images).float()
        self._batch = {'lq': lq, 'gt': gt, 'gt_path': ['random'] * setting.batch}

        self._memory_before, _ = _read_memory()

    def time(self, with_r1: bool) -> float:
        """Return the seconds of one step, by the clock on the wall."""
        start = time.perf_counter()
        self._run(with_r1)
        return time.perf_counter() - start

    def peak_memory(self) -> float:
        """Return the peak size of this process above its size before the first step, in MiB."""
        return _read_memory()[1] - self._memory_before

    def count_flops(self, with_r1: bool) -> int:
        """Return the floating-point operations of the convolutions and matrix products of one step."""
        with FlopCounter() as counter:
            self._run(with_r1)
        return counter.flops

    def profile(self, with_r1: bool) -> Shares:
        """Return the shares of convolutions and matrix products in the time of one step."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            self._run(with_r1)
        times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
        total = sum(times.values())
        convolutions = sum(seconds for name, seconds in times.items() if 'conv' in name.lower())
        return Shares(convolutions / total, sum(times.get(name, 0.0) for name in MATRIX_PRODUCTS) / total)

    def _run(self, with_r1: bool) -> None:
        """Train at the next iteration that has R1, or has not."""
        self._iteration += 1
        if with_r1:
            self._iteration = math.ceil(self._iteration / self._r1_every) * self._r1_every
        elif self._iteration % self._r1_every == 0:
            self._iteration += 1
        self._step(self._batch, self._iteration)


class FlopCounter(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products inside its context.

    It uses PyTorch's formulas, but not its ``FlopCounterMode``, whose module hooks fail in R1's ``autograd.grad``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        result = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is torch.ops.aten.convolution_backward:
            self.flops += count_backward(*args)
        elif operation in flop_registry:
            self.flops += flop_registry[operation](*args, **(kwargs or {}), out_val=result)
        return result


def count_backward(gradient: Tensor, x: Tensor, weight: Tensor, *arguments: Any) -> int:
    """Count each gradient, of the input and of the weight, as many operations as the forward pass.

    PyTorch's own formula counts the weight's gradient of a grouped convolution once for each pair of groups.
    """
    *_, transposed, _, _, output_mask = arguments
    forward = conv_flop_count(list(x.shape), list(weight.shape), list(gradient.shape), transposed)
    return forward * sum(output_mask[:2])


def _read_memory() -> tuple[float, float]:
    """Return the size of this process and its peak, in MiB; the peak twice where the system does not tell the size.

    On Linux, ``getrusage`` is no use for the peak, since it starts with the size of the parent process.
    """
    if not _STATUS.is_file():
        return peak_memory(_CPU), peak_memory(_CPU)
    lines = (line.partition(':') for line in _STATUS.read_text(encoding='utf-8').splitlines())
    sizes = {name: int(value.split()[0]) / 2**10 for name, _, value in lines if name in ('VmRSS', 'VmHWM')}
    return sizes['VmRSS'], sizes['VmHWM']


class Worker:
    """A process with a :class:`Stepper`, which is idle while another one has its turn."""

    def __init__(self, variant: str, setting: StepSetting, threads: int) -> None:
        self._pool = ProcessPoolExecutor(1, get_context('spawn'))
        self._ready = self._pool.submit(_prepare, variant, setting, threads)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the :class:`Stepper` and return its result.

        Raises:
            BrokenProcessPool: the process was killed, such as by a system out of memory.
        """
        self._ready.result()
        return self._pool.submit(_call, method, *arguments).result()


_steppers: list[Stepper] = []  # the state of the pool's process


def _prepare(variant: str, setting: StepSetting, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the waiting process alone reports Ctrl-C
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # silences the profiler's library
    _steppers.append(Stepper(variant, setting, threads))


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_steppers[0], method)(*arguments)
