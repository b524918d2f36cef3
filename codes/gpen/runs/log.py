"""The log of a run, for people: to the screen and to ``train.log``.  Nothing reads it back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import MemoryHandler, WatchedFileHandler
from pathlib import Path
from typing import Any

from tqdm.contrib import DummyTqdmFile

from gpen.errors import describe_os_error

LOGGER = logging.getLogger('gpen')

RECORDED = {'is_recorded': True}
"""``extra`` of a warning that is recorded on its own already."""


class _WarningRecorder(logging.Handler):
    """Passes on warnings that are not recorded on their own, as soon as there is a function to pass them to."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._waiting: list[str] = []
        self._record: Callable[[str], None] = self._waiting.append

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and not getattr(record, 'is_recorded', False):
            self._record(record.getMessage())

    def pass_to(self, record_warning: Callable[[str], None]) -> None:
        """Call a function with each warning, those before this call too."""
        for sentence in self._waiting:
            record_warning(sentence)
        self._record = record_warning


class _LogFile(WatchedFileHandler):
    """``train.log``; it is made anew where it was removed, and one that cannot be written is said once, and left."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)  # which opens the file where it was removed
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002  (the name is logging's)
        error = sys.exc_info()[1]
        reason = describe_os_error(error, '')[0] if isinstance(error, OSError) else error
        self.setLevel(logging.CRITICAL + 1)
        LOGGER.warning('Warning: Cannot write %s: %s. The run goes on without it.', self.baseFilename, reason)

    def close(self) -> None:
        with suppress(OSError):  # of what was said already
            super().close()


class RunLog:
    """The log of a run (a context manager): to the screen at once, to a file as soon as there is a folder.

    Args:
        is_main: this process speaks for all that train together; the others say only what ends them.
    """

    def __init__(self, is_main: bool) -> None:
        self._screen = logging.StreamHandler(DummyTqdmFile(sys.stderr))  # prints above a progress bar
        self._screen.setFormatter(logging.Formatter('%(message)s'))
        self._screen.setLevel(logging.INFO if is_main else logging.ERROR)
        self._buffer = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
        self._warnings = _WarningRecorder()

    def __enter__(self) -> RunLog:
        self._before = LOGGER.level, LOGGER.propagate
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        for handler in (self._screen, self._buffer, self._warnings):
            LOGGER.addHandler(handler)
        return self

    def write_to(self, folder: Path) -> None:
        """Append all messages, those before this call too, to ``train.log`` in the folder."""
        file = _LogFile(folder / 'train.log', encoding='utf-8')
        file.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s', datefmt='%Y-%m-%d %H:%M:%S'))
        LOGGER.removeHandler(self._buffer)
        LOGGER.addHandler(file)
        self._buffer.setTarget(file)
        self._buffer.flush()

    def record_warnings(self, record_warning: Callable[[str], None]) -> None:
        """Call a function with each warning, those before this call too."""
        self._warnings.pass_to(record_warning)

    def __exit__(self, *_: object) -> None:
        for handler in list(LOGGER.handlers):
            LOGGER.removeHandler(handler)
            handler.close()
        level, LOGGER.propagate = self._before  # a program may run several trainings, or something else
        LOGGER.setLevel(level)
