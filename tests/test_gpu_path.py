"""The path through CUDA, on a pretend GPU: no kernel computes anything, but all that the host does is real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT


@pytest.mark.parametrize('checks', ['steps', 'runs'])
def test_what_the_host_asks_of_a_gpu_is_right(checks: str, pretend_gpu: dict[str, str], tmp_path: Path) -> None:
    """Run the checks in a pytest of their own: CUDA's libraries can only be replaced when a process starts."""
    path = ROOT / 'tests' / 'pretend_gpu' / f'check_{checks}.py'
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-p',
        'no:cacheprovider',
        '--show-capture=no',
        '--basetemp',
        str(tmp_path / 'inner'),
        str(path),
    ]
    environment = {**os.environ, **pretend_gpu, 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-5_000:]
