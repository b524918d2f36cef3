"""How a process uses the machine, and how it recognises that memory ran out."""

import os
import platform
import subprocess
import sys

import pytest

from conftest import ROOT
from gpen.utils.device import is_out_of_memory

SCRIPT = """
import resource, sys
import torch
from gpen.utils.device import select_device
select_device(0)
def use():
    for _ in range(20):
        torch.zeros(16, 1024, 1024)  # 64 MiB
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(**variables: str) -> int:
    """Return how many pages the system had to give while 1.25 GiB were asked for and given back."""
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT / 'codes'), **variables}
    return int(subprocess.run([sys.executable, '-c', SCRIPT], env=environment, check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc is told to keep memory')
def test_memory_that_tensors_give_back_is_used_again_unless_the_user_chose_otherwise() -> None:
    pages = 20 * 64 * 256  # of 4 KiB
    assert count_faults() < pages / 100
    assert count_faults(MALLOC_TRIM_THRESHOLD_='131072') > pages / 100


@pytest.mark.parametrize(
    'message',
    [
        'CUDA out of memory. Tried to allocate 2.00 GiB.',
        'Failed to allocate memory for requested buffer of size 1073741824',  # ONNX Runtime's arena
        'std::bad_alloc',
        'OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 1073741824 bytes',
    ],
)
def test_every_library_is_understood_when_memory_runs_out(message: str) -> None:
    assert is_out_of_memory(Exception(message))


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError('The size of tensor a (4) must match the size of tensor b (3)'))
    assert is_out_of_memory(MemoryError())
