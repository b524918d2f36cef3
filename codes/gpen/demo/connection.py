"""Connections that do nothing are closed; uvicorn itself waits for them forever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200
"""How many are open at once; above, the one that has waited longest without a request is closed."""

PATIENCE = 15.0
"""Seconds to send the head of a request in, and to take up what was sent (the buffer has some 64 kB)."""


class Connection(H11Protocol):
    """A connection that ends when its visitor sends no request or does not read the answer."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._timer: asyncio.TimerHandle | None = None
        self._is_stuck = False
        self._waiting_since = self.loop.time()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        others = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        if len(others) > MAX_CONNECTIONS:
            idle = [other for other in others if other._is_idle]  # this one, if no other
            min(idle, key=lambda other: other._waiting_since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_stuck = True
        self._wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_stuck = False
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self._is_idle or self._is_stuck:
            self.transport.abort()
