"""Downloads from servers that break off, lie, are slow, or refuse: what is kept, what continues, and what is said."""

import hashlib
import io
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from file_server import FileServer, serve_files
from gpen.errors import UserError
from gpen.weights import downloads, transfer
from gpen.weights.downloads import MissingWeightsError, obtain

pytestmark = pytest.mark.usefixtures('no_log')

NAME = 'net.pth'
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:ebafce4e\nsize 229738\n'
PAGE = b'<!DOCTYPE html><html>Please log in</html>'


def pack(value: float = 1.0) -> bytes:
    stream = io.BytesIO()
    torch.save({'a': torch.full((20_000,), value)}, stream)
    return stream.getvalue()


CONTENT, OTHER = pack(), pack(2.0)  # of one length
HALF = len(CONTENT) // 2


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files() as files:
        yield files


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that downloads go to; nothing is cached, and no time is lost between attempts."""
    monkeypatch.setattr(downloads, 'project_root', lambda: tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(transfer, 'PAUSE', 0)
    monkeypatch.delenv('GPEN_MIRROR', raising=False)
    return tmp_path / 'weights'


def get(*urls: str) -> bytes:
    return obtain(urls, NAME, 'Test weights', 'look elsewhere').read_bytes()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != '.locks')


def test_a_download_that_breaks_off_continues_by_itself(
    server: FileServer, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server.publish(NAME, CONTENT, ends_at={0: HALF, 2: HALF + 100})
    assert get(url) == CONTENT
    assert server.starts(NAME) == [0, 0, HALF, 0, HALF + 100]
    assert files_in(weights) == [NAME, f'{NAME}.sha256']
    assert 'MB of it are here already; the download continues.' in capfd.readouterr().err


def test_what_came_before_a_server_went_away_is_kept_for_the_next_run(server: FileServer, weights: Path) -> None:
    url = server.publish(NAME, CONTENT, ends_at={0: HALF, **dict.fromkeys(range(1, 20), 0)})
    with pytest.raises(MissingWeightsError, match=f'the connection ended after {HALF} of {len(CONTENT)} bytes'):
        get(url)
    (part,) = weights.glob('*.part')
    assert part.read_bytes() == CONTENT[:HALF]

    server.offers[NAME].ends_at.clear()
    assert get(url) == CONTENT
    assert server.starts(NAME)[-1] == HALF
    assert files_in(weights) == [NAME, f'{NAME}.sha256']


def test_a_complete_download_that_was_not_checked_yet_is_not_repeated(server: FileServer, weights: Path) -> None:
    url = server.publish(NAME, CONTENT)
    part = transfer.fetch(url, weights.parent / NAME)
    weights.mkdir()
    part.rename(weights / part.name)
    server.offers[NAME].ends_at[1] = 0
    assert get(url) == CONTENT
    assert server.starts(NAME) == [0, 0]


@pytest.mark.parametrize('change', ['another file', 'no ranges', 'another part'])
def test_a_download_that_cannot_continue_starts_anew(server: FileServer, weights: Path, change: str) -> None:
    url = server.publish(NAME, CONTENT, ends_at=dict.fromkeys(range(10), HALF))
    with pytest.raises(MissingWeightsError):
        get(url)
    if change == 'another file':
        server.publish(NAME, OTHER, version='2')
    else:
        server.publish(NAME, CONTENT, takes_ranges=change != 'no ranges', shift=10)
    assert get(url) == server.offers[NAME].content
    assert files_in(weights) == [NAME, f'{NAME}.sha256']


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, 'TIMEOUT', 0.25)
    silent = server.publish('silent.pth', CONTENT, pause=0.6)
    slow = server.publish(NAME, CONTENT, pause=0.1)  # 0.4 s in all
    assert get(silent, slow) == CONTENT
    assert server.asked[:2] == [('silent.pth', 0), (NAME, 0)]


@pytest.mark.parametrize(
    ('content', 'status', 'reason'),
    [
        (b'', 404, 'the server answered 404 Not Found'),
        (b'', 503, 'the server answered 503 Service Unavailable'),
        (PAGE, 200, 'what came is not a file of PyTorch weights but a web page; it was removed'),
        (POINTER, 200, 'what came is not a file of PyTorch weights but a Git LFS pointer, a note about the file'),
        (b'', 200, 'what came is not a file of PyTorch weights but empty; it was removed'),
        (CONTENT[:HALF] + bytes(len(CONTENT) - HALF), 200, 'what came is not a file of PyTorch weights; it was'),
    ],
)
def test_the_next_address_is_tried_where_one_has_something_else(
    server: FileServer, weights: Path, content: bytes, status: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = server.publish('first.pth', content, status=status)
    second = server.publish('second.pth', CONTENT)
    assert get(first, second) == CONTENT
    assert f'That failed: {reason}' in capfd.readouterr().err
    assert files_in(weights) == [NAME, f'{NAME}.sha256']


def test_where_no_address_has_it_each_is_named_with_its_reason(server: FileServer, weights: Path) -> None:
    first = server.publish('first.pth', PAGE)
    with pytest.raises(MissingWeightsError) as caught:
        get(first, f'{server.address}/second.pth', 'http://127.0.0.1:1/third.pth')
    message = str(caught.value)
    for part in (
        f'Test weights: {NAME} is not here and could not be downloaded from {first} (what came is not a file of ',
        f'), nor from {server.address}/second.pth (the server answered 404 Not Found), nor from http://127.0.0.1:1/',
        'Connection refused',
        f'Put the file at {weights / NAME}, or look elsewhere. GPEN_MIRROR=URL names another server',
    ):
        assert part in message
    assert files_in(weights) == []


def test_the_hash_of_the_first_download_is_kept_and_checked(server: FileServer, weights: Path) -> None:
    url = server.publish(NAME, CONTENT)
    get(url)
    record = weights / f'{NAME}.sha256'
    assert record.read_text() == f'{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n'

    # The file changes on the disk.
    (weights / NAME).write_bytes(OTHER)
    with pytest.raises(UserError, match=r'net\.pth has changed since it was downloaded: .* Delete net\.pth, so that'):
        get(url)

    # It changes on the server.
    (weights / NAME).unlink()
    server.publish(NAME, OTHER)
    with pytest.raises(MissingWeightsError, match=r'should start with .* by .*net\.pth\.sha256, which has that of the'):
        get(url)
    assert files_in(weights) == [record.name]
    assert get(url, server.publish('as_before.pth', CONTENT)) == CONTENT

    # The user takes the new one.
    for path in (weights / NAME, record):
        path.unlink()
    assert get(url) == OTHER


def test_a_file_that_the_user_put_there_is_not_checked(weights: Path) -> None:
    weights.mkdir()
    (weights / NAME).write_bytes(b'mine')
    assert get('http://127.0.0.1:1/net.pth') == b'mine'
    assert files_in(weights) == [NAME]


def test_the_mirror_comes_before_the_published_addresses(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.publish('published.pth', OTHER)
    server.publish(f'here/{NAME}', CONTENT)
    monkeypatch.setenv('GPEN_MIRROR', f'{server.address}/here/')
    assert get(url) == CONTENT
    assert server.asked == [(f'here/{NAME}', 0)]


@pytest.mark.parametrize('mirror', ['example.com/weights', '/weights', 'ftp://host/weights', 'https://'])
def test_a_mirror_that_is_no_address_is_named(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('GPEN_MIRROR', mirror)
    with pytest.raises(UserError, match=f'GPEN_MIRROR or --mirror\\) is {mirror}, which is no address'):
        get('http://127.0.0.1:1/net.pth')


def test_two_processes_download_a_file_once(server: FileServer, capfd: pytest.CaptureFixture[str]) -> None:
    url = server.publish(NAME, CONTENT, pause=0.05)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(get(url))) for _ in range(2)]
    for thread in threads:
        thread.start()
        while not server.asked:  # the first one has the lock by then
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert results == [CONTENT, CONTENT]
    assert server.asked == [(NAME, 0)]
    assert 'Another process is downloading' in capfd.readouterr().err


def test_a_run_logs_what_it_downloads(server: FileServer, capfd: pytest.CaptureFixture[str]) -> None:
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    transfer.LOGGER.addHandler(handler)
    level = transfer.LOGGER.level
    transfer.LOGGER.setLevel(logging.INFO)
    try:
        get(server.publish(NAME, CONTENT))
    finally:
        transfer.LOGGER.removeHandler(handler)
        transfer.LOGGER.setLevel(level)
    assert [line.partition(' to ')[0] for line in logged] == [f'Downloading Test weights from {server.address}/{NAME}']
    assert capfd.readouterr().err == ''
