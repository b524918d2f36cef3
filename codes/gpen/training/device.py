"""Which device a run uses, and how many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gpen.data.loader import cpu_threads
from gpen.errors import UserError
from gpen.utils.ranks import local_rank, world_size


def select_device(num_gpu: Any) -> tuple[torch.device, str]:
    """Return the device of this process for ``num_gpu`` (auto, 0 or a number) and a sentence about it.

    Raises:
        UserError: more processes train together on this machine than it has GPUs.
    """
    if 'OMP_NUM_THREADS' not in os.environ:  # the user's own choice
        torch.set_num_threads(cpu_threads())
    available = torch.cuda.is_available()
    if num_gpu != 0 and available:
        torch.backends.cudnn.benchmark = True  # all batches have one size
        if world_size() > 1:
            _choose_own_gpu()
        device = torch.device('cuda', torch.cuda.current_device())
        return device, f'Training on {torch.cuda.get_device_name(device)}{_count_processes()}.'
    keep_freed_memory()
    threads = torch.get_num_threads()
    place = f'Training on the CPU with {threads} thread{"s" if threads > 1 else ""}{_count_processes()}'
    if num_gpu in (0, 'auto'):
        return torch.device('cpu'), f'{place}.'
    return torch.device('cpu'), f'{place}: num_gpu is {num_gpu}, but PyTorch finds no GPU here.'


def _choose_own_gpu() -> None:
    count = torch.cuda.device_count()
    if local_rank() >= count:
        raise UserError(f'There are more processes than GPUs on this machine. Give --nproc_per_node {count} at most.')
    torch.cuda.set_device(local_rank())


def _count_processes() -> str:
    return f' in each of {world_size()} processes' if world_size() > 1 else ''


def keep_freed_memory() -> None:
    """Let glibc keep what tensors on the CPU give back, instead of handing it to the system and asking for it again.

    Each large tensor would otherwise come in pages that the system has to clear first, which takes up to half of the
    time of a pass through a network.  The process stays as large as it once was.  Whoever set glibc's own variables
    keeps that choice; other C libraries are left alone.
    """
    chosen = {'GLIBC_TUNABLES', 'MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_'}
    if sys.platform != 'linux' or chosen & set(os.environ):
        return
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, 'gnu_get_libc_version'):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


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


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names of mallopt's settings in glibc's malloc.h
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
