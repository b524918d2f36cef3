"""The page as it is served: by whom, to whom, what of it is closed, and what is left of it."""

from __future__ import annotations

import json
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import demo
from conftest import run_code
from demo_page import Demo, draw_portraits, encode
from gpen.demo import server as demo_server
from gpen.demo.store import MAX_WAITING
from gpen.errors import UserError


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
    started = Demo(tmp_path_factory.mktemp('demo'), '--max_size', '0.3', '--max_pixels', '200000')
    yield started
    if started.process.poll() is None:
        started.stop()


def ask(page: Demo, path: str, data: bytes | None = None, kind: str = 'application/octet-stream') -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    headers = {} if data is None else {'Content-Type': kind}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f'{page.address}{path}', data, headers), timeout=20
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(page: Demo, function: int, *values: Any, session: str = 'test') -> tuple[int, Any]:
    """Call a function of the page as the browser does; return the status and what it gave."""
    body = {'data': values, 'fn_index': function, 'session_hash': session, 'event_data': None, 'trigger_id': 1}
    status, text = ask(page, '/gradio_api/queue/join', json.dumps(body).encode(), 'application/json')
    if status != 200:
        return status, text.decode()
    address = f'{page.address}/gradio_api/queue/data?session_hash={session}'
    with urllib.request.urlopen(address, timeout=20) as stream:
        for line in stream:
            message = json.loads(line[6:]) if line.startswith(b'data: ') else {}
            if message.get('msg') == 'process_completed':
                return status, message['output'].get('data', message['output'])
    raise AssertionError('no answer')


def restore(page: Demo, data: bytes, name: str = 'anna.png', faces: str = 'All faces', scale: int = 1) -> list[str]:
    """Upload a photograph and return the HTML of the message and of the result."""
    status, key = ask(page, f'/photo?name={name}', data)
    assert status == 200
    answer: list[str] = call(page, 0, key.decode(), faces, scale)[1]
    return answer


def test_a_face_is_restored_and_downloaded(page: Demo) -> None:
    message, result = restore(page, encode(draw_portraits(2)))
    assert message == ''
    assert '2 faces · 512 × 256 pixels' in result
    key = result.partition('result/')[2].partition('/')[0]
    pictures = {
        name: ask(page, f'/result/{key}/{name}')
        for name in ('before.jpg', 'after.jpg', 'face/1/before.jpg', 'face/1/after.jpg', 'restored.png?strength=0.5')
    }
    assert [status for status, _ in pictures.values()] == [200] * 5
    assert len({body for _, body in pictures.values()}) == 5
    assert ask(page, f'/result/{key}/restored.png?strength=0')[1] != pictures['restored.png?strength=0.5'][1]
    for wrong in ('face/2/before.jpg', 'face/-1/before.jpg', 'other.jpg'):
        assert ask(page, f'/result/{key}/{wrong}')[0] == 404
    assert ask(page, f'/result/{key}/restored.png?strength=nan')[0] == 422
    assert page.files() == []


def test_what_cannot_be_restored_is_said(page: Demo) -> None:
    grey = encode(draw_portraits()[:8, :8])
    message, result = restore(page, grey)
    assert 'No face was found' in message
    assert 'before.jpg' in result
    message, result = restore(page, b'some words', 'notes.jpg')
    assert 'notes.jpg cannot be used: it is not an image' in message
    assert 'appears here' in result
    assert 'Choose 1x' in restore(page, encode(draw_portraits()), scale=2)[0]
    assert 'larger than 0.3 MB' in call(page, 0, 'too_large', 'All faces', 1)[1][0]
    assert 'forgotten' in call(page, 0, 'no such key', 'All faces', 1)[1][0]


def test_large_uploads_are_refused(page: Demo) -> None:
    assert ask(page, '/photo', bytes(300_000))[0] == 200
    assert ask(page, '/photo', bytes(300_001))[0] == 413


def test_other_sites_cannot_make_a_browser_upload(page: Demo) -> None:
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'):
        assert ask(page, '/photo', b'data', kind)[0] == 415


def test_results_that_were_forgotten_are_gone(page: Demo) -> None:
    status, body = ask(page, '/result/unknown/restored.png')
    assert status == 410
    assert 'forgotten' in json.loads(body)['detail']


@pytest.mark.parametrize(
    'path',
    [
        '/gradio_api/file=/etc/passwd',
        '/gradio_api/file=https://example.com/',
        '/gradio_api/file/etc/passwd',
        '/file=/etc/passwd',
        '/static/../../../../../../etc/passwd',
        '/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd',
        '/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd',
        '/gradio_api/info',
        '/gradio_api/openapi.json',
        '/gradio_api/proxy=https://example.com/',
        '/gradio_api/runs',
        '/monitoring',
        '/docs',
        '/openapi.json',
    ],
)
def test_files_addresses_and_inner_pages_are_not_served(page: Demo, path: str) -> None:
    status, body = ask(page, path)
    assert status in (403, 404)
    assert b'root:' not in body


def test_gradio_takes_no_uploads_and_fetches_nothing(page: Demo) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\ndata\r\n--x--\r\n'
    assert ask(page, '/gradio_api/upload', form, 'multipart/form-data; boundary=x')[0] == 404
    file = {'path': 'https://example.com/a.png', 'meta': {'_type': 'gradio.FileData'}}
    assert call(page, 0, file, 'All faces', 1)[0] == 400
    assert call(page, 0, [file], 'All faces', 1)[0] == 400
    assert ask(page, '/gradio_api/queue/join', b'{' * 70_000, 'application/json')[0] == 400
    assert page.files() == []


def test_only_this_computer_is_served(page: Demo) -> None:
    assert page.address.startswith('http://127.0.0.1:')
    assert not any(line.startswith('Warning') for line in page.lines)
    port = int(page.address.rpartition(':')[2])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
    for other in others - {'127.0.0.1', '127.0.1.1'}:
        with pytest.raises(OSError, match=r'refused|timed out'):
            socket.create_connection((other, port), timeout=2).close()


def test_visitors_are_told_when_too_many_wait(page: Demo) -> None:
    statuses = [ask(page, '/photo', b'data')[0] for _ in range(MAX_WAITING + 1)]
    assert statuses[0] == 200
    assert statuses[-1] == 503
    assert 'Many photographs are waiting' in call(page, 0, 'busy', 'All faces', 1)[1][0]


def test_temporary_files_are_private_and_removed_at_the_end(page: Demo) -> None:
    [folder] = page.temporary.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert page.stop(signal.SIGTERM) == 0
    assert list(page.temporary.iterdir()) == []
    assert list(page.work.iterdir()) == []
    assert 'Traceback' not in page.log.read_text()


def test_a_taken_port_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    with demo_server.open_socket('127.0.0.1', 0) as first:
        port = first.getsockname()[1]
        with demo_server.open_socket('127.0.0.1', port) as second:
            assert port < second.getsockname()[1] < port + 100
            demo.announce('127.0.0.1', port, second.getsockname(), False)
            assert f'Port {port} is taken' in capsys.readouterr().out
    with pytest.raises(UserError, match=r'--host 203\.0\.113\.7'):
        demo_server.open_socket('203.0.113.7', 0)
    with pytest.raises(UserError, match=r'--host nowhere\.invalid is no address'):
        demo_server.open_socket('nowhere.invalid', 0)


def test_other_hosts_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    demo.announce('0.0.0.0', 7860, ('0.0.0.0', 7860), False)
    lines = capsys.readouterr().out.splitlines()
    assert 'anyone who can reach this computer at port 7860' in lines[0]
    assert lines[-1] == 'http://localhost:7860'
    demo.announce('::1', 7860, ('::1', 7860), False)
    assert capsys.readouterr().out == 'Press Ctrl-C to end it.\nhttp://[::1]:7860\n'


@pytest.mark.parametrize('found', [None, '5.49.1', '6.29.1'])
def test_missing_or_old_gradio_is_told(
    found: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise demo_server.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(demo_server, 'version', version)
    assert demo.main(['--model', 'net.pth']) == 2
    assert "pip install 'gradio>=6.30'" in capsys.readouterr().err


def test_a_wrong_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_server, 'version', lambda _: '6.31.0')
    monkeypatch.setattr(demo_server, '_OFFLINE', {})
    assert demo.main(['--model', str(tmp_path / 'none.pth'), '--port', '0']) == 2
    assert 'none.pth' in capsys.readouterr().err


def test_help_comes_at_once() -> None:
    start = time.perf_counter()
    done = run_code('scripts/demo.py', '--help')
    assert time.perf_counter() - start < 1
    assert '--max_pixels' in done.stdout
