"""Serves the page until it is told to stop, and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EADDRINUSE
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from gpen.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gpen.demo.page import About
    from gpen.demo.service import Service

_GRADIO = '6.30'  # older pages fetch from other hosts
_TRIED_PORTS = 100
_PATIENCE = 3.0  # seconds for open connections and a running network, when the server stops
_MEMORY_FOLDER = Path('/dev/shm')
_MEMORY_ROOM = 1 << 30  # bytes; containers often have 64 MB there, too little for a few photographs
_EXAMPLE_SEED, _EXAMPLES = 10, 3
# Read when Gradio and ONNX Runtime are imported.
_OFFLINE = {
    'GRADIO_ANALYTICS_ENABLED': 'False',
    'GRADIO_RUN_HISTORY': 'False',  # it keeps results in the browser
    'GRADIO_MCP_SERVER': 'False',
    'GRADIO_SSR_MODE': 'False',
    'HF_HUB_DISABLE_TELEMETRY': '1',
    'ORT_DISABLE_TELEMETRY': '1',
}


def prepare() -> None:
    """Look for Gradio, and turn off what it and others would send to their makers. Call this before anything else.

    Raises:
        UserError: it is not installed, or too old.
    """
    try:
        found = version('gradio')
    except PackageNotFoundError:
        raise UserError(f"The page needs the package gradio: pip install 'gradio>={_GRADIO}'.") from None
    if [int(number) for number in re.findall(r'\d+', found)[:2]] < [int(number) for number in _GRADIO.split('.')]:
        raise UserError(f"Gradio {found} is too old for the page: pip install 'gradio>={_GRADIO}'.")
    os.environ.update(_OFFLINE)
    logging.getLogger('python_multipart').setLevel(logging.CRITICAL)  # strangers' forms would fill the log


@contextmanager
def private_folder() -> Iterator[tuple[Path, str]]:
    """Make a folder that this user alone can read, and remove it at the end, also after SIGTERM.

    Gradio puts uploads and results there.

    Yields:
        the folder, in memory where there is room for it, and where it is in words.
    """
    in_memory = os.access(_MEMORY_FOLDER, os.W_OK) and shutil.disk_usage(_MEMORY_FOLDER).free >= _MEMORY_ROOM
    parent, place = (_MEMORY_FOLDER, 'the memory') if in_memory else (None, 'a private folder')
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which raises KeyboardInterrupt
    try:
        with tempfile.TemporaryDirectory(prefix='gpen-demo-', dir=parent, ignore_cleanup_errors=True) as name:
            folder = Path(name).resolve()
            os.environ.update(GRADIO_TEMP_DIR=str(folder), GRADIO_EXAMPLES_CACHE=str(folder))
            try:
                yield folder, place
            finally:
                for number in signals:
                    signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave photographs behind
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; where the port is taken, on the next free one.

    Args:
        host: an address of this computer, or a name of one.
        port: 0 is any free one.

    Raises:
        UserError: there is no such address, or no free port.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f'--host {host} is no address: {getattr(error, "strerror", None) or error}.') from error

    last = min(port + (_TRIED_PORTS if port else 1), 1 << 16) - 1
    for number in range(port, last + 1):
        try:
            return socket.create_server((address[0], number), family=family, backlog=128)
        except OSError as error:
            if error.errno != EADDRINUSE:
                raise UserError(f'--host {host} --port {number} cannot be used: {error.strerror}.') from error
    raise UserError(f'--port {port}: all ports up to {last} are taken. Choose another one.')


def name_hosts(host: str, more: Sequence[str]) -> list[str]:
    """Return the names that the page may be asked for by.

    Any other name is one that a stranger made point to this computer, so that his web site can read the page.

    Args:
        host: what the server is bound to.
        more: what the user allows beside it.
    """
    own = [f'[{host}]' if ':' in host else host, socket.gethostname()]
    return list(dict.fromkeys(['localhost', '127.0.0.1', '[::1]', *own, *more]))


def render_examples(folder: Path) -> list[Path]:
    """Render degraded portraits of people who do not exist, to click on; return their files."""
    from gpen.data.image_io import write_image
    from gpen.demo.room import EXAMPLES
    from gpen.portraits.pair import render_pair

    paths = [folder / EXAMPLES / f'portrait_{number}.png' for number in range(1, _EXAMPLES + 1)]
    for index, path in enumerate(paths):
        write_image(path, render_pair(_EXAMPLE_SEED, 256, ('val', index))[1])
    return paths


def build_app(service: Service, about: About, folder: Path, hosts: Sequence[str]) -> ASGIApp:
    """Return everything that is served, as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI

    from gpen.demo.gate import add_gate
    from gpen.demo.page import build_page, page_settings

    page = build_page(service, about, render_examples(folder))
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(app, page, path='/', max_file_size=about.max_bytes, **page_settings())
    add_gate(app, folder, about.max_bytes, hosts)
    return app


def serve(app: ASGIApp, listener: socket.socket, folder: Path, on_start: Callable[[], None]) -> None:
    """Serve an application until Ctrl-C or SIGTERM.

    Args:
        app: what answers.
        listener: a listening socket, which is closed in the end.
        folder: of uploads and results, which are deleted when they are old.
        on_start: called when the page can be opened.
    """
    import uvicorn

    from gpen.demo.connection import Connection
    from gpen.demo.room import make_room

    # Warnings would be of what visitors do: anyone could fill the log with them.
    config = uvicorn.Config(app, http=Connection, ws='none', log_level='error', timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    # A thread that is not waited for long: a network that takes minutes must not keep Ctrl-C waiting.
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    with listener:
        with suppress(KeyboardInterrupt):
            thread.start()
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            on_start()
            while thread.is_alive():
                thread.join(0.5)  # without a time, Windows would not hear of Ctrl-C
                make_room(folder)
        server.should_exit = True
        thread.join(_PATIENCE)  # before the socket is closed, which its loop waits for
