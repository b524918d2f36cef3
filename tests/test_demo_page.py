"""The page as it is served: by whom, to whom, what of it is closed, and what is left of it."""

import http.client
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
from urllib.parse import urlsplit

import pytest

import demo
from conftest import run_code
from demo_page import server as demo_server
from demo_process import Demo, draw_portraits, encode
from gpen.errors import UserError

EMPTY = 'appears here'


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
    started = Demo(
        tmp_path_factory.mktemp('demo'), '--max_size', 0.3, '--max_pixels', 200_000, '--allow_host', 'faces.example'
    )
    yield started
    if started.process.poll() is None:
        started.stop()


def ask(
    page: Demo, path: str, data: bytes | None = None, kind: str = 'application/octet-stream', **more: str
) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    headers = ({} if data is None else {'Content-Type': kind}) | more
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f'{page.address}{path}', data, headers), timeout=20
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except urllib.error.URLError as error:
        # The page may refuse a request by its head and close the connection before all of it was sent.
        if isinstance(error.reason, BrokenPipeError | ConnectionResetError):
            return 413, b''
        raise


def call(page: Demo, *values: Any, session: str = 'test') -> tuple[int, Any]:
    """Change the photograph as the browser does; return the status and what the page shows then."""
    [function] = [each['id'] for each in page.config['dependencies'] if [t[1] for t in each['targets']] == ['change']]
    body = {'data': values, 'fn_index': function, 'session_hash': session, 'event_data': None, 'trigger_id': 1}
    status, text = ask(page, '/gradio_api/queue/join', json.dumps(body).encode(), 'application/json')
    if status != 200:
        return status, text.decode()
    address = f'{page.address}/gradio_api/queue/data?session_hash={session}'
    with urllib.request.urlopen(address, timeout=20) as stream:
        for line in stream:
            message = json.loads(line[6:]) if line.startswith(b'data: ') else {}
            if message.get('msg') == 'process_completed':
                return status, message['output'].get('data')
    raise AssertionError('the queue ended without an answer')


def form(data: bytes, name: str = 'anna.png') -> tuple[bytes, str]:
    """Return a form with a file in it, and its type."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b'\r\n--x--\r\n', 'multipart/form-data; boundary=x'


def upload(page: Demo, data: bytes, name: str = 'anna.png') -> dict[str, Any]:
    """Upload a photograph; return it as the browser describes it."""
    status, body = ask(page, '/gradio_api/upload', *form(data, name))
    assert status == 200
    return describe(json.loads(body)[0], name)


def describe(path: object, name: str = 'anna.png') -> dict[str, Any]:
    """Return a file as the browser describes it."""
    return {'path': str(path), 'orig_name': name, 'meta': {'_type': 'gradio.FileData'}}


def restore(page: Demo, data: bytes, name: str = 'anna.png', scale: int = 1) -> list[Any]:
    """Upload a photograph and return the message, the picture, the download and the faces."""
    answer: list[Any] = call(page, upload(page, data, name), 100, 'All faces', scale)[1]
    return answer


def addresses(value: Any) -> list[str]:
    """Return the addresses of all files in an answer."""
    if isinstance(value, dict):
        own = [urlsplit(value['url']).path] if isinstance(value.get('url'), str) else []
        return own + [address for part in value.values() for address in addresses(part)]
    return [address for part in value for address in addresses(part)] if isinstance(value, list) else []


def test_a_face_is_restored_and_downloaded(page: Demo) -> None:
    message, *shown = restore(page, encode(draw_portraits(2)))
    assert '2 faces · 512 × 256 pixels' in message
    files = addresses(shown)
    assert [name.rpartition('/')[2] for name in files] == [
        'before.jpg', 'after.jpg', 'anna_restored.png', 'face_1.jpg', 'face_2.jpg'
    ]  # fmt: skip
    answers = [ask(page, address) for address in files]
    assert [status for status, _ in answers] == [200] * 5
    assert len({body for _, body in answers}) == 5
    folder = files[0].rpartition('/')[0]
    for wrong in ('face_3.jpg', 'other.jpg', '', '..'):
        assert ask(page, f'{folder}/{wrong}')[0] in (403, 404)
    assert page.files() == []


def test_what_cannot_be_restored_is_said(page: Demo) -> None:
    grey = encode(draw_portraits()[:8, :8])
    message, *shown = restore(page, grey)
    assert 'No face was found' in message
    assert any(address.endswith('before.jpg') for address in addresses(shown))
    message, *shown = restore(page, b'some words', 'notes.jpg')
    assert 'notes.jpg cannot be used: it is not an image' in message
    assert addresses(shown) == []
    assert 'Choose 1x' in restore(page, encode(draw_portraits()), scale=2)[0]
    assert 'this page offers' in restore(page, encode(draw_portraits()), scale=3)[0]
    assert EMPTY in call(page, None, 100, 'All faces', 1)[1][0]
    assert 'forgotten' in call(page, describe(page.private / 'no such/anna.png'), 100, 'All faces', 1)[1][0]
    assert 'Traceback' not in page.log.read_text()


def test_large_uploads_are_refused(page: Demo) -> None:
    before = page.photographs()
    limit = round(0.3 * (1 << 20))
    assert ask(page, '/gradio_api/upload', *form(bytes(limit + 1)))[0] == 413
    assert ask(page, '/gradio_api/upload', *form(bytes(limit + 10_000)))[0] == 413
    many = (form(bytes(limit - 1))[0][:-7] + b'\r\n') * 3 + b'--x--\r\n'
    assert ask(page, '/gradio_api/upload', many, 'multipart/form-data; boundary=x')[0] == 413
    assert page.photographs() == before
    assert ask(page, '/gradio_api/upload', *form(bytes(limit)))[0] == 200


def test_uploads_have_a_length(page: Demo) -> None:
    body, kind = form(bytes(1000))
    connection = http.client.HTTPConnection(urlsplit(page.address).netloc, timeout=20)
    connection.request('POST', '/gradio_api/upload', iter([body]), {'Content-Type': kind}, encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_other_sites_cannot_make_a_browser_upload(page: Demo) -> None:
    for origin in ('https://evil.example', 'null', 'http://127.0.0.1:1'):
        assert ask(page, '/gradio_api/upload', *form(b'data'), Origin=origin)[0] == 403
        assert ask(page, '/gradio_api/queue/join', b'{"data": []}', 'text/plain', Origin=origin)[0] == 403
    assert ask(page, '/gradio_api/upload', *form(b'data'), Origin=page.address)[0] == 200


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:7860', '127.0.0.1.evil.example', 'localhost.'])
def test_foreign_hosts_are_refused(page: Demo, host: str) -> None:
    """A stranger's name that points here (DNS rebinding) must not make the page his."""
    for path in ('/', '/config', '/assets/x', f'/gradio_api/file={page.examples[0]}'):
        assert ask(page, path, Host=host)[0] == 400
    assert ask(page, '/gradio_api/upload', *form(b'data'), Host=host)[0] == 400
    assert ask(page, '/gradio_api/queue/join', b'{"data": []}', 'application/json', Host=host)[0] == 400


def test_own_and_allowed_hosts_are_served(page: Demo) -> None:
    port = page.address.rpartition(':')[2]
    for host in ('localhost', '127.0.0.1', '[::1]', socket.gethostname(), 'faces.example', 'FACES.example'):
        assert ask(page, '/', Host=f'{host}:{port}')[0] == 200, host


def test_names_of_uploads_never_leave_the_folder(page: Demo) -> None:
    before = set(page.private.parent.iterdir())
    for name in ('../../strange.png', '/tmp/strange.png', '..', 'a/../../../strange.png', '..%2F..%2Fstrange.png'):
        status, body = ask(page, '/gradio_api/upload', *form(b'data', name))
        assert status in (200, 400)
        for path in json.loads(body) if status == 200 else []:
            assert page.private in Path(path).resolve().parents
    assert 'strange.png' not in {path.name for path in set(page.private.parent.iterdir()) - before}
    assert page.files() == []


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
        '/gradio_api/queue/status',
        '/gradio_api/startup-events',
        '/gradio_api/component_server',
        '/monitoring',
        '/%3F/monitoring',
        '/docs',
        '/openapi.json',
    ],
)
def test_files_addresses_and_inner_pages_are_not_served(page: Demo, path: str) -> None:
    status, body = ask(page, path)
    assert status in (403, 404)
    assert b'root:' not in body


def test_no_other_file_is_read_and_nothing_is_fetched(page: Demo) -> None:
    before = page.photographs()
    file = {'meta': {'_type': 'gradio.FileData'}}
    for path in ('https://example.com/a.png', 'http://127.0.0.1:1/a.png', '/etc/passwd', f'{page.private}/../x', 5):
        for value in (file | {'path': path}, [file | {'path': path}], {'inside': file | {'path': path}}):
            assert call(page, value, 100, 'All faces', 1)[0] == 400
            assert call(page, None, value, 'All faces', 1)[0] == 400
        body = json.dumps({'data': [file | {'path': path}], 'fn_index': 0, 'session_hash': 'x'}).encode()
        assert ask(page, '/gradio_api/run/predict', body, 'application/json')[0] == 400
    url_only = describe(page.examples[0]) | {'url': 'https://example.com/a.png'}
    assert '1 face' in call(page, url_only, 100, 'All faces', 1)[1][0]
    assert ask(page, '/gradio_api/queue/join', b'{' * 70_000, 'application/json')[0] == 413
    assert ask(page, '/gradio_api/queue/join', b'{' * 1000, 'application/json')[0] == 400
    assert {path.name for path in set(page.photographs()) - set(before)} <= {
        'before.jpg', 'after.jpg', 'face_1.jpg', 'anna_restored.png'
    }  # fmt: skip
    assert page.files() == []


def test_the_queue_cannot_be_passed_by(page: Demo) -> None:
    [function] = [each['id'] for each in page.config['dependencies'] if [t[1] for t in each['targets']] == ['change']]
    body = {'data': [describe(page.examples[0]), 100, 'All faces', 1], 'fn_index': function, 'session_hash': 'x'}
    for path in ('run/predict', 'api/predict', 'call/predict', 'run/show'):
        assert ask(page, f'/gradio_api/{path}', json.dumps(body).encode(), 'application/json')[0] == 404


def test_pages_may_load_nothing_from_elsewhere(page: Demo) -> None:
    with urllib.request.urlopen(page.address, timeout=20) as reply:
        assert reply.headers['Content-Security-Policy'].startswith("default-src 'self'")
    with urllib.request.urlopen(f'{page.address}/gradio_api/file={page.examples[0]}', timeout=20) as reply:
        assert reply.headers['Cache-Control'] == 'no-store'
        assert reply.headers['X-Content-Type-Options'] == 'nosniff'


def test_only_this_computer_is_served(page: Demo) -> None:
    assert page.address.startswith('http://127.0.0.1:')
    assert not any(line.startswith('Warning') for line in page.lines)
    port = int(page.address.rpartition(':')[2])
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
    for other in others - {'127.0.0.1', '127.0.1.1'}:
        with pytest.raises(OSError, match=r'refused|timed out'):
            socket.create_connection((other, port), timeout=2).close()


def test_temporary_files_are_private_and_removed_at_the_end(page: Demo) -> None:
    restore(page, encode(draw_portraits()))
    assert page.photographs()
    if Path('/dev/shm').is_dir():
        assert page.private.parent == Path('/dev/shm')
    assert stat.S_IMODE(page.private.stat().st_mode) == 0o700
    assert page.stop(signal.SIGTERM) == 0
    assert not page.private.exists()
    assert list(page.temporary.iterdir()) == []
    assert list(page.work.iterdir()) == []
    assert 'Traceback' not in page.log.read_text()


def test_photographs_are_deleted_after_a_while_and_examples_stay(tmp_path: Path) -> None:
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
    page = Demo(tmp_path, lifetime=2)
    shown = addresses(restore(page, encode(draw_portraits())))
    assert ask(page, shown[0])[0] == 200
    end = time.monotonic() + 10
    while page.photographs():
        assert time.monotonic() < end, page.photographs()
        time.sleep(0.1)
    assert ask(page, shown[0])[0] == 403
    assert all(path.is_file() for path in page.examples)
    assert '1 face' in call(page, describe(page.examples[0]), 100, 'All faces', 1)[1][0]
    assert page.stop() == 0
    assert not page.private.exists()
    assert page.log.read_text() == ''


def test_a_second_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
    page = Demo(tmp_path)
    for _ in range(5):
        page.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    page.process.wait(timeout=20)
    assert not page.private.exists()


def test_uploads_are_refused_while_the_folder_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = pytest.importorskip('demo_page.gate', reason="the page needs gradio: pip install 'gradio>=6.30'")
    fastapi = pytest.importorskip('fastapi')
    testing = pytest.importorskip('starlette.testclient', reason='the test client needs httpx')
    app = fastapi.FastAPI()
    app.post('/gradio_api/upload')(lambda: 'taken')
    gate.add_gate(app, tmp_path, 1000, ['testserver'])
    monkeypatch.setattr(gate, 'MAX_STORED', 5000)
    client = testing.TestClient(app)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder/one').write_bytes(bytes(500))
    assert client.post('/gradio_api/upload').status_code == 200
    (tmp_path / 'folder/two').write_bytes(bytes(5000))
    assert client.post('/gradio_api/upload').status_code == 503


def test_a_taken_port_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    with demo_server.open_socket('127.0.0.1', 0) as first:
        port = first.getsockname()[1]
        with demo_server.open_socket('127.0.0.1', port) as second:
            assert port < second.getsockname()[1] < port + 100
            demo.announce('127.0.0.1', port, second.getsockname(), [], False)
            assert f'Port {port} is taken' in capsys.readouterr().out
    with pytest.raises(UserError, match=r'--host 203\.0\.113\.7'):
        demo_server.open_socket('203.0.113.7', 0)
    with pytest.raises(UserError, match=r'--host nowhere\.invalid is no address'):
        demo_server.open_socket('nowhere.invalid', 0)


def test_other_hosts_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    demo.announce('0.0.0.0', 7860, ('0.0.0.0', 7860), ['localhost', 'here'], False)
    lines = capsys.readouterr().out.splitlines()
    assert 'anyone who can reach this computer at port 7860' in lines[0]
    assert 'localhost, here; allow others by --allow_host NAME' in lines[1]
    assert lines[-1] == 'http://localhost:7860'
    demo.announce('::1', 7860, ('::1', 7860), [], False)
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


@pytest.mark.parametrize('name', ['http://faces.example', 'faces.example:80', '*faces', 'a b', ''])
def test_a_wrong_host_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.parse_arguments(['--model', 'net.pth', '--allow_host', name])
    assert 'is no name of a host' in capsys.readouterr().err


def test_help_comes_at_once() -> None:
    start = time.perf_counter()
    done = run_code('scripts/demo.py', '--help')
    assert time.perf_counter() - start < 1
    assert '--max_pixels' in done.stdout
