"""The progress of the trials: a table that is redrawn on a terminal, and a line for each event elsewhere."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from gpen.tuning.curves import Curves
from gpen.tuning.judge import Judgement
from gpen.tuning.trial_run import TrialRun

PULSE = 1.0  # seconds
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
        is_terminal = stream.isatty()
        self._rows: dict[str, _Row] = {}
        self._lock = threading.RLock()
        self._console = Console(file=stream, force_terminal=is_terminal, markup=False, highlight=False, emoji=False)
        self._live = Live(console=self._console, get_renderable=self._draw, auto_refresh=False) if is_terminal else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh_regularly, daemon=True)

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a text, on a terminal above the table."""
        self._console.print(text, soft_wrap=True)

    def show(self, run: TrialRun, judgement: Judgement | None = None) -> None:
        """Show a trial: one to do, or one that is judged."""
        with self._lock:
            row = self._rows.setdefault(run.label, _Row(run, Curves()))
            row.judgement = judgement
            if judgement is not None:
                row.curves = run.read_curves()
                self._report(row, judgement.sentence)

    def _refresh_regularly(self) -> None:
        while not self._ended.wait(PULSE):
            with self._lock:
                for row in self._rows.values():
                    if row.judgement is None and row.run.output.exists():
                        row.curves = row.run.read_curves()
                        self._report_progress(row)
            if self._live:
                self._live.refresh()

    def _report_progress(self, row: _Row) -> None:
        """Report the start and each validation."""
        if len(row.curves.psnr.x) == row.validations:
            return
        is_start = row.validations < 0
        row.validations = len(row.curves.psnr.x)
        if is_start and not row.validations:
            self._report(row, 'started')
        else:
            cells = dict(zip(HEADER, _list_cells(row), strict=True))
            self._report(row, ', '.join(f'{name} {cells[name]}' for name in HEADER[1:5] if cells[name]))

    def _report(self, row: _Row, words: str) -> None:
        """Print a line about a trial; a no-op on a terminal, where the table tells it."""
        if self._live is None:
            self.say(f'{row.run.label}: {words}')

    def _draw(self) -> Table:
        """Return the table, with as many of the last trials as the terminal has room for."""
        columns = [Column(name, no_wrap=True) for name in HEADER]
        columns[-1].ratio = 1  # the verdict is cut where the window is narrow
        table = Table(*columns, box=None, expand=True)
        with self._lock:
            for row in list(self._rows.values())[-max(self._console.height - 3, 1) :]:
                table.add_row(*_list_cells(row))
        return table


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
