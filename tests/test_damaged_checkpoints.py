"""Damaged checkpoints, and those that were replaced or renamed, are told from whole ones and passed over."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_files import networks, save
from command_line import fail
from gpen.errors import UserError
from gpen.runs.checkpoints import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, keep_last=2)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda item: item.file_size)
    content = bytearray(path.read_bytes())
    tensor = content.find(b'\0\0\x80@' * 8)
    content[tensor + 9 if tensor >= 0 else largest.header_offset + 90] ^= 1
    path.write_bytes(content)


def damage_the_directory(path: Path) -> None:
    """Let the zip's directory say that the first entry is compressed, which it is not."""
    content = bytearray(path.read_bytes())
    content[content.index(b'PK\1\2') + 10] = zipfile.ZIP_DEFLATED
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b'')


def overwrite_with_text(path: Path) -> None:
    path.write_text('this is no checkpoint')


def replace_by_a_plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('hello.txt', 'hello')


def replace_by_code(path: Path) -> None:
    torch.save({'iteration': 4, 'networks': {}, 'code': shutil.rmtree}, path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_list(path: Path) -> None:
    torch.save([1, 2], path)


def break_the_pickle(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        items = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in items.items():
            archive.writestr(name, pickle.dumps(0, protocol=2)[:-1] if name.endswith('data.pkl') else content)


DAMAGES = [
    *(cut_off, flip_a_bit, empty, overwrite_with_text, replace_by_a_plain_zip, replace_by_a_folder, replace_by_a_pipe),
    *(replace_by_code, replace_by_a_list, break_the_pickle, damage_the_directory, Path.unlink),
]


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize('name', ['models/net_g_4.pth', 'models/net_d_4.pth', 'training_states/4.state'])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_is_used(
    name: str, damage: Callable[[Path], None], store: CheckpointStore, tmp_path: Path
) -> None:
    save(store, 2)
    save(store, 4)
    damage(tmp_path / name)
    checkpoint, damaged = store.load_newest()
    assert checkpoint is not None
    if name.endswith('state') and damage is Path.unlink:
        assert damaged == []
    else:
        assert len(damaged) == 1
        assert str(tmp_path / name) in damaged[0]
    assert checkpoint.iteration == 2


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named_and_the_checkpoint_before_them_is_used(
    value: float, store: CheckpointStore, tmp_path: Path
) -> None:
    save(store, 2)
    save(store, 4)
    path = tmp_path / 'models' / 'net_g_4.pth'
    content = torch.load(path)
    next(iter(content['params'].values())).fill_(value)
    torch.save(content, path)
    checkpoint, damaged = store.load_newest()
    assert checkpoint is not None
    assert checkpoint.iteration == 2
    assert len(damaged) == 1
    assert f'{path} is spoilt' in damaged[0]


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_a_state_whose_optimizer_is_not_finite_is_passed_over(value: float, store: CheckpointStore) -> None:
    save(store, 2)
    moments = {'exp_avg': torch.tensor([0.0, value])}
    store.save(4, networks(4.0), {'model': {'optimizer_d': {'state': {0: moments}}}}, {})
    checkpoint, (sentence,) = store.load_newest()
    assert checkpoint is not None
    assert checkpoint.iteration == 2
    assert f'{store.states / "4.state"} is spoilt' in sentence


def test_without_any_whole_checkpoint_all_are_listed(store: CheckpointStore) -> None:
    for iteration in (2, 4):
        save(store, iteration)
        empty(store.states / f'{iteration}.state')
    with pytest.raises(UserError) as caught:
        store.load_newest()
    message = str(caught.value)
    assert 'No checkpoint in' in message
    assert '2.state' in message
    assert '4.state' in message
    assert 'Train anew without --auto_resume' in message


def copy_from(iteration: int) -> Callable[[Path], None]:
    """Return a function that replaces a file of iteration 4 by that of another iteration."""

    def replace(path: Path) -> None:
        path.unlink()  # it is the latest, too
        shutil.copy(path.with_name(path.name.replace('4', str(iteration))), path)

    return replace


@pytest.mark.parametrize('name', ['models/net_g_4.pth', 'models/net_d_4.pth'])
def test_a_network_of_another_iteration_is_not_taken_for_that_of_a_state(
    name: str, store: CheckpointStore, tmp_path: Path
) -> None:
    save(store, 2)
    save(store, 4)
    copy_from(2)(tmp_path / name)
    checkpoint, (sentence,) = store.load_newest()
    assert checkpoint is not None
    assert checkpoint.iteration == 2
    assert f'{tmp_path / name} is not the file that' in sentence


def test_a_state_of_a_version_without_checksums_is_loaded(store: CheckpointStore) -> None:
    save(store, 4)
    state = torch.load(store.states / '4.state', weights_only=True)
    del state['checksums']
    torch.save(state, store.states / '4.state')
    assert store.load(store.states / '4.state').iteration == 4


def test_a_state_under_another_number_gets_its_own_back_and_a_copy_is_passed_over(store: CheckpointStore) -> None:
    save(store, 2)
    save(store, 4)
    shutil.copy(store.states / '2.state', store.states / '9.state')
    (store.states / '4.state').rename(store.states / '7.state')
    checkpoint, sentences = store.load_newest()
    assert checkpoint is not None
    assert (checkpoint.iteration, checkpoint.path.name) == (4, '4.state')
    assert [sentence.partition(':')[0] for sentence in sentences] == ['Renamed to 4.state', 'Passed over']
    assert sorted(store.clean_up(4)) == ['9.state']
    assert (store.models / 'net_g_4.pth').is_file()


ODD: dict[str, Any] = {
    **{name: {name: value} for name, value in (('iteration', -4), ('networks', {'net_g': 5}), ('checksums', 'x'))},
    'an iteration of text': {'iteration': '4'},
    'data': {'data': None},
    'early stopping': {'early_stopping': 'x'},
    'images': {'images': {'train': {'a': 1}}},
    'mean path length': {'model': {'mean_path_length': 'x'}},
}


@pytest.mark.parametrize('odd', ODD.values(), ids=ODD.keys())
def test_a_state_of_other_content_is_no_training_state(odd: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / 'run')
    path = tmp_path / 'run' / 'experiments' / 'tiny' / 'training_states' / '8.state'
    state = torch.load(path, weights_only=True)
    torch.save({**state, **odd, 'model': {**state['model'], **odd.get('model', {})}}, path)
    change = (f'path:experiments_root={tmp_path / "run" / "experiments"}', f'path:resume_state={path}', 'name=new')
    printed = fail(trained, *change)
    assert str(path) in printed
    assert 'is not a training state of this program' in printed or 'does not fit this run' in printed


def test_a_file_of_weights_is_no_training_state(store: CheckpointStore) -> None:
    save(store, 4)
    with pytest.raises(UserError, match=r'net_g_4\.pth is not a training state'):
        store.load(store.models / 'net_g_4.pth')


def test_a_state_that_names_model_files_elsewhere_takes_them_from_beside_itself(
    store: CheckpointStore, tmp_path: Path
) -> None:
    save(store, 4)
    state = torch.load(store.states / '4.state', weights_only=True)
    state['networks'] = {'net_g': '../../net_g_4.pth'}
    torch.save(state, store.states / '4.state')
    torch.save({'params': {}}, tmp_path.parent / 'net_g_4.pth')
    assert store.load(store.states / '4.state').networks['net_g']['params']
