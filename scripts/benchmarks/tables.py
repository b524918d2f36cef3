"""Measured values, their tables, and their JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpen.utils.files import write_text

_NONE = '-'


@dataclass(frozen=True)
class Cost:
    """Processor time of one image in seconds: the median of the repeats' means, and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, times: np.ndarray) -> Cost:
        """Summarise seconds, repeats x draws, with at least two draws."""
        error = times.std(ddof=1) / times.size**0.5
        # The standard error of a median of many normal values is sqrt(pi / 2) times that of their mean.
        factor = (np.pi / 2) ** 0.5 if len(times) > 2 else 1.0
        return cls(float(np.median(times.mean(axis=1))), float(error * factor))


@dataclass(frozen=True)
class Row:
    """The cost of one operation at one size (pixels): ours, and BasicSR's if it has the operation."""

    name: str
    size: int
    ours: Cost
    plain: Cost | None

    def ratio(self) -> tuple[float, float] | None:
        """Return how many times as fast ours is, and the standard error of that number."""
        if self.plain is None:
            return None
        ratio = self.plain.mean / self.ours.mean
        relative = np.hypot(self.plain.error / self.plain.mean, self.ours.error / self.ours.mean)
        return ratio, float(ratio * relative)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        ratio, error = self.ratio() or (None, None)
        return {**asdict(self), 'ratio': ratio, 'ratio_error': error}


def format_speeds(rows: Sequence[Row]) -> str:
    """Return images per second: a line for each name, three columns for each size."""
    sizes = sorted({row.size for row in rows})
    cells = {(row.name, row.size): _format_row(row, _format_speed) for row in rows}
    header = ['images/s per core', *(f'{size}: {title}' for size in sizes for title in ('ours', 'plain', 'ratio'))]
    names = list(dict.fromkeys(row.name for row in rows))
    return format_table([header, *([name, *(cell for size in sizes for cell in cells[name, size])] for name in names)])


def format_steps(rows: Sequence[Row]) -> str:
    """Return milliseconds per image: a line for each step."""
    lines = [[f'{row.name}, {row.size} x {row.size}', *_format_row(row, _format_milliseconds)] for row in rows]
    return format_table([['ms per image', 'ours', 'plain', 'ratio'], *lines])


def _format_row(row: Row, form: Any) -> list[str]:
    ratio = row.ratio()
    return [
        form(row.ours.mean),
        _NONE if row.plain is None else form(row.plain.mean),
        _NONE if ratio is None else f'{ratio[0]:.2f} ±{ratio[1]:.2f}',
    ]


def _format_speed(seconds: float) -> str:
    speed = 1 / seconds
    return f'{speed:.1f}' if speed < 100 else f'{speed:.0f}'


def _format_milliseconds(seconds: float) -> str:
    return f'{seconds * 1000:.2f}'


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, so that it is readable in a terminal too."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    justified = [
        [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in ([*zip(line, widths, strict=True)] for line in lines)
    ]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [justified[0], rule, *justified[1:]])


def write_json(path: str | None, numbers: dict[str, Any]) -> None:
    """Write all numbers to the file of ``--json``; a no-op without it."""
    if path:
        write_text(Path(path).expanduser(), json.dumps(numbers, indent=2) + '\n')
