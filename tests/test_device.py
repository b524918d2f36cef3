"""How a process uses the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from conftest import ROOT

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
