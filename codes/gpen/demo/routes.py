"""What the server answers, beside Gradio's own page: uploads, previews and downloads; and what it does not answer."""

from __future__ import annotations

import json
from threading import BoundedSemaphore
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpen.demo.photo import FACE_SIDE, Result, encode_preview
from gpen.demo.store import BusyError, Store, Upload

_FORGOTTEN = 'This result was forgotten: photographs are kept for a few minutes only. Drop it again.'
_PRIVATE = {'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff'}
_MAX_REQUEST = 1 << 16  # bytes; the page's own requests have less than a thousand
# The browser loads nothing from other hosts, whatever Gradio's page would like to.
_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_OPEN_PATHS = {'/', '/config', '/theme.css', '/favicon.ico', '/manifest.json', '/photo'}
_OPEN_PREFIXES = ('/assets/', '/static/', '/result/', '/gradio_api/heartbeat/')
_QUEUE_PATHS = {'/gradio_api/queue/join', '/gradio_api/queue/data'}


def build_router(store: Store, max_bytes: int) -> APIRouter:
    """Return the routes for uploads (POST /photo) and results (GET /result/KEY/...).

    Args:
        store: where uploads and results are.
        max_bytes: larger files are refused while they arrive.
    """
    router = APIRouter()
    encoders = BoundedSemaphore(2)  # a large photograph takes a GB while it is encoded

    @router.post('/photo')
    async def add_photo(request: Request) -> PlainTextResponse:
        # Other web sites can make a browser send forms and plain text here, but not this type.
        if request.headers.get('content-type') != 'application/octet-stream':
            raise HTTPException(415)
        data = await _read(request.receive, max_bytes)
        if data is None:
            raise HTTPException(413, 'too_large')
        try:
            return PlainTextResponse(store.add_upload(Upload(request.query_params.get('name', 'photograph'), data)))
        except BusyError as error:
            raise HTTPException(503, 'busy') from error

    @router.get('/result/{key}/{when}.jpg')
    def show(key: str, when: str) -> Response:
        result = _find(store, key)
        if when not in ('before', 'after'):
            raise HTTPException(404)
        return Response(result.before if when == 'before' else result.after, media_type='image/jpeg', headers=_PRIVATE)

    @router.get('/result/{key}/face/{number}/{when}.jpg')
    def show_face(key: str, number: int, when: str) -> Response:
        faces = _find(store, key).restoration.faces
        if when not in ('before', 'after') or not 0 <= number < len(faces):
            raise HTTPException(404)
        with encoders:
            data = encode_preview(faces[number].before if when == 'before' else faces[number].after, FACE_SIDE)
        return Response(data, media_type='image/jpeg', headers=_PRIVATE)

    @router.get('/result/{key}/restored.png')
    def download(key: str, strength: float = 1.0) -> Response:
        result = _find(store, key)
        if not 0 <= strength <= 1:  # also false for NaN
            raise HTTPException(422)
        with encoders:
            return Response(result.png(strength), media_type='image/png', headers=_PRIVATE)

    return router


def _find(store: Store, key: str) -> Result:
    result = store.find(key)
    if result is None:
        raise HTTPException(410, _FORGOTTEN)
    return result


class Gate:
    """Lets through what the page needs; everything else is 404.

    Gradio's server can also hand out files, fetch addresses of other hosts, take uploads onto the disk, and show its
    calls and its traffic.

    Args:
        app: what answers the rest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope['type'] == 'lifespan':
            await self._app(scope, receive, send)
            return
        path = scope.get('path', '')
        if scope['type'] != 'http' or not is_open(path):
            await _refuse(404, scope, receive, send)
            return
        if path in _QUEUE_PATHS and scope['method'] == 'POST':
            body = await _read(receive, _MAX_REQUEST)
            if body is None or not is_plain(body):
                await _refuse(400, scope, receive, send)
                return
            receive = _repeat(body, receive)

        async def send_with_policy(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = [*message.get('headers', []), (b'content-security-policy', _POLICY)]
                message = {**message, 'headers': headers}
            await send(message)

        await self._app(scope, receive, send_with_policy)


def is_open(path: str) -> bool:
    """Whether the page needs this path."""
    return path in _OPEN_PATHS or path in _QUEUE_PATHS or path.startswith(_OPEN_PREFIXES)


def is_plain(body: bytes) -> bool:
    """Whether the values of a queued call are words and numbers: Gradio would fetch what a file object names."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return False
    values = call.get('data') if isinstance(call, dict) else None
    return isinstance(values, list) and all(value is None or isinstance(value, (str, int, float)) for value in values)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Return a request's body; None where it has more bytes than ``limit`` or its sender went away."""
    body = bytearray()
    while True:
        message = await receive()
        if message['type'] != 'http.request':
            return None
        body += message.get('body', b'')
        if len(body) > limit:
            return None
        if not message.get('more_body', False):
            return bytes(body)


def _repeat(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body that was read already, then what comes after it."""
    pending: list[Message] = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


async def _refuse(status: int, scope: Scope, receive: Receive, send: Send) -> None:
    response: Any = PlainTextResponse('Not here.' if status == 404 else 'Not understood.', status)
    await response(scope, receive, send)
