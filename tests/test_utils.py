"""Numbers in words, devices, steps in time, seeds, and how a signal ends a run."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from conftest import ROOT
from gpen.errors import UserError
from gpen.runs.experiment import move_aside
from gpen.training.signals import StopRequest
from gpen.utils import cpu, device, files, pool
from gpen.utils.device import choose_device, explain_out_of_memory, select_device
from gpen.utils.files import atomic_path, check_folder, link_or_copy, resolve_path, write_text
from gpen.utils.seeds import derive_seed
from gpen.utils.stop_signals import STOP_SIGNALS
from gpen.utils.text import format_duration, format_shape, list_names, suggest
from gpen.utils.timing import StepTimer

# --- words


def test_the_nearest_name_is_suggested_in_capital_or_small_letters() -> None:
    assert suggest('ADAMM', ['Adam', 'Lion']) == " Did you mean 'Adam'?"
    assert suggest('other', ['Adam', 'Lion']) == ''


@pytest.mark.parametrize(
    ('seconds', 'words'),
    [
        (0, '0:00'),
        (59.4, '0:59'),
        (59.6, '1:00'),
        (125, '2:05'),
        (3599, '59:59'),
        (3600, '1:00:00'),
        (90061, '25:01:01'),
    ],
)
def test_a_duration_has_hours_only_where_there_are_any(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_lists_are_cut_off_after_four_names() -> None:
    assert list_names('abcd') == 'a, b, c, d'
    assert list_names('abcde') == 'a, b, c, d, ...'
    assert format_shape((4, 3, 16)) == '4 x 3 x 16'
    assert format_shape(()) == 'scalar'


# --- devices


@pytest.fixture
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch says that there are two GPUs, and remembers which one is chosen."""
    chosen = [0]
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: chosen[-1])
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda found: f'GPU {found.index}')
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda _: 3 * 2**20)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)


@pytest.mark.usefixtures('_two_gpus')
def test_each_rank_has_the_gpu_of_its_number_and_one_more_rank_is_refused() -> None:
    assert select_device('auto') == (torch.device('cuda', 0), 'Training on GPU 0.')
    assert torch.backends.cudnn.benchmark
    found, sentence = select_device(None, local_rank=1, processes=2)
    assert found == torch.device('cuda', 1)
    assert sentence == 'Training on GPU 1 in each of 2 processes.'
    with pytest.raises(UserError, match='--nproc_per_node 2 at most'):
        select_device('auto', local_rank=2, processes=3)
    assert device.describe_device(found) == 'GPU 1'
    assert device.peak_memory(found) == 3


@pytest.mark.usefixtures('_two_gpus')
def test_num_gpu_0_is_the_cpu_also_beside_a_gpu() -> None:
    found, sentence = select_device(0)
    assert found == torch.device('cpu')
    assert sentence.startswith('Training on the CPU with ')
    assert sentence.endswith((' thread.', ' threads.'))
    assert choose_device('cpu') == torch.device('cpu')
    assert choose_device('cuda') == torch.device('cuda', 0)


def test_a_gpu_where_there_is_none_is_said_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert select_device(2)[1].endswith(': num_gpu is 2, but PyTorch finds no GPU here.')
    for silent in (0, None, 'auto'):
        assert 'no GPU' not in select_device(silent)[1]
    assert choose_device('auto') == torch.device('cpu')
    with pytest.raises(UserError, match='--device cuda: PyTorch finds no GPU'):
        choose_device('cuda')


def test_the_number_of_threads_is_the_user_s_or_that_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, 'set_num_threads', asked.append)
    monkeypatch.setattr(device, 'cpu_threads', lambda: 7)
    select_device(0)
    assert asked == []  # OMP_NUM_THREADS is set for the tests
    monkeypatch.delenv('OMP_NUM_THREADS')
    select_device(0)
    assert asked == [7]


@pytest.mark.parametrize(
    ('files', 'quota'),
    [
        ({'cpu.max': '350000 100000'}, [3]),
        ({'cpu.max': '50000 100000'}, [1]),
        ({'cpu.max': 'max 100000'}, []),
        ({'cpu/cpu.cfs_quota_us': '400000', 'cpu/cpu.cfs_period_us': '100000'}, [4]),
        ({'cpu/cpu.cfs_quota_us': '10000', 'cpu/cpu.cfs_period_us': '100000'}, [1]),
        ({'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, []),
        ({}, []),
    ],
)
def test_a_container_s_quota_is_read_in_whole_cpus(
    files: dict[str, str], quota: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cpu, 'Path', lambda _: tmp_path)
    assert cpu._read_cpu_quota() == quota


def test_where_the_system_tells_no_affinity_all_cpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    for count, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, 'cpu_count', lambda count=count: count)
        assert cpu.cpu_threads() == cpu.count_cpus() == expected


def test_out_of_memory_says_what_to_do_and_other_errors_pass() -> None:
    with pytest.raises(UserError, match=r'Out of memory\. Lower this\.'), explain_out_of_memory('Lower this.'):
        raise MemoryError
    with pytest.raises(RuntimeError, match='shapes'), explain_out_of_memory('Lower this.'):
        raise RuntimeError('shapes differ')


# --- files


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / 'a') as temporary:
            temporary.write_text('new')
            assert temporary.parent == tmp_path
        assert os.umask(0o027) == 0o027  # reading it changed nothing
    finally:
        os.umask(before)
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ['a']


@pytest.mark.skipif(sys.platform != 'linux', reason='what is flushed is read from /proc')
def test_a_written_file_and_its_folder_are_flushed_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, 'fsync', lambda handle: flushed.append(str(Path(f'/proc/self/fd/{handle}').readlink())))
    write_text(tmp_path / 'new' / 'deeper' / 'a', 'text')
    assert (tmp_path / 'new' / 'deeper' / 'a').read_text() == 'text'
    file, folder = flushed
    assert file.endswith('.tmp')
    assert folder == str(tmp_path / 'new' / 'deeper')


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (OSError(errno.ENOSPC, 'No space left on device'), 'the disk is full. Free some space'),
        (OSError(errno.EDQUOT, 'Disk quota exceeded'), 'the disk is full (your quota is used up). Free some space'),
        (OSError(errno.EFBIG, 'File too large'), 'the file would be larger than this process may write. Raise the'),
        (OSError(errno.EACCES, 'Permission denied'), 'Permission denied. Free some space or choose another folder'),
        (SafetensorError('I/O error: No space left on device (os error 28)'), 'the disk is full. Free some space'),
        (OSError('odd'), 'odd. Free some space'),
    ],
)
def test_a_write_that_fails_is_a_sentence_with_file_and_reason(tmp_path: Path, error: Exception, reason: str) -> None:
    with pytest.raises(UserError) as caught, atomic_path(tmp_path / 'a'):
        raise error
    assert str(caught.value).startswith(f'Cannot write {tmp_path / "a"}: {reason}')


def test_relative_paths_start_at_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path('options/train') == ROOT / 'options' / 'train'
    assert resolve_path(tmp_path) == tmp_path
    assert resolve_path('~/weights') == Path.home() / 'weights'
    monkeypatch.setattr(files, '__file__', str(tmp_path / 'installed' / 'package' / 'gpen' / 'utils' / 'files.py'))
    assert resolve_path('weights') == tmp_path / 'weights'


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / 'a').write_text('old')
    with pytest.raises(ValueError, match='cut off'), atomic_path(tmp_path / 'a') as temporary:
        raise ValueError(f'cut off after {temporary.write_text("new")} letters')
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('a', 'old')]


def test_a_link_takes_no_space_and_a_copy_is_made_where_none_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'a').write_text('content')
    link_or_copy(tmp_path / 'a', tmp_path / 'b')
    assert (tmp_path / 'b').samefile(tmp_path / 'a')

    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, 'link', refuse)
    link_or_copy(tmp_path / 'a', tmp_path / 'b')
    assert not (tmp_path / 'b').samefile(tmp_path / 'a')
    assert (tmp_path / 'b').read_text() == 'content'


def test_folders_moved_aside_in_the_same_second_have_different_names(tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        (tmp_path / 'run' / 'models').mkdir(parents=True)
        found.append(move_aside(tmp_path / 'run'))
    assert len({path.name for path in found if path is not None}) == 3
    assert all(path is not None and path.name.startswith('run_archived_2') and path.is_dir() for path in found)
    assert move_aside(tmp_path / 'run') is None


# --- time, seeds, signals


def test_a_timer_tells_all_the_time_since_it_was_last_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(time, 'perf_counter', lambda: now)
    timer = StepTimer()
    assert timer.read() == 0  # no step yet
    now += 4
    timer.step()
    now += 2
    assert timer.read_total() == 6
    now += 3
    assert timer.read_total() == 3
    assert timer.seconds_so_far == 9
    assert timer.read() == 4
    now += 1
    timer.step()
    assert timer.read() == 6  # since the last step


def test_a_seed_depends_on_each_argument_and_is_that_of_earlier_versions() -> None:
    """Another seed would let a run of an earlier version continue with other samples."""
    assert derive_seed(0, 'order', 1) == 2845014188298237960
    seeds = [derive_seed(*rest) for rest in ((0, 'a'), (1, 'a'), (0, 'b'), (0, 'a', 0), (0, 'a', 1), (0, 'a', 0, 1))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


STOPPED = {
    'SIGINT': ('Ctrl-C', 130),
    **{name: (name, 128 + getattr(signal, name, 0)) for name in ('SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGXCPU')},
}


@pytest.mark.skipif(sys.platform == 'win32', reason='it has few signals')
@pytest.mark.parametrize('name', STOPPED)
def test_the_first_signal_is_noted(name: str) -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopRequest() as stop:
        assert not stop.is_noted
        signal.raise_signal(getattr(signal, name))
        assert stop.is_noted
        assert not stop.is_set  # not before all ranks know
        stop.all_reduce()
        assert stop.is_set
        assert (stop.name, stop.exit_status) == STOPPED[name]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.skipif(sys.platform == 'win32', reason='it has few signals')
def test_a_second_request_of_a_user_is_the_system_s_and_repetitions_of_a_terminal_are_not() -> None:
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in asked]
    with StopRequest() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGXCPU, signal.SIGTERM, signal.SIGHUP):
            assert all(signal.getsignal(one) not in before for one in asked) or number == signal.SIGHUP
            signal.raise_signal(number)
        assert [signal.getsignal(number) for number in asked] == before
        stop.all_reduce()
        assert stop.name == 'SIGHUP'


@pytest.mark.skipif(sys.platform == 'win32', reason='it has few signals')
def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_noted
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- pools


def test_on_one_core_a_pool_works_in_this_process_and_leaves_it_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('joblib._parallel_backends.cpu_count', lambda *_, **__: 1)
    watched: list[int] = []
    monkeypatch.setattr(pool, '_end_with', watched.append)  # it ends a process whose parent is another
    with pool.Pool() as workers:
        assert sorted(workers.run(abs, [-2, 1])) == [1, 2]
    assert watched == []


def test_a_file_in_the_place_of_a_folder_is_called_one(tmp_path: Path) -> None:
    (tmp_path / 'a.png').touch()
    with pytest.raises(UserError, match=r'a\.png is a file, and a folder is needed'):
        check_folder(tmp_path / 'a.png')
