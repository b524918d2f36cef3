"""The progress of the trials: a table that is redrawn on a terminal, and a line for each event elsewhere."""

from __future__ import annotations

import math
import shutil
import threading
from dataclasses import dataclass
from typing import TextIO

from gpen.tuning.curves import Curves
from gpen.tuning.judge import Judgement
from gpen.tuning.trial_run import TrialRun

PULSE = 1.0  # seconds
WIDTHS = 26, 12, 9, 9, 9, 0
HEADER = 'trial', 'iterations', 'G loss', 'D loss', 'PSNR', 'verdict'


@dataclass
class _Row:
    run: TrialRun
    curves: Curves
    judgement: Judgement | None = None
    validations: int = -1  # number of those reported; -1: the start is not reported yet


class Display:
    """Shows trials (a context manager), read from the files that they write.

    Args:
        stream: standard output, or a file.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._rows: dict[str, _Row] = {}
        self._height = 0
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh_regularly, daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._refresh()

    def say(self, text: str) -> None:
        """Print a text above the table."""
        with self._lock:
            self._erase()
            self._stream.write(f'{text}\n')
            self._draw()

    def show(self, run: TrialRun, judgement: Judgement | None = None) -> None:
        """Show a trial: one to do, or one that is judged."""
        with self._lock:
            row = self._rows.setdefault(run.label, _Row(run, Curves()))
            row.judgement = judgement
            if judgement is not None:
                row.curves = run.read_curves()
                if not self._is_terminal:
                    self._stream.write(f'{run.label}: {judgement.sentence}\n')
            self._refresh()

    def _refresh_regularly(self) -> None:
        while not self._ended.wait(PULSE):
            with self._lock:
                for row in self._rows.values():
                    if row.judgement is None and row.run.output.exists():
                        row.curves = row.run.read_curves()
                        self._report(row)
                self._refresh()

    def _report(self, row: _Row) -> None:
        """Without a terminal, report the start and each validation."""
        if self._is_terminal or len(row.curves.psnr.x) == row.validations:
            return
        is_start = row.validations < 0
        row.validations = len(row.curves.psnr.x)
        if is_start and not row.validations:
            self._stream.write(f'{row.run.label}: started\n')
        else:
            cells = dict(zip(HEADER, _list_cells(row), strict=True))
            numbers = ', '.join(f'{name} {cells[name]}' for name in HEADER[1:5] if cells[name])
            self._stream.write(f'{row.run.label}: {numbers}\n')
        self._stream.flush()

    def _refresh(self) -> None:
        self._erase()
        self._draw()
        self._stream.flush()

    def _erase(self) -> None:
        if self._height:
            self._stream.write(f'\x1b[{self._height}A\x1b[J')
            self._height = 0

    def _draw(self) -> None:
        if not self._is_terminal or not self._rows:
            return
        size = shutil.get_terminal_size()
        rows = list(self._rows.values())[-max(size.lines - 3, 1) :]
        lines = [_join(HEADER), *(_join(_list_cells(row)) for row in rows)]
        for line in lines:
            self._stream.write(f'{line[: size.columns - 1]}\n')
        self._height = len(lines)


def _list_cells(row: _Row) -> tuple[str, ...]:
    """Return a trial as the cells of the table."""
    curves = row.curves
    done = max(curves.rates.x[-1:] + curves.psnr.x[-1:], default=0)
    state = 'running' if row.run.output.exists() else 'waiting'
    if row.judgement is not None:
        state = row.judgement.sentence

    return (
        row.run.label,
        f'{done}/{row.run.iterations}',
        _show_last(curves.generator.y, 4),
        _show_last(curves.discriminator.y, 3),
        _show_last(curves.psnr.y, 2),
        state,
    )


def _show_last(values: list[float], digits: int) -> str:
    if not values:
        return ''
    return f'{values[-1]:.{digits}f}' if math.isfinite(values[-1]) else 'not finite'


def _join(cells: tuple[str, ...]) -> str:
    return ' '.join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
