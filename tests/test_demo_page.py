"""The page as it is served: by whom, to whom, what of it is closed, and what is left of it."""

import json
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import run_code
from demo_process import EMPTY, Demo, addresses, ask, call, describe, draw_portraits, encode, form, restore
from gpen.commands import demo
from gpen.demo import server as demo_server
from gpen.errors import UserError


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    pytest.importorskip('gradio', reason="the page needs gradio: pip install 'gradio>=6.30'")
    started = Demo(
        tmp_path_factory.mktemp('demo'), '--max_size', 0.3, '--max_pixels', 200_000, '--allow_host', 'faces.example'
    )
    yield started
    if started.process.poll() is None:
        started.stop()


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


def test_other_sites_cannot_make_a_browser_upload(page: Demo) -> None:
    for origin in ('https://evil.example', 'null', 'http://127.0.0.1:1'):
        assert ask(page, '/gradio_api/upload', *form(b'data'), Origin=origin)[0] == 403
        assert ask(page, '/gradio_api/queue/join', b'{"data": []}', 'text/plain', Origin=origin)[0] == 403
        assert ask(page, '/config', Origin=origin)[0] == 403
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
    assert ask(page, '/', Host='127.0.0.2')[0] == 400
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


@pytest.mark.parametrize('name', ['http://faces.example', 'faces.example:80', '*faces', 'a b'])
def test_a_wrong_host_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.parse_arguments(['--model', 'net.pth', '--allow_host', name])
    assert 'is no name of a host' in capsys.readouterr().err


def test_help_comes_at_once() -> None:
    start = time.perf_counter()
    done = run_code('scripts/demo.py', '--help')
    assert time.perf_counter() - start < 1
    assert '--max_pixels' in done.stdout
