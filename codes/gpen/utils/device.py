"""The device that a command uses, its number of threads, its precisions, and its memory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpen.errors import UserError
from gpen.utils.cpu import cpu_threads, keep_freed_memory
from gpen.utils.text import count_things

DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
"""The dtype of autocast for each precision in options; ``fp32`` means no autocast."""

# Messages of PyTorch on a CPU (Linux and macOS; Windows), of CUDA and its libraries, of C++, ONNX Runtime and OpenCV.
OUT_OF_MEMORY = (
    'allocate memory',
    'failed to allocate',
    'not enough memory',
    'insufficient memory',
    'out of memory',
    'bad_alloc',
    'cublas_status_alloc_failed',
)


def select_device(num_gpu: int | str | None, local_rank: int = 0, processes: int = 1) -> tuple[torch.device, str]:
    """Return the device of this process and a sentence about it; set the number of threads.

    Args:
        num_gpu: ``auto`` or None for what there is, 0 for the CPU, or a number of GPUs.
        local_rank: the rank of this process among those of its machine, which is the number of its GPU.
        processes: world size.

    Raises:
        UserError: this machine has more ranks than GPUs.
    """
    if 'OMP_NUM_THREADS' not in os.environ:  # else the user chose the number of threads
        torch.set_num_threads(cpu_threads())
    together = f' in each of {processes} processes' if processes > 1 else ''

    # A GPU, with a rank for each.
    if num_gpu != 0 and torch.cuda.is_available():
        # All batches have one size; but which algorithm is fastest is not the same each time.
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
        if processes > 1:
            _choose_own_gpu(local_rank)
        device = torch.device('cuda', torch.cuda.current_device())
        return device, f'Training on {torch.cuda.get_device_name(device)}{together}.'

    # The CPU.
    keep_freed_memory()
    threads = torch.get_num_threads()
    place = f'Training on the CPU with {count_things(threads, "thread")}{together}'
    if num_gpu in (0, None, 'auto'):
        return torch.device('cpu'), f'{place}.'
    return torch.device('cpu'), f'{place}: num_gpu is {num_gpu}, but PyTorch finds no GPU here.'


def describe_device(device: torch.device) -> str:
    """Return the name of a GPU, or ``CPU`` with the number of threads."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'CPU, {torch.get_num_threads()} threads'


def _choose_own_gpu(local_rank: int) -> None:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(f'There are more processes than GPUs on this machine. Give --nproc_per_node {count} at most.')
    torch.cuda.set_device(local_rank)


def choose_device(name: str) -> torch.device:
    """Return the device for a command's ``--device``: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda``, and there is no GPU.
    """
    device, _ = select_device(0 if name == 'cpu' else 'auto')
    if name == 'cuda' and device.type != 'cuda':
        raise UserError('--device cuda: PyTorch finds no GPU here. Use --device cpu.')
    return device


def peak_memory(device: torch.device) -> float:
    """Return the peak memory so far, in MiB: of the GPU's allocator, or of this process on a CPU; NaN on Windows."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == 'win32':
        return float('nan')
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)  # bytes on macOS, KiB elsewhere


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of PyTorch, ONNX Runtime or OpenCV says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn an error of a failed allocation, on a GPU or a CPU, into one line with what to do.

    Args:
        advice: what to do, in sentences.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f'Out of memory. {advice}') from error
