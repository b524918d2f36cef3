"""Weight files: found on disk, downloaded, checked, and never half-written."""

import hashlib
import pickle
import socket
import time
from pathlib import Path

import pytest
import torch

from gpen.errors import UserError
from gpen.weights import downloads as weights
from gpen.weights import transfer
from gpen.weights.downloads import find_weights
from gpen.weights.files import load_weights

FILENAME = 'net.pth'
HASHED = 'net-0123abcd.pth'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project root and an empty torch hub cache."""
    monkeypatch.setattr(weights, 'project_root', lambda: tmp_path / 'project')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'project'


def find(url=f'file:///nowhere/{FILENAME}', local=None):
    return find_weights(url, local, 'Test weights', "the option 'weights'")


def save(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'a': torch.ones(2)} if content is None else content, path)
    return path


def files_in(root):
    return sorted(path.name for path in (root / 'weights').iterdir() if path.name != '.locks')


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_local_file_is_used_as_it_stands(root, tmp_path):
    save(root / 'weights' / FILENAME)
    local = save(tmp_path / 'mine.pth')
    assert find(local=str(local)) == local


@pytest.mark.usefixtures('root')
def test_missing_local_file_names_the_option_and_the_path(tmp_path):
    with pytest.raises(UserError, match=r"the option 'weights' names .*absent\.pth") as caught:
        find(local=str(tmp_path / 'absent.pth'))
    assert 'Test weights' in str(caught.value)


@pytest.mark.usefixtures('root')
def test_folder_is_no_local_file(tmp_path):
    with pytest.raises(UserError, match='there is no such file'):
        find(local=str(tmp_path))


def test_project_folder_comes_before_the_hub_cache(root, tmp_path):
    cached = save(tmp_path / 'hub' / 'checkpoints' / FILENAME)
    assert find() == cached
    own = save(root / 'weights' / FILENAME)
    assert find() == own


def test_file_that_is_there_is_used_whatever_its_hash(root):
    own = save(root / 'weights' / HASHED)
    assert find(f'file:///nowhere/{HASHED}') == own


def test_failed_download_says_which_file_goes_where(root):
    with pytest.raises(UserError) as caught:
        find(url='file:///nowhere/net.pth')
    message = str(caught.value)
    for part in (FILENAME, 'Test weights', 'file:///nowhere/net.pth', str(root / 'weights' / FILENAME), "'weights'"):
        assert part in message
    assert 'No such file' in message
    assert files_in(root) == []


def test_download_with_the_right_hash_is_kept_and_found_again(root, tmp_path):
    source = save(tmp_path / 'server' / FILENAME)
    source = source.rename(source.with_name(f'net-{hash_of(source)[:8]}.pth'))
    path = find(url=source.as_uri())
    assert path == root / 'weights' / source.name
    assert path.read_bytes() == source.read_bytes()
    source.unlink()
    assert find(url=source.as_uri()) == path


def test_download_with_the_wrong_hash_is_removed(root, tmp_path):
    source = save(tmp_path / 'server' / HASHED)
    with pytest.raises(UserError, match='should start with 0123abcd') as caught:
        find(url=source.as_uri())
    assert str(root / 'weights' / HASHED) in str(caught.value)
    assert files_in(root) == []


def test_download_without_a_known_hash_must_hold_weights(root, tmp_path):
    page = tmp_path / 'page.html'
    page.write_text('<html>Please log in</html>')
    with pytest.raises(UserError, match='not a file of PyTorch weights but a web page'):
        find(url=page.as_uri())
    assert files_in(root) == []
    assert find(url=save(tmp_path / 'net.pth').as_uri()).is_file()


@pytest.mark.usefixtures('root')
def test_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT', 0.2)
    with socket.create_server(('127.0.0.1', 0)) as server:
        start = time.monotonic()
        with pytest.raises(UserError, match='timed out'):
            find(url=f'http://127.0.0.1:{server.getsockname()[1]}/net.pth')
        assert time.monotonic() - start < 5


def test_weights_load_as_tensors_by_name(tmp_path):
    assert torch.equal(load_weights(save(tmp_path / 'net.pth'))['a'], torch.ones(2))


def test_old_format_of_torch_is_read(tmp_path):
    torch.save({'a': torch.ones(2)}, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    assert torch.equal(load_weights(tmp_path / 'old.pth')['a'], torch.ones(2))


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('size', [0, 1, 10, 50, 300, -1])
def test_cut_off_file_is_named(tmp_path, legacy, size):
    path = tmp_path / 'cut.pth'
    torch.save({'a': torch.ones(20)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r'cut\.pth is (damaged, cut short or no checkpoint|empty)'):
        load_weights(path)


def test_file_of_nothing_known_is_named(tmp_path):
    path = tmp_path / 'other.pth'
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(UserError, match=r'other\.pth is damaged, cut short or no checkpoint'):
        load_weights(path)


def test_file_that_holds_no_dict_of_tensors_is_named(tmp_path):
    path = save(tmp_path / 'nested.pth', {'state': [torch.ones(1)], 'epoch': 3})
    with pytest.raises(UserError, match=r'entries that are no tensors \(state, epoch\)'):
        load_weights(path)


def test_nothing_in_a_weight_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'executed',)

    for name, write, words in (
        ('zip.pth', torch.save, 'was not loaded: it holds more than tensors'),
        ('plain.pth', _pickle, 'is a pickle of Python objects that torch.save did not write'),
    ):
        write({'a': Trap()}, tmp_path / name)
        with pytest.raises(UserError, match=words):
            load_weights(tmp_path / name)
    assert not (tmp_path / 'executed').exists()


def _pickle(value, path):
    path.write_bytes(pickle.dumps(value, protocol=2))
