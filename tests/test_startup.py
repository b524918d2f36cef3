"""What happens between the command and the first step: nothing is imported or scanned that need not be."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpen.distributed import ranks
from tiny_model import build

UNNEEDED = ('torch._dynamo', 'torch._inductor', 'sympy', 'scipy', 'matplotlib', 'torchvision', 'basicsr', 'facexlib')


def test_training_imports_no_compiler_and_no_package_of_an_option_that_is_off(option_file: Path) -> None:
    code = (
        'import sys; from gpen.commands.train import main; '
        f'assert main(["-opt", {str(option_file)!r}, "--force_yml", "train:total_epochs=1"]) == 0; '
        f'print("imported:", [name for name in {UNNEEDED} if name in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith('imported: []\n')


def test_a_compiled_network_calls_the_exchange_between_ranks_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling: list[bool] = []
    real_compile: Any = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda network: network)
    monkeypatch.setattr(ranks, '_sum_over_ranks', ranks._sum_over_ranks)
    build(train={'compile': True})

    monkeypatch.setattr(ranks, 'world_size', lambda: 2)
    monkeypatch.setattr(ranks.dist, 'all_reduce', lambda _: compiling.append(torch.compiler.is_compiling()))

    def double_mean(x: Tensor) -> Tensor:
        return ranks.mean_over_ranks(x) * 2

    x = torch.ones(3, requires_grad=True)
    result = real_compile(double_mean, backend='eager')(x)
    assert torch.equal(result, x)
    assert compiling == [False]
