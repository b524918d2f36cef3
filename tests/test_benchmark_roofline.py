"""The cost of a training step on a GPU is counted without one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.step_worker import FlopCounter
from conftest import run_code, tiny_options, write_options
from gpen.models import build_model
from gpen.options import parse_options


def count(file: Path, *arguments: object) -> dict[str, Any]:
    """Return all numbers for an option file; a process of its own, since torch gets a further device there."""
    numbers = file.with_suffix('.json')
    result = run_code('scripts/benchmark.py', 'roofline', '-opt', file, '--json', numbers, *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(numbers.read_text())


@pytest.fixture(scope='module')
def options(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('roofline')
    return write_options(folder / 'tiny.yml', tiny_options(folder / 'nowhere', folder))


def test_a_step_has_the_operations_of_a_real_one_and_every_weight_is_read_and_written(options: Path) -> None:
    numbers = count(options)
    real = parse_options(str(options), ['train:num_gpu=0'], phases=('none',)).options
    model = build_model(real, torch.device('cpu'))
    size, batch = real.network_g.arguments['size'], real.datasets.train.batch_size_per_gpu
    images = {name: torch.zeros(batch, 3, size, size) for name in ('lq', 'gt')}
    for name, (iteration, _) in numbers['shares'].items():
        with FlopCounter() as counter:
            model.train_step({**images, 'gt_path': [''] * batch}, iteration)
        rows = numbers['steps'][name]
        assert sum(row['flops'] for row in rows) == counter.flops

        # Adam reads the weight, its gradient and two moments, and writes all but the gradient.
        learns = [model.net_d, *([model.net_g] if 'generator' in name else [])]
        weights = sum(parameter.numel() for network in learns for parameter in network.parameters())
        (adam,) = [row for row in rows if row['name'] == '_fused_adam_']
        assert adam['bytes'] == pytest.approx(7 * 4 * weights, rel=0.02)


def test_precisions_and_layouts_are_those_of_a_gpu(options: Path) -> None:
    numbers = count(options, '--amp', 'bf16', '--force_yml', 'train:channels_last=true')
    rows = [row for rows in numbers['steps'].values() for row in rows if row['kind'] == 'convolution']
    assert {row['precision'] for row in rows} == {'bf16', 'tf32'}
    assert {row['nhwc'] for row in rows} == {True, False}
    assert {row['backend'] for row in rows} >= {'Cudnn', 'CudnnTranspose'}
