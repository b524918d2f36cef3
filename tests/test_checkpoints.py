"""Checkpoints are written whole or not at all, found again, and pruned."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from checkpoint_files import names_in, networks, save, value_in
from gpen.errors import UserError
from gpen.runs.checkpoints import CheckpointStore
from gpen.runs.training_state import pack_state
from tiny_model import build


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, keep_last=2)


# --- saving and pruning


def test_what_was_saved_is_loaded(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 4, best=4)
    checkpoint, damaged = store.load_newest()
    assert checkpoint is not None
    assert (checkpoint.iteration, checkpoint.path, damaged) == (4, tmp_path / 'training_states' / '4.state', [])
    assert set(checkpoint.networks) == {'net_g', 'net_d'}
    assert torch.equal(checkpoint.networks['net_g']['params_ema']['weight'], torch.full((64,), 4.0))
    assert checkpoint.state == {'model': {'in_a_row': 0}}


def test_all_tensors_of_a_checkpoint_of_a_gpu_are_on_the_cpu() -> None:
    model = build()
    with FakeTensorMode():  # tensors of a GPU where there is none; they have no values
        on_gpu = torch.empty(2, device='cuda')
        model.mean_path_length = on_gpu
        model.means.add({'G_loss_pixel': on_gpu[0]})
        model.optimizer_g.state[next(model.net_g.parameters())] = {'step': on_gpu, 'exp_avg': on_gpu}
        state = pack_state(model, model.options, None, epoch=1, pairs=1, processes=1, validation_is_due=False)
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    assert len(tensors) > 4
    assert {tensor.device.type for tensor in tensors} == {'cpu'}


def test_the_last_checkpoints_are_kept_by_number_not_by_name_or_date(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for iteration in (8, 9, 10, 100):
        save(store, iteration)
    assert names_in(store.states) == ['10.state', '100.state']
    assert names_in(store.models) == [
        *('net_d_10.pth', 'net_d_100.pth', 'net_d_latest.pth'),
        *('net_g_10.pth', 'net_g_100.pth', 'net_g_latest.pth'),
    ]


def test_the_newest_checkpoint_from_before_steps_that_were_not_finite_is_kept_too(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2)
    for iteration, good_until in ((2, 2), (4, 4), (6, 5), (8, 5), (10, 5)):
        store.save(iteration, networks(0.0), {}, {}, good_until)
    assert store.iterations() == [4, 8, 10]
    save(store, 12)
    assert store.iterations() == [10, 12]


def test_latest_and_best_survive_the_removal_of_the_numbered_files(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 1, best=1)
    for iteration in (2, 3, 4):
        save(store, iteration, best=1)
    assert names_in(store.models) == [
        *('net_d_4.pth', 'net_d_latest.pth', 'net_g_4.pth', 'net_g_best.pth', 'net_g_latest.pth')
    ]
    assert value_in(store.models / 'net_g_best.pth') == 1.0
    assert value_in(store.models / 'net_g_latest.pth') == 4.0


def test_each_metric_keeps_its_own_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, 1, best=1, psnr=1, lpips=1)
    save(store, 2, best=1, psnr=1, lpips=2)
    save(store, 3, best=3, psnr=3, lpips=2)
    values = {name: value_in(store.models / f'net_g_best{name}.pth') for name in ('', '_psnr', '_lpips')}
    assert values == {'': 3.0, '_psnr': 3.0, '_lpips': 2.0}
    assert 'net_g_3.pth' in store.clean_up(1) + store.clean_up(2)  # a course that is not followed any more
    assert not (store.models / 'net_g_best.pth').exists()
    assert not (store.models / 'net_g_best_psnr.pth').exists()
    assert value_in(store.models / 'net_g_best_lpips.pth') == 2.0


def test_latest_takes_no_disk_space_of_its_own(store: CheckpointStore) -> None:
    save(store, 4, best=4)
    numbered, latest, best = (store.models / f'net_g_{name}.pth' for name in ('4', 'latest', 'best'))
    assert numbered.samefile(latest)
    assert numbered.samefile(best)


def test_where_hard_links_are_not_possible_latest_and_best_are_copies(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', refuse)
    save(store, 4, best=4)
    save(store, 5, best=4)
    assert value_in(store.models / 'net_g_latest.pth') == 5.0
    assert value_in(store.models / 'net_g_best.pth') == 4.0


def test_files_of_the_user_are_left_alone(store: CheckpointStore) -> None:
    save(store, 1)
    mine = [store.models / 'net_g_mine.pth', store.models / 'other_1.pth', store.states / 'mine.state']
    for path in mine:
        path.write_bytes(b'mine')
    for iteration in (2, 3, 4):
        save(store, iteration)
    assert store.clean_up(4) == []
    assert all(path.read_bytes() == b'mine' for path in mine)


# --- a disk that is full


DISK_FULL = [OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]


def fail_at(count: int, error: OSError) -> Callable[..., None]:
    """Return a ``torch.save`` whose file can hold only half of what it writes at its ``count``-th call."""
    calls = 0
    real_save = torch.save

    def wrapper(content: Any, stream: Any) -> None:
        nonlocal calls
        calls += 1
        real_save(content, FullFile(stream, error) if calls == count else stream)

    return wrapper


class FullFile:
    """A file on a disk that is full after 100 bytes."""

    def __init__(self, stream: Any, error: OSError) -> None:
        self._stream, self._error = stream, error

    def write(self, data: Any) -> int:
        if self._stream.tell() > 100:
            raise self._error
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


@pytest.mark.parametrize('error', DISK_FULL, ids=['full', 'quota', 'limit'])
@pytest.mark.parametrize('count', [1, 2, 3], ids=['generator', 'discriminator', 'state'])
def test_a_full_disk_is_an_error_and_what_was_there_is_untouched(
    count: int, error: OSError, store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1, best=1)
    save(store, 2, best=1)
    before = content_of(tmp_path)
    monkeypatch.setattr(torch, 'save', fail_at(count, error))
    with pytest.raises(UserError) as caught:
        save(store, 3, best=3)
    names = ['models/net_g_3.pth', 'models/net_d_3.pth', 'training_states/3.state']
    reason = 'the file would be larger' if error.errno == errno.EFBIG else 'the disk is full'
    assert str(caught.value).startswith(f'Cannot write {tmp_path / names[count - 1]}: {reason}')
    assert ('ulimit' if error.errno == errno.EFBIG else 'Free some space') in str(caught.value)
    assert '\n' not in str(caught.value)
    after = content_of(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert sorted(set(after) - set(before)) == sorted(names[: count - 1])
    checkpoint, damaged = store.load_newest()
    assert checkpoint is not None
    assert (checkpoint.iteration, damaged) == (2, [])


def test_a_run_goes_on_after_a_full_disk_has_been_emptied(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', fail_at(3, DISK_FULL[0]))
        with pytest.raises(UserError, match=r'Cannot write .*training_states'):
            save(store, 2)
    assert store.clean_up(1) == []
    assert names_in(store.models) == ['net_d_1.pth', 'net_d_latest.pth', 'net_g_1.pth', 'net_g_latest.pth']
    save(store, 2)
    assert store.iterations() == [1, 2]


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'models').write_text('in the way')
    with pytest.raises(UserError, match=r'Cannot write .*net_g_1\.pth'):
        save(CheckpointStore(tmp_path, keep_last=2), 1)


# --- what was left by a save that was cut off


def test_leftovers_of_a_save_that_was_cut_off_are_removed(store: CheckpointStore) -> None:
    save(store, 1)
    before = names_in(store.models) + names_in(store.states)
    (store.models / '.net_g_2.pth.abc.tmp').write_bytes(b'half')
    (store.states / '.2.state.abc.tmp').write_bytes(b'half')
    (store.models / 'net_g_2.pth').write_bytes(b'without its state')
    assert store.clean_up(1) == []
    assert names_in(store.models) + names_in(store.states) == before


def test_half_written_files_are_removed_from_all_folders_of_a_run(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 1)
    folders = ('.', 'models', 'training_states', 'visualization')
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / '.name.abc.tmp').write_bytes(b'half')
    store.clean_up(1)
    assert list(tmp_path.rglob('*.tmp')) == []


def test_checkpoints_after_the_chosen_one_are_moved_aside(store: CheckpointStore, tmp_path: Path) -> None:
    save(store, 1)
    save(store, 2)
    assert sorted(store.clean_up(1)) == ['2.state', 'net_d_2.pth', 'net_g_2.pth']
    assert names_in(tmp_path / 'superseded') == ['2.state', 'net_d_2.pth', 'net_g_2.pth']
    assert store.iterations() == [1]


def test_an_experiment_that_does_not_exist_yet_has_nothing_to_load_or_clean(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / 'none', keep_last=1)
    assert store.load_newest() == (None, [])
    assert store.clean_up(0) == []
    assert not (tmp_path / 'none').exists()


def test_the_best_of_another_run_is_taken_over_where_it_has_a_number_there(tmp_path: Path) -> None:
    theirs, ours = CheckpointStore(tmp_path / 'theirs', 2), CheckpointStore(tmp_path / 'ours', 2)
    save(theirs, 4)
    save(theirs, 5)
    checkpoint, _ = theirs.load_newest()
    assert checkpoint is not None
    assert theirs.owns(checkpoint)
    assert not ours.owns(checkpoint)
    for best_iteration in (None, 3):
        checkpoint.state['early_stopping'] = {'best_iteration': best_iteration}
        ours.adopt_best(checkpoint)
        assert not ours.models.exists()
    checkpoint.state['early_stopping'] = {'best_iteration': 4}
    ours.adopt_best(checkpoint)
    assert value_in(ours.models / 'net_g_best.pth') == 4


# --- files of the user


@pytest.mark.parametrize('name', ['²', '٤', '04', '-4', '4 (copy)', '+4'])
def test_a_state_of_the_user_s_own_name_is_left_alone(name: str, store: CheckpointStore) -> None:
    save(store, 4)
    own = store.states / f'{name}.state'
    own.write_bytes(b'mine')
    assert store.iterations() == [4]
    assert store.clean_up(4) == []
    assert own.read_bytes() == b'mine'


def test_weight_files_of_the_user_are_left_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    mine = tmp_path / 'models' / 'net_g_mine_2024.pth'
    mine.parent.mkdir()
    mine.write_bytes(b'mine')
    store.clean_up(0)
    store.prune(0)
    assert mine.read_bytes() == b'mine'
