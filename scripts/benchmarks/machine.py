"""The machine that a benchmark runs on, and its clock."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

_CPU_INFO = Path('/proc/cpuinfo')
_COARSE = 1e-4  # seconds


def processor_clock() -> Callable[[], float]:
    """Return a clock of this process's processor time in seconds, or the wall clock where that one is coarse."""
    coarse = time.get_clock_info('process_time').resolution > _COARSE  # Windows: 16 ms
    return time.perf_counter if coarse else time.process_time


def describe_machine(packages: tuple[str, ...]) -> dict[str, str | int | None]:
    """Return the processor, its cores, and the versions of Python and of ``packages`` (None: not installed)."""
    return {
        'processor': _name_processor(),
        'cores': os.cpu_count(),
        'system': f'{platform.system()} {platform.machine()}',
        'Python': platform.python_version(),
        **{package: _find_version(package) for package in packages},
    }


def format_machine(machine: dict[str, str | int | None]) -> str:
    """Return two lines about a machine from :func:`describe_machine`."""
    packages = {name: value for name, value in machine.items() if name not in ('processor', 'cores', 'system')}
    versions = ', '.join(f'{name} {value}' for name, value in packages.items() if value is not None)
    return f'{machine["processor"]}, {machine["cores"]} cores, {machine["system"]}\n{versions}'


def _name_processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding='utf-8', errors='replace').splitlines():
            key, _, value = line.partition(':')
            if key.strip() == 'model name':
                return value.strip()
    return platform.processor() or platform.machine()


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
