"""The folder of a run: links to it and in it are followed, it may vanish, and its disk may be full."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpen.errors import UserError
from gpen.runs import experiment
from gpen.runs.experiment import is_in_use, lock_experiment, move_aside
from gpen.runs.log import LOGGER, RunLog
from gpen.runs.recorder import Recorder, read_metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run, with something in it."""
    folder = tmp_path / 'experiments' / 'run'
    (folder / 'models').mkdir(parents=True)
    (folder / 'metrics.jsonl').write_text('{"iter": 1, "phase": "train", "lr_g": 1}\n')
    return folder


@pytest.fixture
def link(folder: Path, tmp_path: Path) -> Path:
    """The same as a link to a folder on another disk."""
    (tmp_path / 'disk').mkdir()
    folder.rename(tmp_path / 'disk' / 'run')
    folder.symlink_to(tmp_path / 'disk' / 'run')
    return folder


# --- links


def test_of_a_link_what_it_leads_to_is_moved_aside_and_the_link_stays(link: Path, tmp_path: Path) -> None:
    moved = move_aside(link)
    assert moved is not None
    assert moved.parent == tmp_path / 'disk'
    assert (moved / 'metrics.jsonl').is_file()
    assert link.readlink() == tmp_path / 'disk' / 'run'
    assert list(link.iterdir()) == []


def test_a_disk_of_its_own_stays_and_what_is_in_it_is_moved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == folder:
            raise OSError(errno.EBUSY, 'Device or resource busy')
        return real(path, target)

    monkeypatch.setattr(Path, 'rename', rename)
    for expected in (1, 2):
        moved = move_aside(folder)
        assert moved is not None
        assert moved.parent == folder
        assert len(list(folder.iterdir())) == expected  # the first one is not moved into the second
        assert (moved / 'metrics.jsonl').is_file()
        (folder / 'metrics.jsonl').write_text('')


def test_an_empty_folder_is_not_moved_aside(tmp_path: Path) -> None:
    (tmp_path / 'run').mkdir()
    assert move_aside(tmp_path / 'run') is None
    assert move_aside(tmp_path / 'none') is None


@pytest.mark.parametrize('place', ['.', '..', 'models', 'metrics.jsonl'])
def test_a_link_to_nowhere_is_an_error_and_not_a_new_run(place: str, folder: Path) -> None:
    path = Path(os.path.normpath(folder / place))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to('/nowhere/at/all')
    with pytest.raises(UserError, match=rf'{path} is a link to /nowhere/at/all, which is not there. Mount the disk'):
        lock_experiment(folder)
    assert path.is_symlink()


def test_a_folder_and_a_link_to_it_have_one_lock(link: Path) -> None:
    with lock_experiment(link):
        assert is_in_use(link)
        assert is_in_use(link.readlink())


def test_a_link_to_a_folder_whose_parent_is_not_ours_is_locked_beside_itself(
    link: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment.os, 'access', lambda path, _: Path(path) != tmp_path / 'disk')
    with lock_experiment(link):
        assert is_in_use(link)
    assert not (tmp_path / 'disk' / '.locks').exists()


# --- a folder that vanishes


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name('elsewhere'))


def remove_metrics(folder: Path) -> None:
    (folder / 'metrics.jsonl').unlink()


def remove_tensorboard(folder: Path) -> None:
    shutil.rmtree(folder / 'tb_logger')


@pytest.mark.parametrize('vanish', [remove, move, remove_metrics, remove_tensorboard])
def test_a_folder_that_vanishes_is_made_anew_with_all_records_and_it_is_said(
    vanish: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(folder, True, 1, restore_folder=lambda: (folder / 'options.yml').touch())
    recorder.scalars(2, 1, 'train', {'lr_g': 2})
    vanish(folder)
    recorder.scalars(3, 1, 'train', {'lr_g': 3})
    recorder.flush()
    recorder.close()
    assert [record['lr_g'] for record in read_metrics(folder / 'metrics.jsonl')] == [1, 2, 3]
    assert (folder / 'options.yml').exists()
    assert len(list((folder / 'tb_logger').glob('events*'))) == 1
    assert caplog.text.count('was removed or moved while the run went on') == 1


def test_the_log_goes_on_in_a_folder_that_was_made_anew(folder: Path) -> None:
    with RunLog(is_main=True) as log:
        log.write_to(folder)
        LOGGER.info('before')
        shutil.rmtree(folder)
        LOGGER.info('after')
    assert 'after' in (folder / 'train.log').read_text()


# --- a full disk


class FullStream:
    """An open file on a disk that holds a few bytes more."""

    def __init__(self, stream: Any, room: int, error: int) -> None:
        self._stream, self._room, self._error = stream, room, error

    def write(self, data: Any) -> int:
        if self._room == 0:
            raise OSError(self._error, os.strerror(self._error))
        count = min(self._room, len(data))
        self._room -= count
        return self._stream.write(bytes(data[:count]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize('error', [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize('room', [0, 20])
@pytest.mark.parametrize('owner', ['records', 'tensorboard'])
def test_no_record_is_half_written_on_a_full_disk_and_none_is_taken_as_saved(
    owner: str, room: int, error: int, folder: Path
) -> None:
    recorder = Recorder(folder, True, 1)
    holder: Any = recorder if owner == 'records' else recorder._writer
    path = Path(holder._stream.name)
    before = path.read_bytes()
    holder._stream = FullStream(holder._stream, room, error)
    with pytest.raises(UserError, match=f'Cannot write {path}: the disk is full'):
        recorder.scalars(2, 1, 'train', {'lr_g': 2})
    assert path.read_bytes() == before
    with pytest.raises(UserError, match='the disk is full'):
        recorder.flush()
    recorder.close()


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(is_main=True) as log:
        log.write_to(folder)
        file = next(handler for handler in LOGGER.handlers if isinstance(handler, logging.FileHandler))
        file.stream = FullStream(file.stream, 0, errno.ENOSPC)
        for _ in range(3):
            LOGGER.info('going on')
    printed = capsys.readouterr().err
    assert printed.count('going on') == 3
    assert printed.count(f'Cannot write {folder / "train.log"}: the disk is full') == 1
    assert 'Traceback' not in printed
