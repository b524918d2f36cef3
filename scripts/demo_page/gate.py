"""What Gradio's server can do and the page does not need is refused here; hosts are checked by Starlette.

A mounted Gradio application also fetches addresses of other hosts, copies any file of this computer that a call names
into its cache, takes any number of files in one request, and accepts forms that other web sites send.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

MAX_STORED = 2 << 30
"""Bytes of uploads and results together, from which on uploads are refused."""

_MAX_CALL = 1 << 16  # bytes; the page's own calls have about a thousand
_FORM_BYTES = 1 << 12  # what a form has beside the file in it
# The browser loads nothing from other hosts, whatever Gradio's page would like to.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_FILE, _UPLOAD = '/gradio_api/file=', '/gradio_api/upload'
_CALLS = {'/gradio_api/queue/join', '/gradio_api/run/predict'}  # the second one takes clicks on examples alone
_PATHS = {'/', '/config', '/theme.css', '/favicon.ico', '/manifest.json', '/gradio_api/queue/data', _UPLOAD, *_CALLS}
_PREFIXES = ('/assets/', '/static/', '/gradio_api/heartbeat/', '/gradio_api/upload_progress')
_FILE_TYPE = {'_type': 'gradio.FileData'}


def add_gate(app: FastAPI, folder: Path, max_bytes: int, hosts: Sequence[str]) -> None:
    """Let only those requests reach an application that its page makes.

    Args:
        app: with Gradio's page mounted at ``/``.
        folder: where uploads and results are; no other file is handed out or read.
        max_bytes: the largest file that may be uploaded.
        hosts: names that the page may be asked for by, as ``TrustedHostMiddleware`` takes them.
    """

    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        refusal = await _find_refusal(request, folder, max_bytes)
        response = PlainTextResponse(refusal[1], refusal[0]) if refusal else await call_next(request)
        response.headers['Content-Security-Policy'] = _POLICY
        response.headers['X-Content-Type-Options'] = 'nosniff'
        if request.scope['path'].startswith('/gradio_api/'):
            response.headers['Cache-Control'] = 'no-store'
        return response

    app.middleware('http')(pass_on)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)  # comes first


async def _find_refusal(request: Request, folder: Path, max_bytes: int) -> tuple[int, str] | None:
    """Return the status and the reason with which a request is refused; None where it is answered."""
    path = request.scope['path']  # as routes see it; request.url would end it at an encoded question mark
    is_result = path.startswith(_FILE) and _is_below(path.removeprefix(_FILE), folder)
    if path not in _PATHS and not path.startswith(_PREFIXES) and not is_result:
        return 404, 'Not here.'
    if request.method in ('GET', 'HEAD'):
        return None

    # Browsers tell where a request comes from whenever it changes something.
    origin = request.headers.get('origin')
    if origin is not None and origin.partition('://')[2] != request.headers.get('host'):
        return 403, 'Not from another web site.'
    length = request.headers.get('content-length', '')
    if not length.isdecimal():
        return 411, 'Without a length.'
    if int(length) > (max_bytes + _FORM_BYTES if path == _UPLOAD else _MAX_CALL):
        return 413, 'This file is too large.'
    if path == _UPLOAD and _measure(folder) > MAX_STORED:
        return 503, 'Many photographs are here already. Try again in some minutes.'
    if path in _CALLS and not is_harmless(await request.body(), folder):
        return 400, 'Not understood.'
    return None


def is_harmless(body: bytes, folder: Path) -> bool:
    """Whether the values of a queued call are words, numbers and files of ``folder``."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return False
    values = call.get('data') if isinstance(call, dict) else None
    return isinstance(values, list) and all(
        _is_upload(value, folder) or value is None or isinstance(value, (str, int, float)) for value in values
    )


def _is_upload(value: Any, folder: Path) -> bool:
    # With exactly this type Gradio looks at no other part of the value.
    is_file = isinstance(value, dict) and value.get('meta') == _FILE_TYPE
    return is_file and isinstance(value.get('path'), str) and _is_below(value['path'], folder)


def _is_below(name: str, folder: Path) -> bool:
    return '..' not in Path(name).parts and Path(name).is_relative_to(folder)


def _measure(folder: Path) -> int:
    """Return how many bytes the files below a folder have."""
    total = 0
    for path in folder.rglob('*'):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:  # it was deleted just now
            continue
    return total
