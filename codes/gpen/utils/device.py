"""Which device a run uses, and how many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpen.errors import UserError
from gpen.utils.cpu import cpu_threads, keep_freed_memory


def select_device(num_gpu: int | str | None, local_rank: int = 0, processes: int = 1) -> tuple[torch.device, str]:
    """Return the device of this process and a sentence about it.

    Args:
        num_gpu: ``auto`` or None for what there is, 0 for the CPU, or a number of GPUs.
        local_rank: the number of this process among those of its machine, which is that of its GPU.
        processes: how many train together.

    Raises:
        UserError: more processes train together on this machine than it has GPUs.
    """
    if 'OMP_NUM_THREADS' not in os.environ:  # the user's own choice
        torch.set_num_threads(cpu_threads())
    together = f' in each of {processes} processes' if processes > 1 else ''

    if num_gpu != 0 and torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True  # all batches have one size
        if processes > 1:
            _choose_own_gpu(local_rank)
        device = torch.device('cuda', torch.cuda.current_device())
        return device, f'Training on {torch.cuda.get_device_name(device)}{together}.'

    keep_freed_memory()
    threads = torch.get_num_threads()
    place = f'Training on the CPU with {threads} thread{"s" if threads > 1 else ""}{together}'
    if num_gpu in (0, None, 'auto'):
        return torch.device('cpu'), f'{place}.'
    return torch.device('cpu'), f'{place}: num_gpu is {num_gpu}, but PyTorch finds no GPU here.'


def describe_device(device: torch.device) -> str:
    """Return the name of a GPU, or the number of threads on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'CPU, {torch.get_num_threads()} threads'


def _choose_own_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(f'There are more processes than GPUs on this machine. Give --nproc_per_node {count} at most.')
    torch.cuda.set_device(local_rank)


def choose_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``, as commands take it.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    device, _ = select_device(0 if name == 'cpu' else 'auto')
    if name == 'cuda' and device.type != 'cuda':
        raise UserError('--device cuda: PyTorch finds no GPU here. Use --device cpu.')
    return device


def peak_memory(device: torch.device) -> float:
    """Return the largest memory used so far, in MiB: of the GPU's allocator, or of this process on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == 'win32':
        return float('nan')
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)


_LOWER = 'network_g.narrow and network_d.narrow, or the size of both networks'
# How PyTorch words it on a CPU (Linux and macOS; Windows) and in libraries of the GPU.
OUT_OF_MEMORY = ("can't allocate memory", 'not enough memory', 'out of memory', 'cublas_status_alloc_failed')


@contextmanager
def explain_out_of_memory(
    batch_size: int, option: str = 'datasets.train.batch_size_per_gpu', others: str = _LOWER
) -> Iterator[None]:
    """Turn an allocation that failed, on a GPU or a CPU, into one sentence with what to lower.

    Args:
        batch_size: images at a time.
        option: how the user sets it.
        others: what else can be lowered.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            text = str(error)
            if not any(words in text.lower() for words in OUT_OF_MEMORY):
                raise
        raise UserError(f'Out of memory. Lower {option} (now {batch_size}), {others}.') from error
