"""Whole commands on the pretend GPU: training, resuming on either device, restoring, and two ranks.

``pretend_gpu.strict`` watches every training loop here: between records, validations and checkpoints it may not wait.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import processes
from comparing import read_records
from conftest import tiny_options, write_options

processes.CONTEXT.set_forkserver_preload(['pretend_gpu.strict', *processes.PRELOADED])
NO_GPU = {'PRETEND_GPUS': '0'}


class WaitingLoss(nn.Module):
    """A loss of a user that reads a value of the GPU, for which the host has to wait."""

    def forward(self, restored: Tensor, gt: Tensor) -> Tensor:
        return (restored - gt).abs().mean() * float(gt.max())


def write(data: Path, root: Path, workers: int = 0, **train: Any) -> Path:
    """Write the tiny options for whatever device there is."""
    options = tiny_options(data, root)
    options['num_gpu'] = 'auto'
    options['datasets']['train']['num_worker_per_gpu'] = workers
    options['train'] |= train
    return write_options(root / 'tiny.yml', options)


def train(option_file: Path, *arguments: object, **settings: Any) -> str:
    status, printed = processes.run(option_file.with_name('log'), '-opt', option_file, *arguments, **settings)
    assert status == 0, printed
    assert 'Traceback' not in printed
    return printed


def test_a_killed_run_goes_on_with_a_gpu_then_without_one_and_with_one_again(tiny_data: Path, tmp_path: Path) -> None:
    option_file = write(tiny_data, tmp_path, workers=1, total_epochs=2)
    status, printed = processes.run(tmp_path / 'log', '-opt', option_file, kill_at=('step', 7))
    assert status == -signal.SIGKILL, printed
    assert 'Training on Pretend GPU.' in printed

    places = [({}, 'on Pretend GPU', 4), (NO_GPU, 'on the CPU', 8), ({}, 'on Pretend GPU', 12)]
    for epochs, (environment, place, start) in enumerate(places, start=2):
        more = ('--auto_resume', '--force_yml', f'train:total_epochs={epochs}')
        printed = train(option_file, *more, environment=environment)
        assert f'Training {place}' in printed
        assert f'after iteration {start}.' in printed
    records = read_records(tmp_path / 'experiments' / 'tiny')
    assert [record['iter'] for record in records if record['phase'] == 'val'] == [4, 8, 12, 16]


@pytest.fixture(scope='module')
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models of a run on the GPU."""
    root = tmp_path_factory.mktemp('trained')
    assert 'Training on Pretend GPU.' in train(write(tiny_data, root, workers=1, total_epochs=1))
    return root / 'experiments' / 'tiny' / 'models'


def test_files_of_models_and_training_states_hold_tensors_of_the_cpu(trained: Path) -> None:
    paths = [*trained.glob('*.pth'), *trained.parent.rglob('*.state')]
    assert {path.suffix for path in paths} == {'.pth', '.state'}
    for path in paths:
        content = torch.load(path, weights_only=True)  # each where it was saved from
        tensors = [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]
        assert {tensor.device.type for tensor in tensors} == {'cpu'}, path


@pytest.mark.parametrize('more', [(), ('--precision', 'bf16')], ids=['float32', 'bf16'])
def test_faces_are_restored(more: tuple[str, ...], trained: Path, tiny_data: Path, tmp_path: Path) -> None:
    where = ('--input', tiny_data / 'val' / 'blurry', '--output', tmp_path / 'restored')
    arguments = ('--aligned', '--device', 'cuda', '--model', trained / 'net_g_latest.pth', *where, *more)
    status, printed = processes.run(tmp_path / 'log', *arguments, command='restore')
    assert status == 0, printed
    assert len(list((tmp_path / 'restored').glob('*.png'))) == 3


def test_a_dry_run_tries_a_step_and_a_validation(tiny_data: Path, tmp_path: Path) -> None:
    changes = ('--force_yml', 'datasets:train:accumulate=auto', 'deterministic=true', 'train:tf32=false')
    printed = train(write(tiny_data, tmp_path), '--dry_run', *changes)
    assert 'Training on Pretend GPU.' in printed
    assert 'Validation of one batch' in printed
    assert 'The options are good.' in printed


def test_a_step_that_makes_the_host_wait_ends_a_run(tiny_data: Path, tmp_path: Path) -> None:
    option_file = write(tiny_data, tmp_path, losses={'waiting': {'type': 'pretend_gpu.check_runs.WaitingLoss'}})
    status, printed = processes.run(tmp_path / 'log', '-opt', option_file)
    assert status == 1, printed
    assert 'the host waits for the GPU' in printed


# ---- two ranks


def train_two(root: Path, *arguments: object, **settings: Any) -> list[tuple[int, str]]:
    environment = {'PRETEND_GPUS': '2', 'PRETEND_COLLECTIVES': str(root / 'collectives')}
    return processes.run_together(root, '-opt', root / 'tiny.yml', *arguments, environment=environment, **settings)


def read_collectives(root: Path) -> list[list[str]]:
    """Return what each rank exchanged over the GPUs since this was asked for last, in its order."""
    paths = [root / f'collectives.{rank}' for rank in range(2)]
    found = [path.read_text().splitlines() for path in paths]
    for path in paths:
        path.unlink()
    return found


def test_two_ranks_exchange_the_same_in_the_same_order_before_a_kill_and_after_it(
    tiny_data: Path, tmp_path: Path
) -> None:
    helpers = {'path_reg_weight': 2.0, 'net_g_reg_every': 2, 'augment_opt': {'ada_target': 0.1, 'ada_images': 40}}
    write(tiny_data, tmp_path, total_epochs=3, **helpers)  # 2 iterations each

    results = train_two(tmp_path, special={1: {'kill_at': ('step', 4)}})
    assert [status for status, _ in results] == [2, -signal.SIGKILL], results
    assert 'Another process of this training has ended' in results[0][1]
    first, second = read_collectives(tmp_path)
    assert first[: len(second)] == second

    results = train_two(tmp_path, '--auto_resume')
    assert [status for status, _ in results] == [0, 0], results
    assert 'Training on Pretend GPU in each of 2 processes.' in results[0][1]
    assert 'after iteration 2.' in results[0][1]
    first, second = read_collectives(tmp_path)
    assert first == second
    assert any(line.startswith('all-reduce') for line in first)
