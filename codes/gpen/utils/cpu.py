"""The CPUs that this process may use, and how its C library keeps freed memory."""

import contextlib
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # parameters of mallopt in glibc's malloc.h


def cpu_threads() -> int:
    """Return the number of physical cores that this process may use, for ``torch.set_num_threads``.

    CPU affinity and a container's CPU quota are respected; the hardware threads of a core count once.
    """
    if not hasattr(os, 'sched_getaffinity'):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    cores = {_siblings_of(cpu) for cpu in cpus}
    return max(1, min([len(cores), *_read_cpu_quota()]))


def count_cpus() -> int:
    """Return the number of logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _siblings_of(cpu: int) -> str:
    """Return the hardware threads of a logical CPU's core, such as ``0,64``; a key that is the same for all of them."""
    try:
        return Path(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list').read_text(encoding='ascii')
    except OSError:
        return str(cpu)


def _read_cpu_quota() -> list[int]:
    """Return the container's quota (cgroup v2 or v1) in whole CPUs, at least 1, or an empty list without a quota."""
    root = Path('/sys/fs/cgroup')
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / 'cpu.max').read_text(encoding='ascii').split()
        return [max(1, int(quota) // int(period))]
    with contextlib.suppress(OSError, ValueError):
        microseconds = int((root / 'cpu/cpu.cfs_quota_us').read_text(encoding='ascii'))
        period_v1 = int((root / 'cpu/cpu.cfs_period_us').read_text(encoding='ascii'))
        return [max(1, microseconds // period_v1)] if microseconds > 0 else []
    return []


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors, instead of returning it to the system and requesting it again.

    By default each large tensor gets new pages, which the system has to clear first: up to half of the time of a
    forward pass.  The process stays as large as its peak.  A no-op if the user has set glibc's variables, and with
    other C libraries.
    """
    chosen = {'GLIBC_TUNABLES', 'MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_'}
    if sys.platform != 'linux' or chosen & set(os.environ):
        return
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, 'gnu_get_libc_version'):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
