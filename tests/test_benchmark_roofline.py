"""The cost of a training step on a GPU is counted without one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.fake_gpu import CPU
from benchmarks.inductor import CompiledNetwork
from benchmarks.kernels import CONVOLUTION, DEPTHWISE, KernelCounter
from benchmarks.step_worker import FlopCounter
from conftest import tiny_options, write_options
from gpen.archs.layers import Blur
from gpen.archs.ops import concat_leaky_relu
from gpen.models import build_model
from gpen.options import parse_options
from gpen.utils.arithmetic import ieee_float32, set_arithmetic

Numbers = dict[str, Any]

# Both runs in a process of its own, since torch gets a further device there.
RUNS = """
import benchmark, json, sys
for words in json.loads(sys.argv[1]):
    assert benchmark.main(['roofline', *words]) == 0
"""


@pytest.fixture(scope='module')
def options(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('roofline')
    options = tiny_options(folder / 'nowhere', folder)
    options['network_g'] |= {'size': 8, 'n_mlp': 1}
    options['network_d'] |= {'size': 8}
    return write_options(folder / 'tiny.yml', options)


@pytest.fixture(scope='module')
def counted(options: Path) -> tuple[Numbers, Numbers]:
    """All numbers for the option file, and those in bf16 with channels last and recomputation in micro-batches."""
    files = [options.with_name(name) for name in ('plain.json', 'half.json')]
    settings = ['train:channels_last=true', 'datasets:train:accumulate=2']
    more: list[list[str]] = [[], ['--amp', 'bf16', '--force_yml', *settings]]
    runs = [['-opt', str(options), '--json', str(file), *words] for file, words in zip(files, more, strict=True)]
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, '-c', RUNS, json.dumps(runs)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    plain, half = (json.loads(file.read_text()) for file in files)
    return plain, half


def test_a_step_has_the_operations_of_a_real_one_and_every_weight_is_read_and_written(
    options: Path, counted: tuple[Numbers, Numbers]
) -> None:
    numbers, _ = counted
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


def test_precisions_and_layouts_are_those_of_a_gpu(counted: tuple[Numbers, Numbers]) -> None:
    _, numbers = counted
    rows = [row for rows in numbers['steps'].values() for row in rows if row['kind'] == 'convolution']
    assert {row['precision'] for row in rows} == {'bf16', 'tf32', 'fp32'}  # the last one with R1
    half = [row for row in rows if row['precision'] == 'bf16']
    assert sum(row['flops'] for row in half if row['nhwc']) > 0.99 * sum(row['flops'] for row in half)
    assert {row['backend'] for row in rows} >= {'Cudnn', 'CudnnTranspose'}


def test_compiled_operations_between_convolutions_are_one_kernel() -> None:
    with FakeTensorMode() as fake:
        network = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.LeakyReLU(), nn.Softsign())
    with fake, KernelCounter(CPU) as counter, torch.autocast('cpu', torch.bfloat16):
        result = CompiledNetwork(network, counter)(torch.empty(4, 8, 64, 64, dtype=torch.bfloat16))
        forward = counter.take()
        result.sum().backward()
        backward = [call for call in counter.take() if call[0].kind == 'convolution']

    # In the forward pass, the weight is cast, and activations follow the convolution; the backward pass has no input's.
    convolution = 2 * 4 * 16 * 8 * 9 * 64**2
    assert [(kernel.kind, kernel.precision, work.flops) for kernel, work in forward] == [
        ('other', 'fp32', 0),
        ('convolution', 'bf16', convolution),
        ('other', 'fp32', 0),
    ]
    assert [(kernel.precision, work.flops) for kernel, work in backward] == [('bf16', convolution)]
    weight, image = 16 * 8 * 9, 4 * 16 * 64**2
    assert [work.bytes for kernel, work in forward if kernel.kind == 'other'] == [6 * weight, 4 * image]


def test_compiled_convolutions_have_the_precision_of_each_call_and_the_kernels_of_a_gpu() -> None:
    with FakeTensorMode() as fake:
        network = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), Blur(padding=1, down=2))
    found = []
    with fake, KernelCounter(CPU) as counter:
        compiled = CompiledNetwork(network, counter)
        set_arithmetic(tf32=True, deterministic=False)
        for is_needed in (True, False):
            with ieee_float32(is_needed):
                compiled(torch.empty(1, 4, 16, 16)).sum().backward()
            calls = [kernel for kernel, _ in counter.take() if kernel.kind in (CONVOLUTION, DEPTHWISE)]
            found.append({(kernel.name, kernel.kind, kernel.precision) for kernel in calls})
    filters = {(name, DEPTHWISE, 'fp32') for name in ('convolution', 'convolution_backward')}
    for precision, kernels in zip(('fp32', 'tf32'), found, strict=True):
        assert kernels == filters | {(name, CONVOLUTION, precision) for name in ('convolution', 'convolution_backward')}


def test_samples_are_concatenated_and_activated_in_one_kernel_where_a_step_is_compiled() -> None:
    class Concatenation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            return concat_leaky_relu(x.split(1), x, self.weight, self.bias)

    with FakeTensorMode() as fake:
        network = Concatenation()
    with fake, KernelCounter(CPU) as counter:
        CompiledNetwork(network, counter)(torch.empty(2, 4, 16, 16))
    assert [kernel.name for kernel, _ in counter.take()] == ['fused pointwise']


def test_what_an_operation_overwrites_is_not_read() -> None:
    with FakeTensorMode(), KernelCounter(CPU) as counter:
        a, b, c = (torch.empty(4) for _ in range(3))
        torch.add(a, b, out=c)
        a.add_(b)
        a.copy_(b)
    assert [(kernel.name, work.bytes) for kernel, work in counter.take()] == [('add', 48), ('add_', 48), ('copy_', 32)]
