"""Ctrl-C and SIGTERM: finish the step, save, and leave."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from gpen.distributed.ranks import all_reduce_max


class StopRequest:
    """While active (a context manager), the first SIGINT or SIGTERM is noted; a second one ends the program at once.

    Ranks stop together: :meth:`all_reduce` tells every rank what one of them noted.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._reduced = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted = number
        self.__exit__()

    @property
    def is_noted(self) -> bool:
        """Whether a signal came to this rank."""
        return self._noted > 0

    def all_reduce(self) -> None:
        """All-reduce the stop flag, so that every rank stops after the same step."""
        self._reduced = all_reduce_max(self._noted)

    @property
    def is_set(self) -> bool:
        """Whether a signal came to any rank before the last :meth:`all_reduce`."""
        return self._reduced > 0

    @property
    def name(self) -> str:
        """The signal as the user knows it."""
        return 'Ctrl-C' if self._reduced == signal.SIGINT else 'SIGTERM'

    @property
    def exit_status(self) -> int:
        """128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self._reduced
