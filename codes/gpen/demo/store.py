"""What the page remembers: uploads until they are read, and one result per open tab. All of it in memory."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from gpen.demo.photo import Result

LIFETIME = 15 * 60.0
"""Seconds after which what nobody asked for is forgotten."""
MAX_WAITING = 8
"""Uploads that wait for their turn."""
MEMORY = 2 << 30
"""Bytes that results may take together; the newest one is kept whatever its size."""


class BusyError(Exception):
    """Too many uploads wait already."""


@dataclass(frozen=True)
class Upload:
    """A file that somebody dropped on the page.

    Attributes:
        name: as the browser told it; any text.
        data: the bytes of the file.
    """

    name: str
    data: bytes


@dataclass
class _Entry:
    session: str
    result: Result
    used: float


class Store:
    """Uploads and results, each under a key that cannot be guessed. Its methods can be called from any thread.

    Args:
        lifetime: seconds after which what nobody asked for is forgotten.
        memory: bytes that results may take together.
        clock: seconds from any start.
    """

    def __init__(
        self, lifetime: float = LIFETIME, memory: int = MEMORY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lifetime = lifetime
        self._memory = memory
        self._clock = clock
        self._lock = Lock()
        self._uploads: dict[str, tuple[Upload, float]] = {}
        self._results: dict[str, _Entry] = {}  # the one that was used longest ago comes first

    def add_upload(self, upload: Upload) -> str:
        """Keep an upload until it is taken; return its key.

        Raises:
            BusyError: too many wait already.
        """
        self.sweep()
        with self._lock:
            if len(self._uploads) >= MAX_WAITING:
                raise BusyError
            key = secrets.token_urlsafe(16)
            self._uploads[key] = upload, self._clock()
        return key

    def take_upload(self, key: str) -> Upload | None:
        """Return an upload and forget it; None where there is none."""
        with self._lock:
            return self._uploads.pop(key, (None, 0.0))[0]

    def keep(self, session: str, result: Result) -> str:
        """Keep a result in place of the session's last one; return its key."""
        self.close(session)
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._results[key] = _Entry(session, result, self._clock())
            total = sum(entry.result.num_bytes for entry in self._results.values())
            for old in list(self._results)[:-1]:
                if total <= self._memory:
                    break
                total -= self._results.pop(old).result.num_bytes
        return key

    def find(self, key: str) -> Result | None:
        """Return a result; None where it was forgotten."""
        self.sweep()
        with self._lock:
            entry = self._results.pop(key, None)
            if entry is None:
                return None
            entry.used = self._clock()
            self._results[key] = entry  # now the last
            return entry.result

    def find_session(self, session: str) -> Result | None:
        """Return the result of a session; None where it has none."""
        with self._lock:
            key = next((key for key, entry in self._results.items() if entry.session == session), '')
        return self.find(key)

    def close(self, session: str) -> None:
        """Forget what a session has, because its tab was closed."""
        with self._lock:
            self._results = {key: entry for key, entry in self._results.items() if entry.session != session}

    def sweep(self) -> None:
        """Forget what nobody asked for during the lifetime."""
        with self._lock:
            oldest = self._clock() - self._lifetime
            self._uploads = {key: value for key, value in self._uploads.items() if value[1] >= oldest}
            self._results = {key: entry for key, entry in self._results.items() if entry.used >= oldest}
