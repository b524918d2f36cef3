"""A page for the tests: rendered portraits to drop on it, a tiny network, a server in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import torch

from conftest import ROOT
from gpen.archs.gpen import GPEN
from gpen.data.image_io import to_uint8
from gpen.portraits.render import render_portrait
from gpen.utils.seeds import derive_generator


@cache
def draw_portraits(count: int = 1, size: int = 256) -> np.ndarray:
    """Return people who do not exist, side by side: size x count * size x 3, uint8, RGB. MTCNN finds their faces."""
    portraits = [render_portrait(derive_generator(10, 'portrait', 0, index), size) for index in range(1, count + 1)]
    return to_uint8(np.hstack(portraits))


def encode(pixels: np.ndarray, suffix: str = '.png') -> bytes:
    """Return a file of RGB pixels (uint8 or uint16)."""
    data: bytes = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return data


def write_checkpoint(path: Path) -> Path:
    """Write a network of 64 x 64 with random weights."""
    torch.manual_seed(0)
    torch.save({'params_ema': GPEN(size=64, style_dim=16, n_mlp=2, narrow=0.05).state_dict()}, path)
    return path


EMPTY = 'appears here'

# Runs the script with files that are deleted after the given seconds, and half of the patience.
_SHORT_LIVED = """
import sys
from gpen.commands import demo
from gpen.demo import server
server.prepare()
from gpen.demo import connection, gate, room
room.LIFETIME = float(sys.argv[1])
gate.PATIENCE = connection.PATIENCE = room.LIFETIME / 2
gate._FAIR, connection.MAX_CONNECTIONS = 0.2, 40
sys.exit(demo.main(sys.argv[2:]))
"""


class Demo:
    """``scripts/demo.py`` in a process of its own, with a folder of its own for temporary files.

    Args:
        folder: for its checkpoint, its temporary files and what it prints.
        arguments: more for the script.
        lifetime: seconds that uploads and results are kept; as the script has it by default.
    """

    def __init__(self, folder: Path, *arguments: object, lifetime: float | None = None) -> None:
        self.temporary = folder / 'temporary'
        self.work = folder / 'work'
        for made in (self.temporary, self.work):
            made.mkdir()
        self.log = folder / 'log.txt'
        environment = {**os.environ, 'TMPDIR': str(self.temporary), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
        script = [str(ROOT / 'scripts/demo.py')] if lifetime is None else ['-c', _SHORT_LIVED, str(lifetime)]
        command = [sys.executable, *script, '--model', str(write_checkpoint(folder / 'net.pth'))]
        command += ['--port', '0', '--detector', 'mtcnn', *(str(argument) for argument in arguments)]
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=self.work
            )
        assert self.process.stdout is not None
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith('http://'):
                break
        else:
            raise AssertionError(self.log.read_text())
        self.address = self.lines[-1]
        with urllib.request.urlopen(f'{self.address}/config', timeout=20) as reply:
            self.config: dict[str, Any] = json.load(reply)
        [examples] = [part['props'] for part in self.config['components'] if part['type'] == 'dataset']
        self.examples = [Path(sample[0]['path']) for sample in examples['samples']]
        self.private = self.examples[0].parents[1]

    def files(self) -> list[Path]:
        """What it left on the disk: anything at all."""
        roots = [self.temporary, self.work]
        return [
            path for root in roots for path in root.rglob('*') if path.is_file() and self.private not in path.parents
        ]

    def photographs(self) -> list[Path]:
        """What is in its private folder, beside the examples: uploads and results."""
        return [path for path in self.private.rglob('*') if path.is_file() and path not in self.examples]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it; return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


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
