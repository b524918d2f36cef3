"""Which detector finds the faces, and what becomes of YuNet's file: here, downloaded, or something else."""

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SHARED
from gpen.errors import UserError
from gpen.faces import mtcnn, retinaface, yunet
from gpen.faces.detection import build_detector, choose_detector
from gpen.weights import downloads

MODELS = SHARED / 'data' / 'models'
needs_yunet = pytest.mark.skipif(not MODELS.is_dir(), reason="YuNet's file is not beside the project")
NETWORK = b'\x08\x07 a network' * 1000
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:ebafce4e\nsize 229738\n'

Serve = Callable[..., None]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without any weights."""
    monkeypatch.setattr(downloads, 'project_root', lambda: tmp_path / 'project')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'project'


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Publish a network at a server of this machine; ``answer`` is what comes instead of it."""
    answers: list[tuple[int, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[-1]
            self.send_response(status)
            self.end_headers()
            with suppress(OSError):  # who gets too much hangs up
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setattr(yunet, 'URL', f'http://127.0.0.1:{server.server_port}/{yunet.FILENAME}')

    def start(answer: bytes = NETWORK, status: int = 200, network: bytes = NETWORK) -> None:
        monkeypatch.setattr(yunet, 'SIZE', len(network))
        monkeypatch.setattr(yunet, 'SHA256', hashlib.sha256(network).hexdigest())
        answers.append((status, answer))

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yunet, 'URL', f'file:///nowhere/{yunet.FILENAME}')


def test_yunet_is_downloaded_once_and_checked(root: Path, serve: Serve) -> None:
    serve()
    name, reason = choose_detector('auto')
    path = root / 'weights' / yunet.FILENAME
    assert (name, reason) == ('yunet', f'Faces are found by YuNet, whose network is {path}.')
    assert path.read_bytes() == NETWORK
    serve(status=500)
    assert choose_detector('auto')[0] == 'yunet'


@pytest.mark.parametrize(
    ('answer', 'status', 'message'),
    [
        (POINTER, 200, f'only {len(POINTER)} bytes came, a pointer of Git LFS, and it should have {len(NETWORK)}'),
        (NETWORK[:-1], 200, f'only {len(NETWORK) - 1} bytes came'),
        (NETWORK * 3000, 200, f'more than {len(NETWORK)} bytes came'),
        (NETWORK[::-1], 200, 'the SHA-256 of what came is'),
        (b'', 404, 'the server answered 404'),
    ],
)
def test_whatever_else_comes_is_not_kept_and_mtcnn_takes_over_with_the_reason(
    answer: bytes, status: int, message: str, root: Path, serve: Serve
) -> None:
    serve(answer, status)
    name, reason = choose_detector('auto')
    assert name == 'mtcnn'
    assert reason.startswith('Faces are found by MTCNN, because YuNet cannot be had: ')
    assert message in reason
    assert str(root / 'weights' / yunet.FILENAME) in reason
    assert [path.name for path in (root / 'weights').iterdir()] == ['.locks']
    with pytest.raises(UserError, match='the face detector YuNet'):
        build_detector('yunet')


@pytest.mark.usefixtures('root', 'offline')
def test_retinaface_comes_first_only_where_its_weights_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('facexlib', reason='facexlib is not installed')
    assert choose_detector('auto', tmp_path)[0] == 'mtcnn'
    (tmp_path / retinaface.FILENAME).touch()
    assert choose_detector('auto', tmp_path)[0] == 'retinaface'
    monkeypatch.setitem(sys.modules, 'facexlib.detection.retinaface', None)
    assert choose_detector('auto', tmp_path)[0] == 'mtcnn'
    assert choose_detector('retinaface')[0] == 'retinaface'


def test_the_folder_of_weights_need_not_hold_retinaface_for_it_to_be_used(root: Path, tmp_path: Path) -> None:
    pytest.importorskip('facexlib', reason='facexlib is not installed')
    usual = root / 'weights' / retinaface.FILENAME
    usual.parent.mkdir(parents=True)
    usual.touch()
    assert choose_detector('auto', tmp_path)[0] == 'retinaface'
    assert retinaface.find_retinaface(tmp_path) == usual


@pytest.mark.usefixtures('root', 'offline')
@pytest.mark.parametrize('name', [yunet.FILENAME, yunet.OLDER])
def test_yunet_is_found_in_the_folder_of_the_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(NETWORK)
    assert choose_detector('auto', tmp_path) == (
        'yunet',
        f'Faces are found by YuNet, whose network is {tmp_path / name}.',
    )


def other_networks() -> list[bytes]:
    return [POINTER, b'', b'<html>Please log in</html>', NETWORK, (mtcnn.find_networks() / 'onet.onnx').read_bytes()]


@pytest.mark.parametrize('number', range(5))
def test_a_file_that_is_not_yunet_is_named(number: int, tmp_path: Path) -> None:
    content = other_networks()[number]
    path = tmp_path / yunet.FILENAME
    path.write_bytes(content)
    kind = 'a pointer of Git LFS' if content == POINTER else 'something else'
    with pytest.raises(UserError) as caught:
        build_detector('yunet', tmp_path)
    assert f'{path} does not hold the face detector YuNet, but {kind} ({len(content)} bytes)' in str(caught.value)


@needs_yunet
@pytest.mark.parametrize('shape', [(1, 1), (8, 8), (11, 300), (1, 3000), (33, 64), (150, 401)])
def test_yunet_finds_nothing_where_there_is_nothing_however_small(
    shape: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    detector = build_detector('yunet', MODELS, min_face=10)
    noise = np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)
    for image in (noise, np.full_like(noise, -1)):
        assert detector.detect(image) == []
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (20, 500), (64, 64), (65, 300)])
def test_yunet_gets_sizes_at_which_all_versions_of_opencv_give_finite_places(
    height: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Network:
        def setInputSize(self, size: tuple[int, int]) -> None:  # noqa: N802  (OpenCV's name)
            seen.append(size)

        def detect(self, pixels: np.ndarray) -> tuple[int, np.ndarray]:
            assert pixels.shape[1::-1] == seen[-1]
            at_infinity, face = np.full(15, np.inf), np.arange(15.0)
            return 1, np.stack([at_infinity, face]).astype(np.float32)

    monkeypatch.setattr(yunet, 'find_yunet', lambda _: tmp_path)
    monkeypatch.setattr(yunet, '_read_network', lambda _: Network())
    found = yunet.YuNet().find(np.zeros((height, width, 3), np.float32), 16)
    assert np.isfinite(found.boxes).all()
    assert len(found.boxes) == len(seen)
    for length in (length for size in seen for length in size):
        assert (length >= 64, length % 32) == (True, 0)
