"""Compiles the pretend GPU for the torch of this environment."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name('runtime.c')
LIBRARIES = ('torch_cuda', 'c10_cuda', 'torch_python', 'torch_cpu', 'caffe2_nvrtc')
"""Libraries of torch that call the functions of :data:`STANDS_FOR`."""

STANDS_FOR = re.compile(r'((?:__)?cuda[A-Z]|cu[A-Z]|cublas|nccl)\w+')


class CannotBuildError(Exception):
    """The reason why there can be no pretend GPU here."""


def build(folder: Path) -> dict[str, str]:
    """Compile the library into a folder, unless it is there; return the environment of a process that runs on it.

    Raises:
        CannotBuildError: this torch knows no CUDA, or a compiler or CUDA's headers are missing.
    """
    library = folder / 'libpretend.so'
    # Without its cache, torch allocates each tensor anew, so that all of them start at zero in every run.
    environment = {'LD_PRELOAD': str(library), 'PRETEND_LIBRARY': str(library), 'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
    if library.exists():
        return environment

    if sys.platform != 'linux' or torch.version.cuda is None:
        raise CannotBuildError('torch is not a build for CUDA on Linux')
    for program in ('gcc', 'nm'):
        if shutil.which(program) is None:
            raise CannotBuildError(f'{program} is missing')

    # Whatever torch asks for and runtime.c does not have does nothing.
    text = SOURCE.read_text(encoding='utf-8')
    written = set(re.findall(r'^(?:const char \*|int )(\w+)\(', text, re.MULTILINE))
    stubs = [f'int {name}(void) {{ return 0; }}' for name in sorted(_find_undefined() - written)]
    complete = folder / 'complete.c'
    complete.write_text('\n'.join([text, *stubs, '']), encoding='utf-8')

    # It is the driver too: whoever loads libcuda.so.1 gets what is already loaded by that name.
    options = ['-shared', '-fPIC', '-O1', '-w', '-Wl,-soname,libcuda.so.1', '-I', str(_find_headers())]
    result = subprocess.run(['gcc', *options, '-o', library, complete], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CannotBuildError(f'gcc says: {result.stderr.strip()}')
    return environment


def _find_undefined() -> set[str]:
    """Return the functions that torch expects from CUDA's libraries."""
    found = set()
    for name in LIBRARIES:
        path = Path(torch.__file__).with_name('lib') / f'lib{name}.so'
        command = ['nm', '-D', '--undefined-only', '--format=posix', path]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            symbol = line.partition(' ')[0].partition('@')[0]
            if STANDS_FOR.fullmatch(symbol):
                found.add(symbol)
    return found


def _find_headers() -> Path:
    """Return a folder with CUDA's headers: of triton, of NVIDIA's packages, or the system's."""
    packages = Path(torch.__file__).parents[1]
    folders = [*packages.glob('triton/backends/nvidia/include'), *packages.glob('nvidia/*/include')]
    for folder in [*folders, Path('/usr/local/cuda/include')]:
        if (folder / 'driver_types.h').exists() and (folder / 'crt' / 'host_defines.h').exists():
            return folder
    raise CannotBuildError("CUDA's headers are missing (driver_types.h)")
