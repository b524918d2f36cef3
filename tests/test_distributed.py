"""Training with several processes: the same mathematics as one with the whole batch, and none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import processes
from command_line import states_in
from comparing import assert_same_run, read_records
from conftest import ROOT, tiny_options, write_options, write_pairs
from gpen.data.sampler import InfiniteBatchSampler
from gpen.errors import UserError
from gpen.runs.run_file import read_run_file


def options_for(data: Path, root: Path, batch_size: int, **changes: Any) -> Path:
    """Write the tiny options: 10 iterations in 5 epochs of 2, for 2 processes with 2 images each or one with 4."""
    options = tiny_options(data, root)
    options['train']['total_epochs'] = 5
    options['datasets']['train']['batch_size_per_gpu'] = batch_size
    for block, values in changes.items():
        options[block] = {**options[block], **values} if isinstance(values, dict) else values
    return write_options(root / 'tiny.yml', options)


def train_two(root: Path, option_file: Path, *arguments: object, **settings: Any) -> list[tuple[int, str]]:
    return processes.run_together(root, '-opt', option_file, *arguments, **settings)


@pytest.fixture(scope='module')
def unbroken(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder of a run of two processes that was never interrupted."""
    root = tmp_path_factory.mktemp('unbroken')
    caches = {rank: {'environment': {'XDG_CACHE_HOME': str(root / f'cache{rank}')}} for rank in range(2)}
    (status, _), (other_status, _) = train_two(root, options_for(tiny_data, root, 2), special=caches)
    assert (status, other_status) == (0, 0)
    return root / 'experiments' / 'tiny'


def train_alone(data: Path, root: Path, **changes: Any) -> Path:
    status, printed = processes.run(root / 'log', '-opt', options_for(data, root, 4, **changes))
    assert status == 0, printed
    return root / 'experiments' / 'tiny'


def assert_about_the_same_run(folder: Path, expected: Path) -> None:
    """Compare records and weights within rounding."""
    records, wanted = (
        [record for record in read_records(run) if record['phase'] != 'event'] for run in (folder, expected)
    )
    assert [list(record) for record in records] == [list(record) for record in wanted]
    for record, other in zip(records, wanted, strict=True):
        assert record.pop('phase') == other.pop('phase')
        assert record == pytest.approx(other, rel=1e-3, abs=1e-6)
    for name in ('net_g_latest.pth', 'net_d_latest.pth'):
        weights, wanted_weights = (torch.load(root / 'models' / name, weights_only=True) for root in (folder, expected))
        for kind, values in wanted_weights.items():
            for key, value in values.items():
                torch.testing.assert_close(weights[kind][key], value, rtol=1e-4, atol=1e-5, msg=f'{name} {kind} {key}')


def test_two_processes_do_what_one_does_with_the_whole_batch(unbroken: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert_about_the_same_run(unbroken, train_alone(tiny_data, tmp_path))


def have_memory(free: int) -> None:
    """Let a rank have so many free bytes, and print how many micro-batches it settles on."""
    from gpen.training import device, run

    settle = run.settle_micro_batches

    def settle_and_tell(options: Any, *arguments: Any) -> Any:
        sentence = settle(options, *arguments)
        sys.stdout.write(f'micro-batches: {options.micro_batches}\n')
        return sentence

    device._free_memory = lambda _: free
    run.settle_micro_batches = settle_and_tell


def test_two_processes_that_clip_and_accumulate_as_the_smaller_memory_allows_do_so_too(
    tiny_data: Path, tmp_path: Path
) -> None:
    train = {**tiny_options(tiny_data, tmp_path)['train'], 'total_epochs': 5}
    train |= {'use_grad_norm': True, 'grad_norm_clip': 0.3}  # R1 has a backward pass of its own then
    train['feature_matching_opt'] = {'type': 'FeatureMatchingLoss', 'loss_weight': 0.1}
    alone, together = make(tmp_path / 'alone'), make(tmp_path / 'together')
    expected = train_alone(tiny_data, alone, train=train)
    option_file = options_for(tiny_data, together, 2, train=train)
    ranks = {rank: {'prepare': partial(have_memory, free)} for rank, free in enumerate((10**12, 1))}
    results = train_two(together, option_file, '--force_yml', 'datasets:train:accumulate=auto', special=ranks)
    assert [status for status, _ in results] == [0, 0], results
    assert 'accumulate: auto is 2' in results[0][1]
    assert all('micro-batches: 2' in printed for _, printed in results)
    assert_about_the_same_run(together / 'experiments' / 'tiny', expected)


def trace_the_discriminator() -> None:
    """Compile the network that ranks exchange numbers inside of, up to where a C++ compiler would be needed."""
    real = torch.compile
    torch.compile = lambda network: real(network, backend='eager') if hasattr(network, 'judge') else network


def compile_nothing() -> None:
    torch.compile = lambda network: network


def test_a_rank_that_compiles_exchanges_the_same_as_one_that_does_not(tiny_data: Path, tmp_path: Path) -> None:
    train = {**tiny_options(tiny_data, tmp_path)['train'], 'total_epochs': 1, 'net_d_reg_every': 2}  # 2 iterations
    alone, together = make(tmp_path / 'alone'), make(tmp_path / 'together')
    expected = train_alone(tiny_data, alone, train=train)
    ranks = {rank: {'prepare': prepare} for rank, prepare in enumerate((trace_the_discriminator, compile_nothing))}
    option_file = options_for(tiny_data, together, 2, train={**train, 'compile': True})
    results = train_two(together, option_file, special=ranks)
    assert [status for status, _ in results] == [0, 0], results
    assert_about_the_same_run(together / 'experiments' / 'tiny', expected)


def test_rank_0_speaks_and_writes_alone(unbroken: Path) -> None:
    root = unbroken.parents[1]
    said = (root / 'rank0').read_text()
    assert 'in each of 2 processes' in said
    assert 'Batch: 2 in each of 2 processes, 4 in all' in said
    assert (root / 'rank1').read_text() == ''
    assert len(list((unbroken / 'tb_logger').iterdir())) == 1
    assert [record['iter'] for record in read_records(unbroken) if record['phase'] == 'val'] == list(range(2, 11, 2))


def test_rank_0_alone_scans_the_files(unbroken: Path) -> None:
    root = unbroken.parents[1]
    assert len(list((root / 'cache0' / 'gpen').iterdir())) == 4  # two sides to train on, two to validate on
    assert not (root / 'cache1').exists()


def test_a_killed_process_ends_all_and_the_run_continues_exactly(
    unbroken: Path, tiny_data: Path, tmp_path: Path
) -> None:
    option_file = options_for(tiny_data, tmp_path, 2)
    results = train_two(tmp_path, option_file, special={1: {'kill_at': ('step', 7)}})
    assert [status for status, _ in results] == [2, -signal.SIGKILL]
    assert 'Another process of this training has ended' in results[0][1]
    assert 'Traceback' not in results[0][1]
    assert [status for status, _ in train_two(tmp_path, option_file, '--auto_resume')] == [0, 0]
    assert_same_run(tmp_path / 'experiments' / 'tiny', unbroken)


def test_a_killed_rank_0_ends_all_and_the_run_continues_exactly(
    unbroken: Path, tiny_data: Path, tmp_path: Path
) -> None:
    option_file = options_for(tiny_data, tmp_path, 2)
    results = train_two(tmp_path, option_file, special={0: {'kill_at': ('half_written', 6)}})
    assert [status for status, _ in results] == [-signal.SIGKILL, 2]
    assert [status for status, _ in train_two(tmp_path, option_file, '--auto_resume')] == [0, 0]
    assert_same_run(tmp_path / 'experiments' / 'tiny', unbroken)


def test_eight_processes_are_killed_and_continue_exactly(tiny_data: Path, tmp_path: Path) -> None:
    alone, whole, killed = (make(tmp_path / name) for name in ('alone', 'whole', 'killed'))
    changes = {'datasets': {'val': None}}
    status, printed = processes.run(alone / 'log', '-opt', options_for(tiny_data, alone, 8, **changes))
    assert status == 0, printed
    assert [status for status, _ in train_two(whole, options_for(tiny_data, whole, 1, **changes), count=8)] == [0] * 8
    assert_about_the_same_run(whole / 'experiments' / 'tiny', alone / 'experiments' / 'tiny')

    option_file = options_for(tiny_data, killed, 1, **changes)
    results = train_two(killed, option_file, count=8, special={5: {'kill_at': ('step', 4)}})
    assert [status for status, _ in results] == [2, 2, 2, 2, 2, -signal.SIGKILL, 2, 2]
    assert [status for status, _ in train_two(killed, option_file, '--auto_resume', count=8)] == [0] * 8
    assert_same_run(killed / 'experiments' / 'tiny', whole / 'experiments' / 'tiny')


def test_torchrun_restarts_a_run_that_lost_a_process(unbroken: Path, tiny_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    command += ['--max_restarts', '1', str(ROOT / 'tests' / 'killed_once.py')]
    command += ['-opt', str(options_for(tiny_data, tmp_path, 2)), '--launcher', 'pytorch', '--auto_resume']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert 'after iteration 6' in result.stderr  # the second time, from the last state
    assert_same_run(tmp_path / 'experiments' / 'tiny', unbroken)


@pytest.mark.parametrize('signalled', [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    unbroken: Path, tiny_data: Path, tmp_path: Path, signalled: int
) -> None:
    option_file = options_for(tiny_data, tmp_path, 2)
    special = {signalled: {'signal_at': ('validation 3', signal.SIGTERM)}}
    results = train_two(tmp_path, option_file, special=special)
    assert [status for status, _ in results] == [143, 143], results
    assert 'Stopped by SIGTERM after iteration 6.' in results[0][1]
    assert [status for status, _ in train_two(tmp_path, option_file, '--auto_resume')] == [0, 0]
    assert_same_run(tmp_path / 'experiments' / 'tiny', unbroken)


def test_fewer_validation_batches_than_processes(tiny_data: Path, tmp_path: Path) -> None:
    roots = [make(tmp_path / name) for name in ('alone', 'together')]
    changes = ('--force_yml', 'datasets:val:batch_size_per_gpu=4', 'val:num_pictures=3', 'train:total_epochs=1')
    status, printed = processes.run(roots[0] / 'log', '-opt', options_for(tiny_data, roots[0], 4), *changes)
    assert status == 0, printed
    assert [status for status, _ in train_two(roots[1], options_for(tiny_data, roots[1], 2), *changes)] == [0, 0]
    assert_about_the_same_run(roots[1] / 'experiments' / 'tiny', roots[0] / 'experiments' / 'tiny')


def test_a_run_can_go_on_with_another_number_of_processes(unbroken: Path, tiny_data: Path, tmp_path: Path) -> None:
    option_file = options_for(tiny_data, tmp_path, 4)
    state = unbroken / 'training_states' / '8.state'
    status, printed = processes.run(tmp_path / 'log', '-opt', option_file, '--force_yml', f'path:resume_state={state}')
    assert status == 0
    assert 'processes that train together: 2 -> 1; an epoch has 2 iterations' in printed
    assert 'datasets.train.batch_size_per_gpu: 2 -> 4' in printed
    assert_about_the_same_run_end(tmp_path / 'experiments' / 'tiny', unbroken)


def assert_about_the_same_run_end(folder: Path, expected: Path) -> None:
    """Compare the last validation."""
    last, wanted = read_records(folder)[-1], read_records(expected)[-1]
    assert last.pop('phase') == wanted.pop('phase') == 'val'
    assert last == pytest.approx(wanted, rel=1e-4)


# ---- what goes wrong


def test_a_mistake_in_the_options_is_said_once(tiny_data: Path, tmp_path: Path) -> None:
    option_file = options_for(tiny_data, tmp_path, 2)
    results = train_two(tmp_path, option_file, '--force_yml', 'train:total_epoch=3')
    assert [status for status, _ in results] == [2, 2]
    assert 'total_epochs' in results[0][1]
    assert results[1][1] == ''


@pytest.mark.parametrize('rank', [0, 1])
def test_a_file_that_one_process_cannot_read_ends_all_after_the_last_step_is_saved(rank: int, tmp_path: Path) -> None:
    write_pairs(tmp_path / 'data' / 'train', 8)
    write_pairs(tmp_path / 'data' / 'val', 2)
    option_file = options_for(tmp_path / 'data', tmp_path, 2, val={'num_pictures': 0})
    sampler = InfiniteBatchSampler(8, 2, manual_seed=3, rank=rank, world_size=2)
    bad = tmp_path / 'data' / 'train' / 'sharp' / f'{sampler.batch_of_iteration(1)[0][1]:03d}.png'
    content = bytearray(bad.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = bytes(8)  # its header and end are whole
    bad.write_bytes(bytes(content))
    results = train_two(tmp_path, option_file)
    assert [status for status, _ in results] == [2, 2]
    assert sum(bad.name in printed for _, printed in results) == 1
    assert states_in(tmp_path / 'experiments' / 'tiny') == [1]
    run = read_run_file(tmp_path / 'experiments' / 'tiny')
    assert run is not None
    assert bad.name in run.reason
    assert not any('Traceback' in printed for _, printed in results)


def test_steps_that_are_not_finite_end_all_with_the_files_of_the_whole_batch(tiny_data: Path, tmp_path: Path) -> None:
    option_file = options_for(tiny_data, tmp_path, 2)
    changes = ('--force_yml', 'train:optim_g:lr=1e30', 'train:warmup_epochs=0', 'train:total_epochs=7')
    results = train_two(tmp_path, option_file, *changes)
    assert [status for status, _ in results] == [2, 2]
    line = next(line for line in results[0][1].splitlines() if 'not finite' in line)
    assert line.count('.png') == 4
    assert '10 steps in a row' in results[0][1]
    assert results[1][1] == ''


@pytest.mark.parametrize(
    ('launcher', 'environment', 'message'),
    [
        ('pytorch', {}, '--launcher pytorch needs torchrun'),
        ('none', {'WORLD_SIZE': '2', 'RANK': '0'}, '--launcher pytorch is missing'),
        (
            'pytorch',
            {
                **{'WORLD_SIZE': '1', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '1'},
                'TORCHELASTIC_RESTART_COUNT': '1',
            },
            'Give --auto_resume, so that it continues',
        ),
    ],
)
def test_a_launcher_that_does_not_fit_is_said(
    option_file: Path, tmp_path: Path, launcher: str, environment: dict[str, str], message: str
) -> None:
    log = tmp_path / 'log'
    status, printed = processes.run(log, '-opt', option_file, '--launcher', launcher, environment=environment)
    assert status == 2
    assert message in printed
    assert 'torchrun' in printed


def test_a_dry_run_of_two_processes_prints_once(tiny_data: Path, tmp_path: Path) -> None:
    results = train_two(tmp_path, options_for(tiny_data, tmp_path, 2), '--dry_run')
    assert [status for status, _ in results] == [0, 0]
    assert 'The options are good' in results[0][1]
    assert results[1][1] == ''
    assert not (tmp_path / 'experiments').exists()


# ---- set metrics


def images_of(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    first, second = torch.rand(2, 4, 3, 16, 16, generator=generator) * 2 - 1
    return first, second * 0.5


def measure_share(folder: Path, rank: int, world_size: int) -> None:
    """In a process of its own: take in every ``world_size``-th of three batches, gather, and save the distance."""
    from torch import distributed as dist

    from gpen.metrics import SetMetric
    from gpen.metrics.fid import FrechetDistance
    from test_network_metrics import Colours

    if world_size > 1:
        dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size)
    metric = FrechetDistance(Colours(), 'cpu')
    metric.start()
    for number in range(rank, 3, world_size):
        metric.update(*images_of(number))
    metric.gather()
    refusal = ''
    if world_size > 1:
        with pytest.raises(UserError, match='cannot be shared out') as caught:
            SetMetric.gather(metric)  # what a metric without a way of its own does
        refusal = str(caught.value)
    torch.save((metric.compute(), metric.explain(), refusal), folder / f'{rank}.pt')


def measure_shares(alone: Path, together: Path) -> None:
    """In a process of its own, since what all of them import takes seconds: measure alone, and share out among two."""
    measure_share(alone, 0, 1)
    fork = multiprocessing.get_context('fork')
    run_children([fork.Process(target=measure_share, args=(together, rank, 2)) for rank in range(2)])


def run_children(children: list[Any]) -> None:
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0


def test_a_set_metric_is_that_of_all_processes_images(tmp_path: Path) -> None:
    folders = (make(tmp_path / 'alone'), make(tmp_path / 'together'))
    run_children([processes.CONTEXT.Process(target=measure_shares, args=folders)])
    alone = torch.load(tmp_path / 'alone' / '0.pt')
    for rank in range(2):
        distance, explanation, refusal = torch.load(tmp_path / 'together' / f'{rank}.pt')
        assert distance == pytest.approx(alone[0], rel=1e-9)
        assert explanation == alone[1]
        assert 'FrechetDistance' in refusal


def make(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
