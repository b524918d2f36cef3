"""What ends a run between two steps, on all ranks together: a signal such as Ctrl-C, or data that cannot be read."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

from gpen.distributed.ranks import all_reduce_max
from gpen.errors import UserError
from gpen.utils.stop_signals import IMPATIENT, STOP_SIGNALS

_FAILURE = 1 << 16  # above all signals


class StopRequest:
    """While active (a context manager), the first of the stop signals is noted.

    A second Ctrl-C, SIGTERM or SIGQUIT ends the program at once.  A signal that is ignored, as SIGHUP is under
    ``nohup``, stays so; not Ctrl-C and SIGTERM, since shells ignore Ctrl-C for what they start in the background.

    Ranks stop together: :meth:`all_reduce` tells every rank what one of them noted.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._reduced = 0
        self._failure: UserError | None = None
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

    def note_failure(self, error: UserError) -> None:
        """Note that this rank cannot go on."""
        self._failure = error
        self._noted = _FAILURE

    @property
    def has_failed(self) -> bool:
        """Whether any rank could not go on at the last :meth:`all_reduce`."""
        return self._reduced == _FAILURE

    def raise_failure(self) -> None:
        """Raise what was noted on this rank, if anything."""
        if self._failure is not None:
            raise self._failure

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
