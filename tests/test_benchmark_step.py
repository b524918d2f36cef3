"""The benchmark's plain training step does what ours does, and both are measured."""

import json
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import benchmark
import processes
from benchmarks import step, step_worker
from benchmarks.plain_step import PlainStep
from benchmarks.step import DEPTHWISE, OURS, PLAIN, StepCost, format_costs
from benchmarks.step_worker import FlopCounter, Shares, Stepper, StepSetting
from gpen.errors import UserError
from gpen.models.gpen_model import GPENModel
from tiny_model import batch_of, build, logged

TINY = StepSetting(16, 0.01, 2)
R1_EVERY = 3
# Of the adversarial losses, which ours computes in float32, whatever the networks compute in.
ROUNDING = 1e-6


def build_double() -> GPENModel:
    """A tiny model in float64 that uses its encoder's features, as one does that has been trained."""
    model = build(network_g={'narrow': 0.02}, network_d={'narrow': 0.02}, train={'net_d_reg_every': R1_EVERY})
    assert model.net_d is not None
    for network in (model.net_g, model.net_d, model.net_g_ema):
        network.double()
        for name, parameter in network.named_parameters():
            if name.endswith('noise.weight'):
                nn.init.constant_(parameter, 0.7)
    return model


def double_batch(iteration: int) -> dict[str, Any]:
    batch = batch_of(iteration)
    return {**batch, 'lq': batch['lq'].double(), 'gt': batch['gt'].double()}


def assert_near(network: nn.Module | None, parameters: dict[str, nn.Parameter]) -> None:
    assert network is not None
    ours = dict(network.named_parameters())
    assert list(ours) == list(parameters)
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, parameters[name], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize('depthwise', [False, True])
def test_plain_steps_give_the_losses_the_weights_and_the_average_of_ours(depthwise: bool) -> None:
    ours, plain = build_double(), PlainStep(build_double(), depthwise)
    for iteration in range(1, R1_EVERY + 2):
        before = plain.net_g['ecd0.0.0.weight'].clone()
        ours.train_step(double_batch(iteration), iteration)
        losses = plain(double_batch(iteration), iteration)
        expected = logged(ours)
        assert ('D_r1' in losses) == (iteration == R1_EVERY)
        for name, loss in losses.items():
            assert loss == pytest.approx(expected[name], abs=ROUNDING)
        assert_near(ours.net_g, plain.net_g)
        assert_near(ours.net_d, plain.net_d)
        assert_near(ours.net_g_ema, plain.ema)
        assert (plain.net_g['ecd0.0.0.weight'] - before).abs().max() > 100 * ROUNDING


def test_the_plain_step_restores_the_images_twice_and_ours_once() -> None:
    flops = {variant: Stepper(variant, TINY, 1).count_flops(with_r1=False) for variant in (OURS, PLAIN, DEPTHWISE)}
    model = GPENModel(TINY.options(), torch.device('cpu'), frozen=True)
    with FlopCounter() as restoring:
        model.restore(torch.zeros(2, 3, 16, 16))
    assert flops[DEPTHWISE] == flops[PLAIN]
    assert flops[PLAIN] - flops[OURS] > 0.9 * restoring.flops


def test_the_operations_of_a_grouped_convolution_are_counted_once() -> None:
    x, weight = torch.randn(2, 6, 8, 8, requires_grad=True), torch.randn(9, 2, 3, 3, requires_grad=True)
    forward = 2 * 2 * 9 * 6 * 6 * 2 * 3 * 3
    with FlopCounter() as counter:
        y = F.conv2d(x, weight, groups=3)
    assert counter.flops == forward
    with FlopCounter() as counter:
        y.sum().backward()
    assert counter.flops == 2 * forward  # of the input and of the weight


def test_every_sixteenth_step_is_one_with_r1(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = Stepper(OURS, TINY, 1)
    iterations: list[int] = []
    monkeypatch.setattr(stepper, '_step', lambda _batch, iteration: iterations.append(iteration))
    for with_r1 in (True, False, True, *[False] * 16):
        stepper.time(with_r1)
    assert iterations == [16, 17, 32, *range(33, 48), 49]


def test_a_run_prints_both_steps_and_writes_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_worker, 'get_context', lambda _: processes.CONTEXT)  # it has imported everything
    monkeypatch.setattr(step, 'MatrixProduct', partial(step.MatrixProduct, 64))
    target = tmp_path / 'numbers.json'
    arguments = ['--size', '16', '--narrow', '0.01', '--rounds', '1', '--r1', '--json', str(target)]
    assert benchmark.main(['step', *arguments, '--threads', '1']) == 0
    lines = [line.split('|')[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    kinds = [f'{TINY}{r1}: {variant}' for r1 in ('', ', with R1') for variant in (PLAIN, OURS)]
    assert lines[2:] == kinds
    numbers = json.loads(target.read_text())
    assert numbers['settings'] == {'threads': 1, 'rounds': 1}
    assert numbers['machine']['torch'].startswith(torch.__version__.split('+')[0])
    product = numbers['matrix_product']
    assert 0 < product['median'] <= product['best'] == max(product['rates'])
    assert [(row['variant'], row['with_r1']) for row in numbers['steps']] == [
        (variant, r1) for r1 in (False, True) for variant in (PLAIN, OURS)
    ]
    plain, ours, plain_r1, ours_r1 = numbers['steps']
    for row in numbers['steps']:
        assert row['setting'] == {'size': 16, 'narrow': 0.01, 'batch': 2}
        assert len(row['seconds']) == 1
        assert 0 < row['shares']['convolutions'] + row['shares']['matrix_products'] < 1
        assert row['flops_per_second'] == pytest.approx(row['flops'] / row['median'])
        assert row['share_of_matrix_product'] == pytest.approx(row['flops_per_second'] / product['median'])
        assert row['peak_memory'] > 0
    assert ours['times_as_fast'] == pytest.approx(plain['median'] / ours['median'])
    assert plain_r1['flops'] > plain['flops']
    assert ours_r1['flops'] > ours['flops']


def test_the_table_compares_the_medians_of_the_rounds() -> None:
    shares = Shares(convolutions=0.7, matrix_products=0.05)
    plain = StepCost(TINY, PLAIN, False, [4.0, 90.0, 6.0], 12_000_000_000, shares, 300)
    ours = StepCost(TINY, OURS, False, [2.0, 1.9, 2.5], 10_000_000_000, shares, 200)
    cells = [cell.strip() for cell in format_costs([plain, ours], 10e9).splitlines()[-1].split('|')[1:-1]]
    assert cells == [f'{TINY}: ours', '2 (1.9 to 2.5)', '3.00', '10', '5', '50%', '70%', '5%', '200']


def choose(*arguments: str) -> list[StepSetting]:
    return step.choose_settings(benchmark.parse_arguments(['step', *arguments]))


def test_settings_are_the_default_several_by_their_places_and_the_full_one() -> None:
    default, full = StepSetting(256, 0.25, 2), StepSetting(512, 1.0, 1)
    assert choose() == [default]
    assert choose('--full') == [default, full]
    assert choose('--size', '512', '--narrow', '1', '--batch', '1', '--full') == [full]
    assert choose('--size', '64', '128', '--batch', '4', '2') == [StepSetting(64, 0.25, 4), StepSetting(128, 0.25, 2)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--size', '64', '128', '--batch', '4', '2', '1'), '--size has 2 values where another has 3'),
        (('--narrow', '0.0001'), 'leaves no channel'),
    ],
)
def test_settings_that_cannot_be_are_one_message(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(*arguments)


@pytest.mark.parametrize('part', ['step', 'restore'])
def test_a_size_that_no_network_takes_is_refused_in_a_sentence(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        benchmark.parse_arguments([part, '--size', '60'])
    assert 'argument --size: 60 is no size of a network: give 8, 16, 32' in capsys.readouterr().err


class KilledWorker:
    """A worker whose process has been ended."""

    def call(self, *_: object) -> None:
        raise BrokenProcessPool


def test_a_process_without_memory_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, 'Worker', lambda *_: nullcontext(KilledWorker()))
    arguments = ['step', '--size', '16', '--narrow', '0.01', '--threads', str(torch.get_num_threads())]
    assert benchmark.main(arguments) == 2
    assert 'Lower --batch, --size or --narrow' in capsys.readouterr().err


def test_help_comes_without_torch() -> None:
    code = 'import sys, benchmark, atexit; atexit.register(lambda: print("torch" in sys.modules)); benchmark.main()'
    command = [sys.executable, '-c', code, 'step', '--help']
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '--r1' in printed
    assert printed.endswith('False\n')
