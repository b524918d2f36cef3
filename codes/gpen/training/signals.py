"""Ctrl-C, SIGTERM, SIGHUP and the like: finish the step, save, and leave."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

from gpen.distributed.ranks import all_reduce_max
from gpen.utils.stop_signals import IMPATIENT, STOP_SIGNALS


class StopRequest:
    """While active (a context manager), the first of the stop signals is noted.

    A second Ctrl-C, SIGTERM or SIGQUIT ends the program at once.  A signal that is ignored, as SIGHUP is under
    ``nohup``, stays so; not Ctrl-C and SIGTERM, since shells ignore Ctrl-C for what they start in the background.

    Ranks stop together: :meth:`all_reduce` tells every rank what one of them noted.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._reduced = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        always = (signal.SIGINT, signal.SIGTERM)
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if number in always or handler not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back(STOP_SIGNALS)

    def _put_back(self, numbers: Iterable[int]) -> None:
        for number in self._previous.keys() & set(numbers):
            signal.signal(number, self._previous.pop(number))

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted = self._noted or number
        if number in IMPATIENT:
            self._put_back(IMPATIENT)

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
        return 'Ctrl-C' if self._reduced == signal.SIGINT else signal.Signals(self._reduced).name

    @property
    def exit_status(self) -> int:
        """128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + self._reduced
