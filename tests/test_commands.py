"""The commands as a user meets them: what they print, write and exit with."""

import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import processes
from command_line import fail, read_records, states_in, succeed
from conftest import ROOT, tiny_options, write_options, write_pairs
from gpen.commands import train as train_command
from gpen.data.image_io import read_image
from gpen.errors import UserError
from gpen.models import step_log
from gpen.models.gpen_model import GPENModel
from gpen.utils.device import explain_out_of_memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The experiment folder of ``option_file``."""
    return tmp_path / 'experiments' / 'tiny'


# --- train


def test_training_may_be_counted_in_iterations(tiny_data: Path, tmp_path: Path, folder: Path) -> None:
    options = tiny_options(tiny_data, tmp_path)
    del options['train']['total_epochs'], options['train']['warmup_epochs']
    options['train'] |= {'total_iter': 10, 'warmup_iter': 3, 'base_lr': 0.0}
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'unit': 'iter', 'milestones': [6], 'gamma': 0.5}
    options['val']['val_freq'] = 4
    options['logger'] |= {'print_freq': 1, 'save_checkpoint_freq': 5, 'keep_last': 9}
    printed = succeed(write_options(tmp_path / 'tiny.yml', options))
    assert 'Finished: all 10 iterations are done.' in printed
    records = read_records(folder, 'train')
    assert sorted(records) == list(range(1, 11))
    rates = [records[n]['lr_g'] for n in range(1, 11)]
    assert rates == pytest.approx([0, 2e-3 / 3, 4e-3 / 3, 2e-3, 2e-3, 2e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    assert [records[n]['epoch'] for n in (1, 4, 5, 8, 9, 10)] == [1, 1, 2, 2, 3, 3]
    assert sorted(read_records(folder, 'val')) == [4, 8, 10]
    assert {5, 10} <= set(states_in(folder)) <= {4, 5, 8, 10}


def test_a_run_without_validation_data_trains_and_has_no_best_file(
    tiny_data: Path, tmp_path: Path, folder: Path
) -> None:
    options = tiny_options(tiny_data, tmp_path)
    del options['datasets']['val']
    printed = succeed(write_options(tmp_path / 'tiny.yml', options), 'train:total_epochs=2')
    assert 'no val set: no validation, no best file, no early stopping' in printed
    assert f'Latest weights: {folder}/models/net_g_latest.pth' in printed
    assert read_records(folder, 'val') == {}
    assert not (folder / 'models' / 'net_g_best.pth').exists()
    assert (folder / 'models' / 'net_g_latest.pth').is_file()


def test_early_stopping_ends_the_run_and_says_why_and_where_the_best_file_is(option_file: Path, folder: Path) -> None:
    stop = ('train:early_stopping={metric: psnr, patience: 2, min_delta: 50, min_iter: 0}', 'train:total_epochs=9')
    printed = succeed(option_file, *stop)
    assert 'Early stopping: psnr has not improved for 2 validations.' in printed
    records = read_records(folder, 'val')
    assert sorted(records) == [4, 8, 12]
    best = max(records, key=lambda n: records[n]['val/psnr'])
    value = records[best]['val/psnr']
    assert f'Best psnr: {value:.4f} at iteration {best}: {folder}/models/net_g_best.pth' in printed
    assert states_in(folder)[-1] == 12
    again = succeed(option_file, *stop, flags=('--auto_resume',))
    assert 'Early stopping: psnr has not improved for 2 validations.' in again
    assert sorted(read_records(folder, 'val')) == [4, 8, 12]


def test_a_run_stopped_early_between_two_checkpoints_is_saved_where_it_stopped(option_file: Path, folder: Path) -> None:
    stop = ('train:early_stopping={metric: psnr, patience: 2, min_delta: 50, min_iter: 0}', 'val:val_freq=2')
    succeed(option_file, *stop, 'logger:save_checkpoint_freq=100')
    assert states_in(folder)[-1] == 6


def test_validation_pictures_can_be_written_as_files_and_tensorboard_left_out(option_file: Path, folder: Path) -> None:
    succeed(
        option_file, 'train:total_epochs=1', 'val:save_img=true', 'val:num_pictures=2', 'logger:use_tb_logger=false'
    )
    assert read_image(folder / 'visualization' / '4.png').shape == (2 * 16, 3 * 16, 3)
    assert not (folder / 'tb_logger').exists()


def test_a_gpu_where_there_is_none_is_said_and_training_goes_on(option_file: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    printed = succeed(option_file, 'num_gpu=1', 'train:total_epochs=1')
    assert 'Training on the CPU with 1 thread: num_gpu is 1, but PyTorch finds no GPU here.' in printed
    assert 'Finished' in printed


def test_further_losses_are_named_in_the_option_file(option_file: Path, folder: Path) -> None:
    succeed(option_file, 'train:losses={char: {type: CharbonnierLoss, loss_weight: 0.5}}', 'train:total_epochs=1')
    assert read_records(folder, 'train')[3]['G_loss_char'] > 0


@pytest.mark.skipif(importlib.util.find_spec('basicsr') is None, reason='basicsr is not installed')
def test_a_loss_of_basicsr_is_named_in_the_option_file(option_file: Path, folder: Path) -> None:
    loss = 'train:losses={smooth: {type: WeightedTVLoss, loss_weight: 0.1}}'
    succeed(option_file, loss, 'train:total_epochs=1')
    assert read_records(folder, 'train')[3]['G_loss_smooth'] > 0
    printed = fail(option_file, loss.replace('loss_weight', 'los_weight'))
    assert "train.losses.smooth.los_weight: there is no such option. Did you mean 'loss_weight'?" in printed


# --- train: what goes wrong


def test_losses_that_are_not_finite_end_training_with_the_last_good_checkpoint_kept(
    option_file: Path, folder: Path
) -> None:
    # The first step of the second epoch throws the weights away.
    explosion = 'train:scheduler={type: MultiStepLR, milestones: [1], gamma: 1e30}'
    printed = fail(option_file, explosion, 'train:warmup_epochs=0', 'train:total_epochs=9')
    lines = [line for line in printed.splitlines() if 'not finite' in line]
    assert len(lines) == 10
    assert re.match(
        r'Iteration 5: \S.* not finite; this step of the \S.* was skipped\. Files of the batch: /.*\.png, /.*\.png\.',
        lines[0],
    )
    assert 'G_loss_adv' in lines[0]
    assert 'That is 10 steps in a row; training stops here, the last good checkpoint is kept.' in lines[-1]
    # Two checkpoints were saved meanwhile, and only two are kept: these are not what was good.
    assert states_in(folder) == [4]
    assert f'Last good checkpoint: {folder}/training_states/4.state' in printed
    assert (folder / 'models' / 'net_g_4.pth').samefile(folder / 'models' / 'net_g_latest.pth')
    assert 'not finite' in (folder / 'train.log').read_text()
    assert 'Continuing from' in succeed(option_file, flags=('--auto_resume',))
    assert sorted(read_records(folder, 'val')) == [4, 8, 12, 16]


def test_on_a_gpu_training_ends_soon_after_ten_steps_that_are_not_finite(
    option_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_log, '_makes_wait', lambda _: True)
    options = yaml.safe_load(option_file.read_text())
    options['train'] |= {'scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'gamma': 1e30}, 'warmup_epochs': 0}
    options['train']['total_epochs'] = 99
    options['logger'] |= {'print_freq': 1000, 'save_checkpoint_freq': 1000}
    options.pop('val')
    options['datasets'].pop('val')
    assert train_here(write_options(option_file, options)) == 2
    records = (folder / 'metrics.jsonl').read_text()
    assert [f'Iteration {iteration}:' in records for iteration in (4, 5, 14, 15)] == [False, True, True, False]
    assert 'That is 10 steps in a row' in records
    assert json.loads((folder / 'run.json').read_text())['iteration'] <= 24


def damage_pixels(path: Path) -> None:
    """Damage a PNG where the scan before training does not look."""
    content = bytearray(path.read_bytes())
    place = content.index(b'IDAT') + 30
    content[place : place + 8] = bytes(byte ^ 0xFF for byte in content[place : place + 8])
    path.write_bytes(content)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_cannot_be_decoded_ends_training_with_its_name(workers: int, tmp_path: Path) -> None:
    for phase in ('train', 'val'):
        write_pairs(tmp_path / phase, 4)
    damage_pixels(tmp_path / 'train' / 'blurry' / '002.png')
    option_file = write_options(tmp_path / 'tiny.yml', tiny_options(tmp_path, tmp_path))
    printed = fail(option_file, f'datasets:train:num_worker_per_gpu={workers}')
    assert f'{tmp_path}/train/blurry/002.png cannot be used: it is damaged. Replace or remove the file.' in printed


def test_a_truncated_image_is_named_before_training(tmp_path: Path, folder: Path) -> None:
    for phase in ('train', 'val'):
        write_pairs(tmp_path / phase, 4)
    path = tmp_path / 'val' / 'sharp' / '001.png'
    path.write_bytes(path.read_bytes()[:-30])
    printed = fail(write_options(tmp_path / 'tiny.yml', tiny_options(tmp_path, tmp_path)))
    assert 'datasets.val: ' in printed
    assert f'{path}: it is cut off' in printed
    assert not folder.exists()


def train_here(option_file: Path, *flags: str) -> int:
    """Run the training command in this process, so that a test can reach into it."""
    return train_command.main(['-opt', str(option_file), *flags])


OUT_OF_MEMORY = [
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError('[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to ...'),
    RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
    MemoryError(),
]


@pytest.mark.parametrize('error', OUT_OF_MEMORY, ids=['GPU', 'Linux', 'Windows', 'cuBLAS', 'Python'])
def test_out_of_memory_is_one_sentence_with_what_to_lower(error: Exception) -> None:
    with pytest.raises(UserError) as caught, explain_out_of_memory('Lower this.'):
        raise error
    assert str(caught.value) == 'Out of memory. Lower this.'


def test_other_errors_are_not_taken_for_out_of_memory() -> None:
    with pytest.raises(RuntimeError, match='shapes differ'), explain_out_of_memory('Lower this.'):
        raise RuntimeError('shapes differ')


@pytest.mark.parametrize('method', ['_build_training', 'train_step', 'restore'])
def test_out_of_memory_anywhere_in_a_run_exits_with_2(
    method: str, option_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(*_: object) -> None:
        raise OUT_OF_MEMORY[0]

    monkeypatch.setattr(GPENModel, method, run_out)
    for flags in ((), ('--dry_run',)):
        assert train_here(option_file, *flags) == 2
        printed = capsys.readouterr().err
        assert printed.count('Out of memory. Raise datasets.train.accumulate (now 1), set network_g.') == 1


def test_a_full_disk_ends_training_and_leaves_the_checkpoint_before(
    option_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_save = torch.save

    def save(content: Any, stream: Any) -> None:
        if '_8.pth' in stream.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_save(content, stream)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', save)
        assert train_here(option_file) == 2
    printed = capsys.readouterr().err
    assert printed.count(f'Cannot write {folder}/models/net_g_8.pth: the disk is full. Free some space') == 1
    assert states_in(folder) == [4]
    assert 'after iteration 4' in succeed(option_file, flags=('--auto_resume',))


def test_a_validation_that_was_given_up_is_made_up_for_once(
    option_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed(option_file, 'name=unbroken')
    real_restore = GPENModel.restore
    calls = 0

    def restore(model: GPENModel, lq: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first of two batches of the second validation
            os.kill(os.getpid(), signal.SIGTERM)
        return real_restore(model, lq)

    with monkeypatch.context() as patch:
        patch.setattr(GPENModel, 'restore', restore)
        assert train_here(option_file) == 143
    assert sorted(read_records(folder, 'val')) == [4]
    log = option_file.with_name('log')
    # Killed after the validation was made up for, and before there is a checkpoint that knows of it.
    status, _ = processes.run(log, '-opt', option_file, '--auto_resume', kill_at=('half_written', 1))
    assert status == -signal.SIGKILL
    status, _ = processes.run(log, '-opt', option_file, '--auto_resume', kill_at=('step', 1))
    assert status == -signal.SIGKILL
    succeed(option_file, flags=('--auto_resume',))
    assert read_records(folder, 'val') == read_records(folder.with_name('unbroken'), 'val')


# --- train --dry_run


def test_a_dry_run_tells_parameters_schedule_time_and_memory_and_writes_nothing(
    option_file: Path, tmp_path: Path
) -> None:
    cache = Path(os.environ['XDG_CACHE_HOME'])
    shutil.rmtree(cache, ignore_errors=True)
    before = sorted(tmp_path.rglob('*'))
    printed = succeed(option_file, flags=('--dry_run',))
    assert not cache.exists()
    for part in (
        r'network_g: GPEN, 3,002 parameters',
        r'network_d: GPENDiscriminator, 1,089 parameters',
        r'Data: 7 pairs to train on, 3 to validate on',
        r'Length: 16 iterations, 4 an epoch, 4 epochs',
        r'from iteration +1  epoch +1  lr_g 0\.0001  lr_d 0\.0001',
        r'from iteration +5  epoch +2  lr_g 0\.002  lr_d 0\.002',
        r'from iteration +13  epoch +4  lr_g 0\.001  lr_d 0\.001',
        r'Validation of one batch \(2 images, untrained\): psnr \d+\.\d+  ssim -?\d',
        r'Losses: .*D_loss_real \d.*G_loss_pixel \d',
        r'Time per step: \d+\.\d+ s',
        r'Peak memory: [\d,]+ MiB',
        r'Nothing was written',
    ):
        assert re.search(part, printed), part
    assert sorted(path for path in tmp_path.rglob('*') if path.name != 'log') == before


def test_a_dry_run_runs_the_step_that_needs_the_most_memory(option_file: Path) -> None:
    later = ('train:net_d_iters=2', 'train:net_d_init_iters=500', 'train:net_d_reg_every=16')
    printed = succeed(option_file, *later, flags=('--dry_run',))
    losses = next(line for line in printed.splitlines() if line.startswith('Losses: '))
    assert 'D_r1' in losses
    assert 'G_loss_pixel' in losses


def test_a_dry_run_leaves_an_earlier_run_alone(option_file: Path, folder: Path) -> None:
    succeed(option_file, 'train:total_epochs=1')
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    succeed(option_file, flags=('--dry_run',))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before


def test_a_dry_run_finds_what_the_options_alone_do_not_show(option_file: Path, tmp_path: Path) -> None:
    torch.save({'params': {'weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    printed = fail(option_file, f'path:pretrain_network_g={tmp_path}/other.pth', flags=('--dry_run',))
    assert f'{tmp_path}/other.pth' in printed


# --- all commands


@pytest.mark.parametrize('command', ['train', 'test', 'restore'])
@pytest.mark.parametrize('arguments', [(), ('--nonsense',), ('-opt',)])
def test_wrong_arguments_exit_with_2_and_the_usage(command: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    status, printed = processes.run(tmp_path / 'log', *arguments, command=command)
    assert status == 2
    assert printed.startswith('usage: ')
    assert 'Traceback' not in printed


@pytest.mark.parametrize('command', ['train', 'test', 'restore'])
def test_help_comes_without_importing_torch(command: str) -> None:
    result = subprocess.run(
        [sys.executable, '-X', 'importtime', str(ROOT / 'codes' / f'{command}.py'), '--help'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0
    assert result.stdout.startswith(f'usage: {command}.py')
    imported = {line.rpartition('|')[2].strip() for line in result.stderr.splitlines()}
    assert f'gpen.commands.{command}' in imported
    assert imported & {'torch', 'cv2', 'numpy', 'pydantic', 'torchvision', 'basicsr', 'facexlib'} == set()


@pytest.mark.parametrize('arguments', ['codes/train.py -opt quickstart', 'scripts/export.py --model m --format onnx'])
def test_a_python_without_the_packages_is_told_what_to_install(arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, '-S', *arguments.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.match(r'Error: this Python has no package \w+: .* -m pip install -r requirements\.txt\n$', done.stderr)


def test_a_full_disk_while_recording_is_said_once_and_in_the_log(
    option_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device', 'metrics.jsonl')

    monkeypatch.setattr('gpen.runs.recorder.Recorder.scalars', refuse)
    assert train_command.main(['-opt', str(option_file)]) == 2
    printed = capsys.readouterr().err
    assert printed.count('Cannot use metrics.jsonl: the disk is full.') == 1
    assert 'Free some space, then run the command again' in printed
    assert 'the disk is full' in (folder / 'train.log').read_text()
