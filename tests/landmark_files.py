"""Landmark files of tests."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

POINTS = ('left_eye', 'right_eye', 'nose', 'left_mouth', 'right_mouth')
COLUMNS = tuple(f'{point}_{axis}' for point in POINTS for axis in 'xy')
FACE = ((5.5, 6.5), (9.5, 6.5), (7.5, 8.5), (6.0, 11.5), (9.0, 11.5))
"""In an image of 16 x 16: the eyes are 4 pixels apart and 5 above the mouth."""


def write_landmarks(path: Path, names: Iterable[str], face: Any = FACE, **more: str) -> Path:
    """Write a row with the same face for each name; ``more`` are further columns."""
    numbers = [value for point in face for value in point]
    row = dict(zip(COLUMNS, numbers, strict=True))
    return write_rows(path, [{'name': name, **row, **more} for name in names])


def write_rows(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    with path.open('w', newline='', encoding='utf-8') as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path
