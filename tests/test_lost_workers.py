"""Processes that read images and end, cannot start or find no shared memory: a sentence, and no step is lost."""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Workers

from command_line import states_in
from comparing import assert_same_run
from conftest import tiny_options, write_options
from gpen.commands.train import main
from gpen.data.loader import build_train_loader, build_val_loader
from gpen.data.paired_dataset import PairedImageDataset
from gpen.data.sampler import InfiniteBatchSampler
from gpen.errors import UserError


class Pictures:
    """Samples of tensors; something happens when sample 2 is read.

    Args:
        event: called then; raises or ends the process.
    """

    def __init__(self, event: Any = int) -> None:
        self.event = event

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2:
            self.event()
        return {'lq': torch.full((3, 4, 4), float(index)), 'gt': torch.arange(index, index + 6.0), 'name': str(index)}


def die() -> None:
    """End this process as the system does where memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def _quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch look for lost workers each half second while it waits, not each 5 seconds."""
    monkeypatch.setattr(Workers._try_get_data, '__defaults__', (0.5,))


@pytest.mark.parametrize('is_busy', [True, False])
def test_a_worker_that_is_killed_is_said_when_the_next_batch_is_asked_for(is_busy: bool) -> None:
    batches = iter(build_val_loader(Pictures(die), 1, 1))
    assert next(batches)['name'] == ['0']
    until = time.monotonic() + 0.5 * is_busy  # a step, in which the signal about the worker's end comes
    while time.monotonic() < until:
        torch.ones(4).sum()
    with pytest.raises(UserError, match=r'ended unexpectedly.*lower num_worker_per_gpu.*--shm-size'):
        list(batches)


def refuse(*_: object) -> None:
    raise RuntimeError('unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)')


def test_where_shared_memory_is_full_batches_come_another_way_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = list(build_train_loader(Pictures(), 2, 0, 1, 0, 4))
    monkeypatch.setattr(torch.UntypedStorage, '_new_using_fd_cpu', refuse)
    found = list(build_train_loader(Pictures(), 2, 1, 1, 0, 4, start_method='fork'))
    assert len(found) == len(expected) == 4
    for a, b in zip(expected, found, strict=True):
        assert a['name'] == b['name']
        assert torch.equal(a['gt'], b['gt'])
        assert torch.equal(a['lq'], b['lq'])
    assert len(caplog.messages) == 1
    assert '--shm-size' in caplog.text


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_workers_that_cannot_be_started_are_explained(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr('multiprocessing.synchronize.SemLock.__init__', fail)
    with pytest.raises(UserError, match=rf'could not be started.*{os.strerror(number)}.*num_worker_per_gpu'):
        next(iter(build_train_loader(Pictures(), 1, 1, 0)))


@pytest.mark.parametrize('number', [errno.ENOENT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_file_that_a_data_set_of_the_user_cannot_open_is_named(number: int, num_workers: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), 'a.png')

    with pytest.raises(UserError) as caught:
        list(build_train_loader(Pictures(fail), 1, num_workers, 0, 0, 4, start_method='fork' if num_workers else None))
    assert 'Sample 2 of Pictures cannot be read: ' in str(caught.value)
    assert "'a.png'" in str(caught.value)
    assert 'Traceback' not in str(caught.value)


def stop() -> None:
    raise StopIteration


@pytest.mark.parametrize('num_workers', [0, 1])
def test_a_data_set_of_the_user_cannot_end_the_data(num_workers: int) -> None:
    with pytest.raises(RuntimeError, match='sample 2 of Pictures raised StopIteration'):
        list(build_val_loader(Pictures(stop), 1, num_workers))


# --- in a run


def fault_of(name: str) -> Any:
    """Return what reading an image does then."""
    if name == 'death':
        return die
    error = {
        'damaged': UserError('001.png cannot be used: it is damaged.'),
        'missing': FileNotFoundError(2, 'No such file', '001.png'),
        'bug': ZeroDivisionError('a bug'),
    }[name]

    def fail() -> None:
        raise error

    return fail


@pytest.fixture(scope='module')
def unbroken(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment folder of a run of two epochs that nothing happened to."""
    folder = tmp_path_factory.mktemp('unbroken')
    assert main(['-opt', str(write_run(tiny_data, folder))]) == 0
    return folder / 'experiments' / 'tiny'


def write_run(data: Path, folder: Path, workers: int = 0) -> Path:
    options = tiny_options(data, folder)
    options['train'] |= {'total_epochs': 2, 'scheduler': None}
    options['logger']['keep_last'] = 1
    for block in options['datasets'].values():
        block['num_worker_per_gpu'] = workers
    return write_options(folder / 'tiny.yml', options)


FAULTS = [
    ('damaged', 'train', 0),
    ('missing', 'train', 1),
    ('death', 'train', 1),
    ('bug', 'train', 0),
    ('damaged', 'val', 0),
    ('death', 'val', 1),
]


@pytest.mark.parametrize(('fault', 'phase', 'workers'), FAULTS)
def test_whatever_befalls_the_data_the_last_step_is_saved_and_the_run_goes_on_from_there(
    fault: str,
    phase: str,
    workers: int,
    tiny_data: Path,
    tmp_path: Path,
    unbroken: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # In the 7th step's batch, or in the second validation, which follows the 8th step
    position = InfiniteBatchSampler(7, 2, manual_seed=3).batch_of_iteration(6)[0] if phase == 'train' else (0, 1)
    times = 1 if phase == 'train' else 2
    real = PairedImageDataset.__getitem__
    counted = []

    def read(dataset: PairedImageDataset, place: Any) -> Any:
        if phase in str(dataset.gt.root) and place == position:
            counted.append(1)
            if len(counted) == times:
                fault_of(fault)()
        return real(dataset, place)

    option_file = write_run(tiny_data, tmp_path, workers)
    with monkeypatch.context() as patch:
        patch.setattr(PairedImageDataset, '__getitem__', read)
        if fault == 'bug':
            with pytest.raises(ZeroDivisionError):
                main(['-opt', str(option_file)])
        else:
            assert main(['-opt', str(option_file)]) == 2
    folder = tmp_path / 'experiments' / 'tiny'
    # What a killed worker had read ahead is lost with it.
    done = {8} if phase == 'val' else {6} if fault != 'death' else {4, 5, 6}
    assert states_in(folder)[-1] in done

    assert main(['-opt', str(option_file), '--auto_resume']) == 0
    assert_same_run(folder, unbroken)
