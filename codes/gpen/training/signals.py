"""Ctrl-C and SIGTERM: finish the step, save, and leave."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """While active (a context manager), the first SIGINT or SIGTERM is noted; a second one ends the program at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal_number = number
        for other, handler in self._previous.items():
            signal.signal(other, handler)

    @property
    def is_set(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    @property
    def name(self) -> str:
        """The signal as the user knows it."""
        return 'Ctrl-C' if self.signal_number == signal.SIGINT else 'SIGTERM'

    @property
    def exit_status(self) -> int:
        """128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal_number or 0)
