"""What Gradio's server can do and the page does not need is refused here; names of hosts are checked by Starlette.

A mounted Gradio application also fetches addresses of other hosts, copies any file of this computer that a call names
into its cache, takes any number of files in one request, waits forever for slow ones and keeps what came of them, and
accepts forms that other web sites send.
"""

import json
import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpen.demo.room import make_room

MAX_UPLOADS = 8
"""How many may come at once; one more waits, or takes the place of one that is slow."""

PATIENCE = 10.0
"""Seconds in which a body must bring ``_RATE`` bytes per second or end; an upload waits as long for its turn."""

_RATE = 1 << 15
_FAIR, _FAIR_RATE = 2.0, 1 << 18  # no upload is displaced in so many seconds, or with so many bytes per second
_MAX_CALL = 1 << 16  # bytes; the page's own calls have about a thousand
_FORM_BYTES = 1 << 12  # what a form has beside the file in it
# The browser loads nothing from other hosts, whatever Gradio's page would like to.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_FILE, _UPLOAD = '/gradio_api/file=', '/gradio_api/upload'
_CALLS = {'/gradio_api/queue/join', '/gradio_api/run/predict'}  # the second one takes clicks on examples alone
_PATHS = {'/', '/config', '/theme.css', '/favicon.ico', '/manifest.json', '/gradio_api/queue/data'}
_PREFIXES = ('/assets/', '/static/')
_FILE_TYPE = {'_type': 'gradio.FileData'}
_FULL = 'Many photographs are here already. Try again in a minute.'


def add_gate(app: FastAPI, folder: Path, max_bytes: int, hosts: Sequence[str]) -> None:
    """Let only those requests reach an application that its page makes.

    Args:
        app: with Gradio's page mounted at ``/``.
        folder: where uploads and results are; no other file is handed out or read.
        max_bytes: the largest file that may be uploaded.
        hosts: names that the page may be asked for by, as ``TrustedHostMiddleware`` takes them.
    """
    app.add_middleware(_Gate, folder=folder, max_bytes=max_bytes)
    app.add_middleware(_Hosts, allowed_hosts=list(hosts), www_redirect=False)  # comes first


class _Hosts(TrustedHostMiddleware):
    """Lets pass what asks for the page by an allowed name, or by the very address that it came to."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = re.sub(r':\d+$', '', Headers(scope=scope).get('host', '')) if scope['type'] == 'http' else ''
        is_own = host.strip('[]') == (scope.get('server') or ('',))[0]
        await (self.app if is_own else super().__call__)(scope, receive, send)


class _Gate:
    def __init__(self, app: ASGIApp, folder: Path, max_bytes: int) -> None:
        self._app, self._folder = app, folder
        self._limits = {_UPLOAD: max_bytes + _FORM_BYTES, **dict.fromkeys(_CALLS, _MAX_CALL)}
        self._uploads: set[_Body] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return

        is_answered = False

        async def reply(message: Message) -> None:
            nonlocal is_answered
            if message['type'] == 'http.response.start':
                is_answered = True
                _add_headers(message, scope['path'])
            await send(message)

        body = None
        try:
            length = self._check_head(scope)
            if length is not None:
                receive = body = _Body(receive, length)
                await self._check_body(scope['path'], body)
            await self._app(scope, receive, reply)
        except HTTPException as refusal:
            await PlainTextResponse(refusal.detail, refusal.status_code)(scope, receive, reply)
        except Exception:  # noqa: BLE001  (what Gradio raises at calls that no page makes would fill the log)
            if not is_answered:
                await PlainTextResponse('Not understood.', 400)(scope, receive, reply)
        finally:
            self._uploads.discard(body)  # type: ignore[arg-type]

    def _check_head(self, scope: Scope) -> int | None:
        """Return how many bytes the body of a request has; None is for a request that needs none."""
        path, headers = scope['path'], Headers(scope=scope)  # the path as routes see it, with what was encoded
        is_result = path.startswith(_FILE) and _is_below(path.removeprefix(_FILE), self._folder)
        if path not in _PATHS | self._limits.keys() and not path.startswith(_PREFIXES) and not is_result:
            raise HTTPException(404, 'Not here.')

        # Browsers tell where a request comes from whenever a script of another site makes it or it changes something.
        origin = headers.get('origin')
        if origin is not None and origin.partition('://')[2] != headers.get('host'):
            raise HTTPException(403, 'Not from another web site.')
        if scope['method'] in ('GET', 'HEAD'):
            # Gradio cannot read all ranges that HTTP has.
            scope['headers'] = [pair for pair in scope['headers'] if pair[0] != b'range']
            return None

        if scope['method'] != 'POST' or path not in self._limits:
            raise HTTPException(405, 'Not in this way.')
        length = headers.get('content-length', '')
        if not re.fullmatch('[0-9]{1,18}', length) or 'transfer-encoding' in headers:
            raise HTTPException(411, 'Without a length.')
        if int(length) > self._limits[path]:
            raise HTTPException(413, 'This file is too large.')
        return int(length)

    async def _check_body(self, path: str, body: '_Body') -> None:
        if path in _CALLS:
            if not is_harmless(await body.read(), self._folder):
                raise HTTPException(400, 'Not understood.')
            return

        with anyio.move_on_after(PATIENCE):
            while len(self._uploads) >= MAX_UPLOADS:
                slow = next((upload for upload in self._uploads if upload.is_slow), None)
                if slow is None:
                    await anyio.sleep(0.1)
                else:
                    slow.stop()
                    self._uploads.remove(slow)
        if len(self._uploads) >= MAX_UPLOADS:
            raise HTTPException(503, _FULL)

        body.start()
        self._uploads.add(body)
        coming = sum(upload.rest for upload in self._uploads)
        if not await anyio.to_thread.run_sync(make_room, self._folder, coming):
            raise HTTPException(503, _FULL)


class _Body:
    """The body of a request, as an application receives it.

    One that is too slow or ends too early raises ``MultiPartException``, at which Gradio deletes what it has of it.

    Args:
        receive: receives the next part.
        length: bytes.
    """

    def __init__(self, receive: Receive, length: int) -> None:
        self._receive = receive
        self.rest = length
        self._was_read: bytes | None = None
        self._is_whole = self._is_stopped = False
        self._scope = anyio.CancelScope()
        self.start()

    def start(self) -> None:
        """Count time and bytes from now on."""
        self._since, self._count = anyio.current_time(), 0

    def stop(self) -> None:
        """Let whoever receives this body give up."""
        self._is_stopped = True
        self._scope.cancel()

    @property
    def is_slow(self) -> bool:
        """Whether another one may take its place."""
        seconds = anyio.current_time() - self._since
        return seconds > _FAIR and self._count < seconds * _FAIR_RATE

    async def read(self) -> bytes:
        """Return all of it; it can be received once more."""
        parts = []
        try:
            while not self._is_whole:
                parts.append((await self())['body'])
        except MultiPartException as error:
            raise HTTPException(408, error.message) from error
        self._was_read = b''.join(parts)
        return self._was_read

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._was_read is not None:
            body, self._was_read = self._was_read, None
            return {'type': 'http.request', 'body': body, 'more_body': False}
        if self._is_whole:  # what is waited for is the visitor's leaving
            return await self._receive()

        with anyio.CancelScope(deadline=self._since + PATIENCE) as self._scope:
            message = await self._receive()
        if self._is_stopped or self._scope.cancelled_caught or message['type'] == 'http.disconnect':
            raise MultiPartException('This took too long. Try again.')
        size = len(message.get('body', b''))
        self.rest -= size
        self._count += size
        if self._count >= PATIENCE * _RATE:
            self.start()
        self._is_whole = not message.get('more_body', False)
        return message


def _add_headers(message: Message, path: str) -> None:
    headers = MutableHeaders(scope=message)
    headers['Content-Security-Policy'] = _POLICY
    headers['X-Content-Type-Options'] = 'nosniff'
    if path.startswith('/gradio_api/'):
        headers['Cache-Control'] = 'no-store'


def is_harmless(body: bytes, folder: Path) -> bool:
    """Whether the values of a queued call are words, numbers and files of ``folder``."""
    try:
        call = json.loads(body)
        json.dumps(call, allow_nan=False, ensure_ascii=False).encode()  # Gradio's answer could not have it otherwise
    except (ValueError, RecursionError):
        return False
    # A call of no session would stop Gradio's queue for everyone.
    session, values = (call.get('session_hash'), call.get('data')) if isinstance(call, dict) else (None, None)
    if not isinstance(session, str) or not re.fullmatch(r'\w{1,64}', session) or not isinstance(values, list):
        return False
    return all(_is_upload(value, folder) or value is None or isinstance(value, (str, int, float)) for value in values)


def _is_upload(value: Any, folder: Path) -> bool:
    # With exactly this type Gradio looks at no other part of the value.
    is_file = isinstance(value, dict) and value.get('meta') == _FILE_TYPE
    return is_file and isinstance(value.get('path'), str) and _is_below(value['path'], folder)


def _is_below(name: str, folder: Path) -> bool:
    return '..' not in Path(name).parts and Path(name).is_relative_to(folder)
