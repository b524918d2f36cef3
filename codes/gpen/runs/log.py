"""The log of a run, for people: to the screen and to ``train.log``.  Nothing reads it back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from logging.handlers import MemoryHandler
from pathlib import Path

from tqdm.contrib import DummyTqdmFile

LOGGER = logging.getLogger('gpen')

RECORDED = {'is_recorded': True}
"""``extra`` of a warning that is recorded on its own already."""


class _WarningRecorder(logging.Handler):
    """Passes on warnings that are not recorded on their own."""

    def __init__(self, record_warning: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._record_warning = record_warning

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING and not getattr(record, 'is_recorded', False):
            self._record_warning(record.getMessage())


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
        self._early: list[logging.LogRecord] = []

    def __enter__(self) -> RunLog:
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        LOGGER.addHandler(self._screen)
        LOGGER.addHandler(self._buffer)
        return self

    def write_to(self, folder: Path) -> None:
        """Append all messages, those before this call too, to ``train.log`` in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / 'train.log', encoding='utf-8')
        file.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(message)s', datefmt='%Y-%m-%d %H:%M:%S'))
        self._early = list(self._buffer.buffer)
        self._buffer.setTarget(file)
        self._buffer.flush()
        LOGGER.removeHandler(self._buffer)
        LOGGER.addHandler(file)

    def record_warnings(self, record_warning: Callable[[str], None]) -> None:
        """Call a function with each warning, those before this call too."""
        handler = _WarningRecorder(record_warning)
        for record in self._early:
            if record.levelno >= handler.level:
                handler.emit(record)
        LOGGER.addHandler(handler)

    def __exit__(self, *_: object) -> None:
        for handler in list(LOGGER.handlers):
            LOGGER.removeHandler(handler)
            handler.close()
