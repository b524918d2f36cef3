"""Serves the page until it is told to stop, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from errno import EADDRINUSE
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from gpen.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gpen.demo.service import About, Service

_GRADIO = '6.30'  # older pages fetch from other hosts, or do not always tell that their tab was closed
_TRIED_PORTS = 100
_SWEEP_SECONDS = 30
_PATIENCE = 3.0  # seconds for open connections and a running network, when the server stops
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


def serve(service: Service, about: About, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        service: what restores photographs.
        about: what the page tells about itself.
        listener: a listening socket, which is closed in the end.
        on_start: called when the page can be opened.
    """
    with listener, _SigtermAsCtrlC(), tempfile.TemporaryDirectory(prefix='gpen-demo-') as folder:
        # Where Gradio puts files; it has no reason to, see Gate.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_EXAMPLES_CACHE=folder)
        import uvicorn

        server = uvicorn.Server(
            uvicorn.Config(build_app(service, about), log_level='warning', timeout_graceful_shutdown=1)
        )
        # A thread that is not waited for long: a network that takes minutes must not keep Ctrl-C waiting.
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        with suppress(KeyboardInterrupt):
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            on_start()
            while thread.is_alive():
                thread.join(0.5)  # without a time, Windows would not hear of Ctrl-C
        server.should_exit = True
        thread.join(_PATIENCE)


def build_app(service: Service, about: About) -> ASGIApp:
    """Return everything that is served, as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI

    from gpen.demo.page import build_page, page_settings
    from gpen.demo.routes import Gate, build_router

    @asynccontextmanager
    async def sweep_regularly(_: FastAPI) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await asyncio.sleep(_SWEEP_SECONDS)
                service.store.sweep()

        task = asyncio.create_task(sweep())
        yield
        task.cancel()

    app = FastAPI(lifespan=sweep_regularly, openapi_url=None)
    app.include_router(build_router(service.store, about.max_bytes))
    return Gate(gr.mount_gradio_app(app, build_page(service, about), path='/', **page_settings()))


class _SigtermAsCtrlC:
    """While it is open, SIGTERM raises KeyboardInterrupt, so that the folder is removed."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
