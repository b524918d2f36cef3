"""A data set is the same whoever does the work and however often it is stopped, and nothing else is touched."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import photographs
from gpen.data.degradations import build_pair_degradation
from gpen.data.image_io import write_image
from gpen.errors import UserError
from gpen.preparation import pairs
from gpen.preparation import prepare as preparing
from gpen.utils import files
from photographs import FACES, Prepare, are_gone, count_calls, draw_photo, read_manifest, read_tree, save, words

pytest_plugins = ['preparation_fixtures']


def test_number_of_workers_changes_no_byte(finished: Path, photos: Path, tmp_path: Path) -> None:
    command = photographs.start(tmp_path / 'log', *words(photos, tmp_path / 'set', '--workers', 2))
    status, printed = command.wait()
    assert status == 0, printed
    assert 'Traceback' not in printed
    assert read_tree(tmp_path / 'set') == read_tree(finished)


def test_ray_cluster_changes_no_byte(finished: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip('ray')
    command = photographs.start(tmp_path / 'log', *words(photos, tmp_path / 'set', '--ray', 'local'))
    status, printed = command.wait()
    assert status == 0, printed
    assert read_tree(tmp_path / 'set') == read_tree(finished)


@pytest.mark.parametrize('address', ['nonsense', '127.0.0.1:1'])
def test_cluster_that_is_not_there_is_explained(
    address: str, photos: Path, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('ray')
    assert prepare(photos, tmp_path / 'set', '--ray', address) == 2
    assert f'--ray {address}: there is no such cluster' in capsys.readouterr().err


def test_without_ray_the_user_is_told_to_install_it(
    photos: Path,
    tmp_path: Path,
    prepare: Prepare,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert prepare(photos, tmp_path / 'set', '--ray', 'local') == 2
    assert "pip install 'ray'" in capsys.readouterr().err


def test_order_in_which_photographs_are_done_changes_no_byte(
    finished: Path, photos: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = preparing.list_photos
    monkeypatch.setattr(preparing, 'list_photos', lambda *given: (real(*given)[0][::-1], real(*given)[1]))
    assert prepare(photos, tmp_path / 'set') == 0
    found, wanted = read_tree(tmp_path / 'set'), read_tree(finished)
    found.pop('dataset.json')  # states the photographs in the order in which they were listed
    wanted.pop('dataset.json')
    assert found == wanted


@pytest.mark.skipif(sys.platform == 'win32', reason='needs signals')
@pytest.mark.parametrize(
    ('stage', 'count', 'number', 'workers'),
    [
        ('photos', 3, signal.SIGKILL, 2),
        ('photos', 3, signal.SIGINT, 2),
        ('photos', 9, signal.SIGINT, 1),
        ('pairs', 4, signal.SIGKILL, 1),
        ('pairs', 4, signal.SIGINT, 1),
    ],
)
def test_stopped_run_goes_on_and_ends_byte_for_byte_the_same(
    stage: str,
    count: int,
    number: signal.Signals,
    workers: int,
    finished: Path,
    photos: Path,
    tmp_path: Path,
    prepare: Prepare,
) -> None:
    output, calls = tmp_path / 'set', tmp_path / 'weights' / 'calls'
    calls.parent.mkdir()
    arguments = words(photos, output, '--weights', calls.parent, '--workers', workers)
    status, printed = photographs.start(tmp_path / 'log', *arguments, stop=(stage, count, number)).wait()
    assert status == (-9 if number == signal.SIGKILL else 130), printed
    assert 'Traceback' not in printed
    assert not (output / 'dataset.json').exists()
    assert are_gone({int(line) for line in calls.read_text().split()})
    assert prepare(photos, output, '--weights', calls.parent) == 0
    assert read_tree(output) == read_tree(finished)
    if workers == 1:
        assert count_calls(calls) == 7, 'a photograph was looked at twice'
    else:
        assert count_calls(calls) < 7 + 4  # those that were being looked at


def test_pairs_that_are_there_are_not_made_again(
    photos: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def degrade_some(options: Any) -> Any:
        def function(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
            nonlocal made
            made += 1
            if made == 5:
                raise KeyboardInterrupt
            return build_pair_degradation(options)(image, generator)

        return function

    monkeypatch.setattr(pairs, 'build_pair_degradation', degrade_some)
    assert prepare(photos, tmp_path / 'set') == 130
    assert prepare(photos, tmp_path / 'set') == 0
    assert made == FACES + 1


def test_images_of_an_earlier_run_that_are_cut_off_are_made_again(
    finished: Path, photos: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preparing, 'write_manifest', lambda *_: (_ for _ in ()).throw(UserError('the disk is full')))
        assert prepare(photos, tmp_path / 'set') == 2
    for pattern in ('photos/*/*.png', 'set-*/train/blurry/*.png'):
        image = min((tmp_path / 'set' / '.work').glob(pattern))
        image.write_bytes(image.read_bytes()[:100])  # in place, and so in the sharp image that is a link to it
    assert prepare(photos, tmp_path / 'set') == 0
    assert read_tree(tmp_path / 'set') == read_tree(finished)


@pytest.mark.parametrize('moved', [0, 1, 3, 4])
def test_run_stopped_while_it_moves_its_parts_is_finished_by_the_next(
    moved: int, finished: Path, photos: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace
    calls = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal calls
        if target.parent == tmp_path / 'set':
            calls += 1
            if calls > moved:
                raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'replace', replace)
        assert prepare(photos, tmp_path / 'set') == 130
    assert not (tmp_path / 'set' / 'dataset.json').exists()
    monkeypatch.setattr(preparing, 'Pool', None)  # nothing is left to do
    assert prepare(photos, tmp_path / 'set') == 0
    assert read_tree(tmp_path / 'set') == read_tree(finished)


@pytest.mark.parametrize('stage', ['photos', 'pairs', 'manifest.csv'])
def test_full_disk_is_one_message_and_the_next_run_goes_on(
    stage: str,
    finished: Path,
    photos: Path,
    tmp_path: Path,
    prepare: Prepare,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, calls = tmp_path / 'set', tmp_path / 'weights' / 'calls'
    calls.parent.mkdir()
    real = os.fsync
    written = 0

    def fsync(handle: int) -> None:
        nonlocal written
        target = str(Path(f'/proc/self/fd/{handle}').readlink())
        is_meant = {'photos': '/photos/', 'pairs': '/blurry/', 'manifest.csv': '/.manifest.csv'}[stage] in target
        written += is_meant
        if is_meant and (written > 4 or stage == 'manifest.csv'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    if not Path('/proc/self/fd').is_dir():
        pytest.skip('needs /proc to tell files apart')
    with monkeypatch.context() as patch:
        patch.setattr(files.os, 'fsync', fsync)
        assert prepare(photos, output, '--weights', calls.parent) == 2
    printed = capsys.readouterr()
    assert printed.err.count('the disk is full') == 1
    assert 'Traceback' not in printed.err
    assert not [name for name in read_tree(output) if name.endswith('.tmp')]
    assert not any((output / name).exists() for name in ('train', 'manifest.csv', 'dataset.json'))
    assert prepare(photos, output, '--weights', calls.parent) == 0
    assert read_tree(output) == read_tree(finished)
    assert count_calls(calls) <= 7 + 1  # the photograph whose faces did not fit is looked at again


def test_full_disk_in_a_worker_is_told_once(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / 'set'
    (output / '.work').mkdir(parents=True)
    (output / '.work' / 'photos').write_text('')  # no folder can be made here
    command = photographs.start(tmp_path / 'log', *words(photos, output, '--workers', 2))
    status, printed = command.wait()
    assert status == 2
    assert printed.count('Cannot write') == 1
    assert 'Traceback' not in printed


def test_finished_data_set_is_left_as_it_is(
    photos: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'set'
    assert prepare(photos, output) == 0
    before = read_tree(output)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, 'Pool', None)
        patch.setattr(preparing, 'find_detector', None)
        assert prepare(photos, output, '--workers', 2) == 0
    assert 'already there' in capsys.readouterr().out
    assert prepare(photos, output, '--seed', 11) == 2
    printed = capsys.readouterr().err
    assert 'other settings (seed: 10 there, 11 here)' in printed
    assert f'--output {output}_2' in printed
    assert read_tree(output) == before
    next(output.rglob('blurry/*.png')).unlink()
    assert prepare(photos, output) == 2
    assert 'images of' in capsys.readouterr().err


def test_changed_photograph_makes_another_data_set(
    tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        save(tmp_path / 'in' / f'{n}.png', draw_photo(n))
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 0
    save(tmp_path / 'in' / '1.png', draw_photo(5))
    assert prepare(tmp_path / 'in', tmp_path / 'set') == 2
    assert 'other photographs' in capsys.readouterr().err


def test_photograph_that_changed_while_the_run_was_stopped_is_looked_at_again(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        save(tmp_path / 'in' / f'{n}.png', draw_photo(n))
    (tmp_path / 'weights').mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(preparing, 'write_manifest', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert prepare(tmp_path / 'in', tmp_path / 'set', '--weights', tmp_path / 'weights') == 130
    save(tmp_path / 'in' / '1.png', draw_photo(5, faces=2))
    assert prepare(tmp_path / 'in', tmp_path / 'set', '--weights', tmp_path / 'weights') == 0
    assert count_calls(tmp_path / 'weights' / 'calls') == 4
    assert len(read_manifest(tmp_path / 'set')) == 4


def test_files_of_others_are_neither_mixed_with_nor_overwritten(
    photos: Path, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / 'set' / 'train' / 'mine.png'
    write_image(mine, np.zeros((4, 4, 3), np.float32))
    before = read_tree(tmp_path)
    assert prepare(photos, tmp_path / 'set') == 2
    assert f'such as train. Give a folder that is empty or new: --output {tmp_path / "set" / "faces"}' in (
        capsys.readouterr().err
    )
    assert read_tree(tmp_path) == before
    (tmp_path / 'file').write_text('x')
    assert prepare(photos, tmp_path / 'file') == 2
    assert (tmp_path / 'file').read_text() == 'x'


def test_one_run_at_a_time_uses_a_folder(
    photos: Path, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    (tmp_path / 'set').mkdir()
    with FileLock(tmp_path / 'set' / '.lock'):
        assert prepare(photos, tmp_path / 'set') == 2
    assert 'Another run' in capsys.readouterr().err


def test_killed_worker_is_explained(
    photos: Path, tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparing, 'process_photo', photographs.kill_worker)
    assert prepare(photos, tmp_path / 'set', '--workers', 2) == 2
    assert 'fewer --workers' in capsys.readouterr().err
