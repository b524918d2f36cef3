"""What strangers cannot do to the page: fill it, hold it up, or keep others out."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demo_process import EMPTY, Demo, addresses, ask, call, describe, draw_portraits, encode, form, restore
from gpen.demo import room

LIFETIME = 4.0
PATIENCE = LIFETIME / 2
SIZE = 1 << 20


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A page that forgets soon and waits for nobody, of 8 uploads and 40 connections."""
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
    everyone = ('--host', '0.0.0.0')
    started = Demo(tmp_path_factory.mktemp('demo'), *everyone, '--max_size', SIZE / (1 << 20), lifetime=LIFETIME)
    yield started
    if started.process.poll() is None:
        started.stop()


def wait(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def begin(page: Demo, data: bytes = b'') -> socket.socket:
    """Connect, and send the beginning of something."""
    connection = socket.create_connection((urlsplit(page.address).hostname, urlsplit(page.address).port), timeout=20)
    connection.sendall(data)
    return connection


def begin_upload(page: Demo, sent: int, more: str = '') -> socket.socket:
    """Send the beginning of an upload of nearly the largest size."""
    body, kind = form(bytes(SIZE - 100))
    head = f'POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{more}'
    return begin(page, f'{head}Content-Length: {len(body)}\r\n\r\n'.encode() + body[:sent])


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection; what it said before is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def trickle(connections: list[socket.socket]) -> bool:
    """Send one more byte by each connection; whether all of them are closed."""
    for connection in connections:
        try:
            connection.sendall(b'x')
        except OSError:
            continue
    return all(is_closed(connection) for connection in connections)


def count_handles(page: Demo) -> int:
    return sum(1 for _ in Path(f'/proc/{page.process.pid}/fd').iterdir())


def test_photographs_are_deleted_after_a_while_and_examples_stay(page: Demo) -> None:
    shown = addresses(restore(page, encode(draw_portraits())))
    assert ask(page, shown[0])[0] == 200
    wait(lambda: not page.photographs())
    assert ask(page, shown[0])[0] in (403, 404)
    assert all(path.is_file() for path in page.examples)
    assert '1 face' in call(page, describe(page.examples[0]), 100, 'All faces', 1)[1][0]


@pytest.mark.parametrize('ending', ['closed', 'silent', 'slow'])
def test_abandoned_uploads_keep_nobody_out_and_leave_nothing(page: Demo, ending: str) -> None:
    wait(lambda: not page.photographs())
    uploads = [begin_upload(page, SIZE // 2) for _ in range(20)]
    wait(lambda: len(page.photographs()) >= 8)
    assert len(page.photographs()) == 8  # the others wait for their turn
    if ending == 'closed':
        for upload in uploads:
            upload.close()
    assert restore(page, encode(draw_portraits()))[0].count('1 face') == 1

    def is_over() -> bool:
        return ending == 'closed' or (trickle(uploads) if ending == 'slow' else all(map(is_closed, uploads)))

    wait(is_over, 40 * PATIENCE)
    wait(lambda: not page.photographs())
    assert page.log.read_text() == ''


def test_a_body_cannot_be_longer_than_it_says(page: Demo) -> None:
    for more, status in (('Transfer-Encoding: chunked\r\n', b'411'), ('Content-Length: 5\r\n', b'400')):
        with begin_upload(page, 0, more) as connection:
            assert connection.recv(100).split()[1] == status
    limit = SIZE
    assert ask(page, '/gradio_api/upload', *form(bytes(limit + 1)))[0] == 413
    assert ask(page, '/gradio_api/upload', *form(bytes(limit + 10_000)))[0] == 413
    many = (form(bytes(limit - 1))[0][:-7] + b'\r\n') * 3 + b'--x--\r\n'
    assert ask(page, '/gradio_api/upload', many, 'multipart/form-data; boundary=x')[0] == 413
    assert ask(page, '/gradio_api/upload', *form(bytes(limit)))[0] == 200


def test_what_no_page_sends_is_answered_and_fills_no_log(page: Demo) -> None:
    unknown = json.dumps({'data': [], 'fn_index': 99_999, 'session_hash': 'a'}).encode()
    assert ask(page, '/gradio_api/queue/join', unknown, 'application/json')[0] >= 400
    body, _ = form(b'abc')
    assert ask(page, '/gradio_api/upload', body, f'multipart/form-data; boundary={"x" * 5000}')[0] >= 400
    assert ask(page, '/config')[0] == 200
    assert page.log.read_text() == ''


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='handles are counted in /proc')
@pytest.mark.parametrize(
    ('request_of_it', 'goes_on'),
    [
        ('', False),
        ('GET / HTTP/1.1\r\nHost: localhost\r\nX: ', True),
        ('POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{', True),
    ],
    ids=['silent', 'slow head', 'slow body'],
)
def test_connections_that_do_nothing_are_closed(page: Demo, request_of_it: str, goes_on: bool) -> None:
    before = count_handles(page)
    idle = [begin(page, request_of_it.encode()) for _ in range(60)]

    def is_answered() -> bool:
        try:
            return ask(page, '/config')[0] == 200
        except OSError:  # the page is closing connections, perhaps this one; a browser asks again too
            return False

    def are_closed() -> bool:
        if goes_on:
            trickle(idle)
        return count_handles(page) <= before + 3

    try:
        wait(is_answered)
        wait(lambda: count_handles(page) <= before + 45)
        wait(are_closed)
    finally:
        for connection in idle:
            connection.close()
        wait(lambda: count_handles(page) <= before)
    assert page.log.read_text() == ''


def test_answers_that_nobody_takes_are_given_up(page: Demo) -> None:
    before = count_handles(page)
    question = f'GET /gradio_api/file={page.examples[0]} HTTP/1.1\r\nHost: localhost\r\n\r\n'
    visitors = [begin(page, question.encode() * 200) for _ in range(3)]
    wait(lambda: count_handles(page) >= before + 3)
    wait(lambda: count_handles(page) <= before)
    for visitor in visitors:
        visitor.close()
    assert page.log.read_text() == ''


@pytest.mark.parametrize('session', ['', None, True, '../x', 'x' * 100, '\ud800'])
def test_strange_calls_do_not_stop_the_queue(page: Demo, session: object) -> None:
    for data in ([], [None, float('nan')], [None, float('inf'), 'All faces', 1]):
        body = {'data': data, 'fn_index': 0, 'session_hash': session, 'event_data': None, 'trigger_id': 1}
        assert ask(page, '/gradio_api/queue/join', json.dumps(body).encode(), 'application/json')[0] in (400, 422)
    assert EMPTY in call(page, None, 100, 'All faces', 1)[1][0]
    assert page.log.read_text() == ''


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere 127.0.0.2 is no address of this computer')
def test_the_page_may_be_asked_for_by_the_address_that_it_is_asked_at(page: Demo) -> None:
    port = urlsplit(page.address).port
    for host, status in (('127.0.0.2', b'200'), (f'127.0.0.2:{port}', b'200'), ('127.0.0.3', b'400'), ('', b'400')):
        with socket.create_connection(('127.0.0.2', port), timeout=20) as connection:
            connection.sendall(f'GET /config HTTP/1.1\r\nHost: {host}\r\n\r\n'.encode())
            assert connection.recv(100).split()[1] == status, host


def test_ranges_of_files_do_not_matter(page: Demo) -> None:
    whole = ask(page, f'/gradio_api/file={page.examples[0]}')
    for ranges in ('bytes=0-', 'bytes=0-1,5-9', 'bytes=x', ','.join(['bytes=0-'] * 500)):
        assert ask(page, f'/gradio_api/file={page.examples[0]}', Range=ranges) == whole
    assert page.log.read_text() == ''


def test_a_second_signal_leaves_nothing_behind(page: Demo) -> None:
    """This ends the page, so it comes last."""
    for _ in range(5):
        page.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    page.process.wait(timeout=20)
    assert not page.private.exists()


@pytest.fixture
def make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """A folder of at most five files."""
    monkeypatch.setattr(room, '_LEAST', 1000)
    monkeypatch.setattr(room, 'MAX_STORED', 5000)
    return partial(room.make_room, tmp_path)


def write(path: Path, age: float, size: int = 10) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_oldest_make_room_and_the_newest_and_the_examples_stay(
    tmp_path: Path, make_room: Callable[..., bool]
) -> None:
    example = write(tmp_path / 'examples/a.png', 10_000)
    ages = (5, 70, 80, 90, room.LIFETIME + 5)
    newest, *rest, old = [write(tmp_path / f'{age}/a.png', age) for age in ages]
    assert make_room()
    assert not old.exists()
    assert all(path.exists() for path in rest)
    assert make_room(2000)
    assert [path.exists() for path in rest] == [True, True, False]
    assert not make_room(5000)
    assert [path.exists() for path in [newest, *rest, example]] == [True, False, False, False, True]
    assert make_room(4000)


def test_tiny_files_fill_a_folder_too(tmp_path: Path, make_room: Callable[..., bool]) -> None:
    for number in range(5):
        write(tmp_path / f'{number}', 0, 0)
    assert make_room()
    assert not make_room(1)


@pytest.mark.usefixtures('make_room')
def test_uploads_are_refused_while_the_folder_is_full(tmp_path: Path) -> None:
    gate = pytest.importorskip('demo_page.gate', reason="the page needs gradio: pip install 'gradio>=6.30'")
    fastapi = pytest.importorskip('fastapi')
    testing = pytest.importorskip('starlette.testclient', reason='the test client needs httpx')
    app = fastapi.FastAPI()
    app.post('/gradio_api/upload')(lambda: 'taken')
    gate.add_gate(app, tmp_path, 1000, ['testserver'])
    client = testing.TestClient(app)
    write(tmp_path / 'new', 0, 4000)
    assert client.post('/gradio_api/upload', content=bytes(900)).status_code == 200
    write(tmp_path / 'more', 0, 900)
    assert client.post('/gradio_api/upload', content=bytes(900)).status_code == 503
    write(tmp_path / 'more', 70, 900)
    assert client.post('/gradio_api/upload', content=bytes(900)).status_code == 200
